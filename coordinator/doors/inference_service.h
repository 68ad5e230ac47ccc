// InferenceService: the native gRPC door, interlace.v1.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "coordinator/doors/frontend.h"

namespace interlace {

// A callback service; the gRPC deadline of a call is its request's deadline. Owned by main.
std::unique_ptr<grpc::Service> MakeInferenceService(Frontend& frontend);

}  // namespace interlace
