#include "kvstore/remote/kv_store_service.h"

#include <utility>

#include "absl/synchronization/mutex.h"
#include "common/log.h"

namespace interlace {

// One client's stream, deleted by gRPC's OnDone. The first request opens the session; the end of the stream closes it.
class KvStoreService::Stream final : public grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachReply> {
 public:
  explicit Stream(KvStoreService& service) : service_(service) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    if (!ok) return End();
    if (session_ == SessionId{0}) {
      incarnation_ = request_.incarnation();
      session_ = service_.sessions_.Open();
      LOG(INFO) << "client attached" << Field("incarnation", incarnation_);
      reply_.set_transport_address(service_.transport_.address());
      reply_.set_incarnation(service_.incarnation_);
      reply_.set_session(static_cast<uint64_t>(session_));
      reply_.set_capacity_bytes(service_.tiers_.back()->Usage().capacity_bytes);
      reply_.set_room_bytes(service_.intake_.RoomBytes());
      StartWrite(&reply_);
    }
    StartRead(&request_);
  }
  void OnCancel() override { End(); }
  void OnDone() override {
    if (session_ != SessionId{0}) {
      LOG(INFO) << "client detached" << Field("incarnation", incarnation_);
      service_.sessions_.Close(session_);
    }
    delete this;
  }

 private:
  void End() {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(ended_, true)) return;
    }
    Finish(grpc::Status::OK);
  }

  KvStoreService& service_;
  v1::AttachRequest request_;
  v1::AttachReply reply_;
  SessionId session_{0};
  uint64_t incarnation_ = 0;
  absl::Mutex mutex_;
  bool ended_ = false;  // protected by mutex_
};

KvStoreService::KvStoreService(std::vector<KvTier*> tiers, StoreSessions& sessions, const RequestIntake& intake,
                               const Transport& transport, uint64_t incarnation)
    : tiers_(std::move(tiers)),
      sessions_(sessions),
      intake_(intake),
      transport_(transport),
      incarnation_(incarnation) {}

grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachReply>* KvStoreService::Attach(
    grpc::CallbackServerContext* context) {
  return new Stream(*this);
}

grpc::ServerUnaryReactor* KvStoreService::Usage(grpc::CallbackServerContext* context, const v1::UsageRequest* request,
                                                v1::UsageReply* reply) {
  for (KvTier* one : tiers_) {
    const TierUsage usage = one->Usage();
    v1::TierUsageMessage* tier = reply->add_tiers();
    tier->set_name(std::string(one->name()));
    tier->set_blocks(usage.blocks);
    tier->set_bytes(usage.bytes);
    tier->set_capacity_bytes(usage.capacity_bytes);
  }
  reply->set_clients(sessions_.count());
  reply->set_malformed_messages(intake_.malformed());
  const RefusalCounts refused = transport_.Refused();
  reply->mutable_refused()->Assign(refused.begin(), refused.end());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace interlace
