// What UCX finds on this machine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace interlace {

struct UcxDevice {
  std::string transport;  // "tcp", "rc_mlx5", "posix"
  std::string device;     // "eth0", "mlx5_0:1", "memory"
  bool network = false;   // it reaches other machines
  bool rdma = false;      // over InfiniBand or RoCE
};

// Each transport of UCX with each device it may use here. Unavailable: UCX cannot be asked.
absl::StatusOr<std::vector<UcxDevice>> ListUcxDevices();

}  // namespace interlace
