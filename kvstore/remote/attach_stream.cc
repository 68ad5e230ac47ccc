#include "kvstore/remote/attach_stream.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/cluster_security.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "proto/kv.grpc.pb.h"

namespace interlace {

// What gRPC's threads tell the owner. Outlives the reactor, whose last callback still touches it.
struct AttachStream::Progress {
  absl::Mutex mutex;
  bool answered = false;                          // protected by mutex
  bool ended = false;                             // protected by mutex; gRPC is done with the reactor
  absl::Status status;                            // protected by mutex; why it ended
  absl::AnyInvocable<void(absl::Status)> broken;  // protected by mutex; set once Open has succeeded
  bool AnsweredOrEnded() const { return answered || ended; }
};

// Dies on its owner's thread: gRPC 1.51 must not release a channel (which the context and the stub hold) on a thread of
// its own callbacks, since the last channel joins those.
struct AttachStream::Reactor final : grpc::ClientBidiReactor<v1::AttachRequest, v1::AttachReply> {
  explicit Reactor(std::shared_ptr<Progress> progress) : progress(std::move(progress)) {}

  const std::shared_ptr<Progress> progress;
  std::unique_ptr<v1::KvStore::Stub> stub;
  grpc::ClientContext context;
  v1::AttachRequest request;
  v1::AttachReply reply;
  v1::AttachReply ignored;

  void OnReadDone(bool ok) override {
    if (!ok) return;  // OnDone follows
    {
      absl::MutexLock lock(&progress->mutex);
      progress->answered = true;
    }
    StartRead(&ignored);  // nothing more is expected: a read that fails means that the stream broke
  }

  void OnDone(const grpc::Status& why) override {
    const std::shared_ptr<Progress> kept = progress;
    const absl::Status status = why.ok() ? absl::UnavailableError("the store ended the session") : FromGrpcStatus(why);
    absl::AnyInvocable<void(absl::Status)> call;
    {
      absl::MutexLock lock(&kept->mutex);
      call = std::exchange(kept->broken, nullptr);
      kept->status = status;
    }
    if (call) call(status);
    call = nullptr;
    absl::MutexLock lock(&kept->mutex);
    kept->ended = true;
  }
};

absl::StatusOr<std::unique_ptr<AttachStream>> AttachStream::Open(const Options& options,
                                                                 absl::AnyInvocable<void(absl::Status)> broken) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection, without an old one's back-off
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);       // a store that hangs is noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.security != nullptr) {
    ASSIGN_OR_RETURN(credentials, options.security->ChannelCredentials(&arguments));
  }
  auto stream = std::unique_ptr<AttachStream>(new AttachStream);
  stream->progress_ = std::make_shared<Progress>();
  stream->reactor_ = std::make_unique<Reactor>(stream->progress_);
  Reactor& reactor = *stream->reactor_;
  reactor.stub = v1::KvStore::NewStub(grpc::CreateCustomChannel(options.control_address, credentials, arguments));
  reactor.request.set_transport_address(options.transport_address);
  reactor.request.set_incarnation(options.incarnation);
  reactor.stub->async()->Attach(&reactor.context, &reactor);
  reactor.StartWrite(&reactor.request);
  reactor.StartRead(&reactor.reply);
  reactor.StartCall();

  // Taken after `stream` was made: when Open fails, the lock is released before the stream waits for its end.
  Progress& progress = *stream->progress_;
  absl::MutexLock lock(&progress.mutex);
  const bool timely =
      progress.mutex.AwaitWithTimeout(absl::Condition(&progress, &Progress::AnsweredOrEnded), options.timeout);
  if (!timely) return absl::UnavailableError(absl::StrCat("no answer within ", absl::FormatDuration(options.timeout)));
  if (progress.ended) return progress.status;
  progress.broken = std::move(broken);
  stream->session_ = {reactor.reply.transport_address(), reactor.reply.incarnation(), reactor.reply.session(),
                      reactor.reply.capacity_bytes(), reactor.reply.room_bytes()};
  return stream;
}

AttachStream::AttachStream() = default;

AttachStream::~AttachStream() {
  {
    absl::MutexLock lock(&progress_->mutex);
    progress_->broken = nullptr;
  }
  reactor_->context.TryCancel();
  absl::MutexLock lock(&progress_->mutex);
  progress_->mutex.Await(absl::Condition(&progress_->ended));
}

}  // namespace interlace
