#include "kvstore/transport/attach_stream.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/grpc_status.h"
#include "proto/kv.grpc.pb.h"

namespace interlace {

// Keeps itself alive until gRPC is done with it.
struct AttachStream::Reactor final : grpc::ClientBidiReactor<v1::AttachRequest, v1::AttachReply> {
  std::unique_ptr<v1::KvStore::Stub> stub;
  grpc::ClientContext context;
  v1::AttachRequest request;
  v1::AttachReply reply;
  v1::AttachReply ignored;
  std::shared_ptr<Reactor> self;  // until OnDone

  absl::Mutex mutex;
  bool answered = false;                          // protected by mutex
  bool ended = false;                             // protected by mutex
  absl::Status status;                            // protected by mutex; why it ended
  absl::AnyInvocable<void(absl::Status)> broken;  // protected by mutex; set once Open has succeeded
  bool AnsweredOrEnded() const { return answered || ended; }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // OnDone follows
    {
      absl::MutexLock lock(&mutex);
      answered = true;
    }
    StartRead(&ignored);  // nothing more is expected: a read that fails means that the stream broke
  }

  void OnDone(const grpc::Status& why) override {
    absl::AnyInvocable<void(absl::Status)> call;
    absl::Status as = why.ok() ? absl::UnavailableError("the store ended the lease") : FromGrpcStatus(why);
    {
      absl::MutexLock lock(&mutex);
      call = std::move(broken);
      broken = nullptr;
      status = as;
    }
    if (call) call(as);
    const std::shared_ptr<Reactor> last = std::move(self);
    absl::MutexLock lock(&mutex);
    ended = true;
  }
};

absl::StatusOr<std::unique_ptr<AttachStream>> AttachStream::Open(const std::string& control_address,
                                                                 const std::string& transport_address,
                                                                 uint64_t incarnation, absl::Duration timeout,
                                                                 absl::AnyInvocable<void(absl::Status)> broken) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection, without an old one's back-off
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);       // a store that hangs is noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto reactor = std::make_shared<Reactor>();
  reactor->stub =
      v1::KvStore::NewStub(grpc::CreateCustomChannel(control_address, grpc::InsecureChannelCredentials(), arguments));
  reactor->request.set_transport_address(transport_address);
  reactor->request.set_incarnation(incarnation);
  reactor->self = reactor;
  reactor->stub->async()->Attach(&reactor->context, reactor.get());
  reactor->StartWrite(&reactor->request);
  reactor->StartRead(&reactor->reply);
  reactor->StartCall();

  auto stream = std::unique_ptr<AttachStream>(new AttachStream);
  stream->reactor_ = reactor;
  absl::MutexLock lock(&reactor->mutex);
  const bool timely =
      reactor->mutex.AwaitWithTimeout(absl::Condition(reactor.get(), &Reactor::AnsweredOrEnded), timeout);
  if (!timely) return absl::UnavailableError(absl::StrCat("no answer within ", absl::FormatDuration(timeout)));
  if (reactor->ended) return reactor->status;
  reactor->broken = std::move(broken);
  stream->lease_ = {reactor->reply.transport_address(), reactor->reply.incarnation(), reactor->reply.lease()};
  return stream;
}

AttachStream::~AttachStream() {
  {
    absl::MutexLock lock(&reactor_->mutex);
    reactor_->broken = nullptr;
  }
  reactor_->context.TryCancel();
  absl::MutexLock lock(&reactor_->mutex);
  reactor_->mutex.Await(absl::Condition(&reactor_->ended));
}

}  // namespace interlace
