#include "coordinator/front/kv_event_stream.h"

#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "coordinator/kv_events/kv_event_msgpack.h"

namespace interlace {
namespace {

namespace wire = smg::grpc::common;

wire::KvCacheTier TierOf(KvMedium medium) {
  return medium == KvMedium::kDevice ? wire::KV_CACHE_TIER_DEVICE : wire::KV_CACHE_TIER_HOST;
}
int32_t LevelOf(KvMedium medium) { return medium == KvMedium::kDevice ? 0 : 1; }

void Fill(const KvEvent& event, wire::KvBlocksStored* out) {
  if (event.parent) out->set_parent_block_hash(*event.parent);
  out->set_tier(TierOf(event.medium));
  out->set_medium(MediumName(event.medium));
  out->set_locality(wire::KV_CACHE_LOCALITY_LOCAL);
  if (event.adapter) out->set_lora_name(event.adapter->name);
  const auto size = static_cast<size_t>(event.block_tokens);
  for (size_t b = 0; b < event.blocks.size(); ++b) {
    wire::KvBlock* block = out->add_blocks();
    block->set_block_hash(event.blocks[b]);
    block->set_block_size(event.block_tokens);
    block->set_cache_level(LevelOf(event.medium));
    if (event.adapter) block->set_lora_id(event.adapter->id);
    if (event.tokens.empty()) continue;
    const auto begin = event.tokens.begin() + static_cast<ptrdiff_t>(b * size);
    block->mutable_token_ids()->Assign(begin, begin + static_cast<ptrdiff_t>(size));
  }
}

void Fill(const KvEvent& event, wire::KvBlocksRemoved* out) {
  out->mutable_block_hashes()->Assign(event.blocks.begin(), event.blocks.end());
  out->set_cache_level(LevelOf(event.medium));
  out->set_tier(TierOf(event.medium));
  out->set_medium(MediumName(event.medium));
  out->set_locality(wire::KV_CACHE_LOCALITY_LOCAL);
}

wire::KvEventBatch ToWire(const KvEventBatch& batch) {
  wire::KvEventBatch out;
  out.set_sequence_number(batch.number);
  out.set_timestamp(batch.time);
  out.set_dp_rank(0);
  if (batch.snapshot) {
    out.mutable_snapshot()->set_index(batch.snapshot->index);
    out.mutable_snapshot()->set_count(batch.snapshot->count);
    out.mutable_snapshot()->set_blocks(batch.snapshot->blocks);
  }
  uint64_t id = batch.first_event;
  for (const KvEvent& event : batch.events) {
    wire::KvCacheEvent* one = out.add_events();
    if (batch.first_event > 0) one->set_event_id(id++);
    if (event.kind == KvEvent::Kind::kStored) Fill(event, one->mutable_stored());
    if (event.kind == KvEvent::Kind::kRemoved) Fill(event, one->mutable_removed());
    if (event.kind == KvEvent::Kind::kCleared) one->mutable_cleared();
  }
  return out;
}

// Ends a call that never was a subscription.
class Refusal final : public KvEventStreams::Reactor {
 public:
  explicit Refusal(const absl::Status& why) { Finish(ToGrpcStatus(why)); }
  void OnDone() override { delete this; }
};

}  // namespace

// One subscription. Holds itself until gRPC is done with it. Its state belongs to the log's executor, where gRPC's
// calls are posted. One write is in flight; what the client does not take stays in the log, or is lost to it.
class KvEventStreams::Stream final : public Reactor, public std::enable_shared_from_this<Stream> {
 public:
  Stream(KvEventLog& log, std::shared_ptr<OpenStreams> open) : log_(log), open_(std::move(open)) {}
  void Begin(uint64_t start) {
    self_ = shared_from_this();
    log_.executor().Post([self = self_, start] { self->Subscribe(start); });
  }
  // On the executor, as what follows.
  void End(const absl::Status& why) {
    if (!final_) final_ = why;
    Advance();
  }

  void OnWriteDone(bool ok) override {
    log_.executor().Post([self = shared_from_this(), ok] {
      self->writing_ = false;
      if (!ok) self->final_ = absl::CancelledError("the client is gone");
      self->Advance();
    });
  }
  void OnCancel() override {
    log_.executor().Post([self = shared_from_this()] { self->End(absl::CancelledError("the client cancelled")); });
  }
  void OnDone() override {
    log_.executor().Post([self = std::move(self_)] { self->Leave(); });
  }

 private:
  void Subscribe(uint64_t start);
  void Leave();
  void Advance();
  KvEventLog::Batch Next();

  KvEventLog& log_;
  const std::shared_ptr<OpenStreams> open_;
  std::shared_ptr<Stream> self_;  // until OnDone
  std::optional<uint64_t> listening_;
  uint64_t number_ = 0;  // of the last batch that it has, once it has the snapshot
  std::shared_ptr<const std::vector<KvEventLog::Batch>> snapshot_;  // null: it needs none, or has it
  size_t parts_ = 0;                                                // of the snapshot that it has
  wire::KvEventBatch message_;                                      // in flight while writing_
  std::optional<absl::Status> final_;
  bool writing_ = false;
  bool finished_ = false;
};

struct KvEventStreams::OpenStreams {
  std::set<Stream*> streams;
  std::optional<absl::Status> over;
};

void KvEventStreams::Stream::Subscribe(uint64_t start) {
  if (open_->over) return End(*open_->over);
  if (open_->streams.size() >= kMostSubscribers) {
    return End(absl::ResourceExhaustedError(absl::StrCat("there are ", kMostSubscribers, " subscribers already")));
  }
  open_->streams.insert(this);
  if (start == 0) {
    snapshot_ = log_.Snapshot();
    number_ = log_.last();
  } else if (log_.Reaches(start)) {
    number_ = start;
  } else {
    log_.NoteUnknown();
    return End(absl::OutOfRangeError(absl::StrCat("start_sequence_number: the batches behind ", start,
                                                  " are not kept, or not of this process; the "
                                                  "last one is ",
                                                  log_.last(), "; subscribe with 0 for a snapshot")));
  }
  listening_ = log_.Listen([this] { Advance(); });
  Advance();
}

void KvEventStreams::Stream::Leave() {
  if (listening_) log_.Ignore(*listening_);
  open_->streams.erase(this);
}

KvEventLog::Batch KvEventStreams::Stream::Next() {
  if (snapshot_ != nullptr) {
    const KvEventLog::Batch part = (*snapshot_)[parts_++];
    if (parts_ == snapshot_->size()) snapshot_ = nullptr;
    return part;
  }
  if (!log_.Reaches(number_)) {
    log_.NoteBehind();
    final_ = absl::DataLossError(absl::StrCat("the subscriber fell behind: batch ", number_ + 1,
                                              " is not kept any more; subscribe anew with 0"));
    return nullptr;
  }
  const KvEventLog::Batch batch = log_.After(number_);
  if (batch != nullptr) number_ = batch->number;
  return batch;
}

void KvEventStreams::Stream::Advance() {
  while (!writing_ && !finished_) {
    const KvEventLog::Batch batch = final_ ? nullptr : Next();
    if (batch != nullptr) {
      message_ = ToWire(*batch);
      writing_ = true;
      StartWrite(&message_);
    } else if (final_) {
      finished_ = true;
      Finish(ToGrpcStatus(*final_));
    } else {
      return;
    }
  }
}

KvEventStreams::KvEventStreams(KvEventLog& log) : log_(log), open_(std::make_shared<OpenStreams>()) {}
KvEventStreams::~KvEventStreams() = default;

KvEventStreams::Reactor* KvEventStreams::Open(uint64_t start) {
  auto stream = std::make_shared<Stream>(log_, open_);
  stream->Begin(start);
  return stream.get();
}

void KvEventStreams::End(const absl::Status& why) {
  log_.executor().Post([open = open_, why] {
    open->over = why;
    for (Stream* stream : std::set<Stream*>(open->streams)) stream->End(why);
  });
}

KvEventStreams::Reactor* KvEventStreams::Refuse(const absl::Status& why) { return new Refusal(why); }

}  // namespace interlace
