#include "transport/shared_collective.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "transport/shared_bell.h"
#include "transport/shared_segment.h"

namespace interlace {
namespace {

constexpr absl::string_view kFormat = "shm1";
constexpr int64_t kCacheLine = 64;
constexpr int64_t kPage = 4096;
constexpr int kPlaces = 2;
constexpr uint64_t kInterrupted = ~uint64_t{0};

// In a rank's own segment, one for its life: says which memory is that of which epoch.
struct alignas(kCacheLine) Board {
  SharedBell bell;  // rings when another rank has something new for this one, and to end its waits
  std::atomic<uint64_t> nonce;
  // Of the newest epoch: written before `epoch` is.
  std::atomic<int32_t> descriptor;
  std::atomic<uint64_t> epoch;
};

// Heads the memory of one epoch; the places follow.
struct Header {
  struct alignas(kCacheLine) Place {
    std::atomic<uint64_t> sequence;  // of the exchange whose part lies there, written last; from 1
    uint64_t plan;
    int32_t index;
    int64_t bytes;
  };
  std::atomic<uint64_t> nonce;
  std::atomic<uint64_t> epoch;
  Place places[kPlaces];
};
static_assert(sizeof(Board) <= kPage && sizeof(Header) <= kPage);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

struct Address {
  std::string space;
  pid_t process = 0;
  int descriptor = -1;
  uint64_t nonce = 0;

  std::string Encode() const { return absl::StrCat(kFormat, ";", space, ";", process, ";", descriptor, ";", nonce); }
  static absl::StatusOr<Address> Decode(absl::string_view bytes) {
    const std::vector<absl::string_view> fields = absl::StrSplit(bytes, ';');
    Address address;
    if (fields.size() != 5 || fields[0] != kFormat || !absl::SimpleAtoi(fields[2], &address.process) ||
        !absl::SimpleAtoi(fields[3], &address.descriptor) || !absl::SimpleAtoi(fields[4], &address.nonce)) {
      return absl::InvalidArgumentError(
          absl::StrCat("not the address of a rank that shares memory (", bytes.size(), " bytes)"));
    }
    address.space = std::string(fields[1]);
    return address;
  }
};

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class SharedCollective final : public Collective {
 public:
  SharedCollective(const SharedCollectiveOptions& options, SharedSegment board, uint64_t nonce, Clock& clock)
      : options_(options),
        clock_(clock),
        place_bytes_(RoundUp(std::max<int64_t>(options.max_bytes, 1), kCacheLine)),
        own_board_(std::move(board)),
        nonce_(nonce),
        address_(Address{ThisProcessSpace(), getpid(), own_board_.descriptor(), nonce}.Encode()),
        peers_(static_cast<size_t>(options.ranks)),
        parts_(static_cast<size_t>(options.ranks)) {
    MyBoard().nonce.store(nonce);
  }

  int32_t rank() const override { return options_.rank; }
  int32_t ranks() const override { return options_.ranks; }
  const std::string& address() const override { return address_; }
  int64_t max_bytes() const override { return options_.max_bytes; }
  std::byte* Part() override { return PlaceOf(own_, sequence_ + 1); }

  absl::Status Connect(absl::Span<const std::string> addresses, Epoch epoch) override {
    if (addresses.size() != peers_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(addresses.size(), " addresses for a group of ", peers_.size(), " ranks"));
    }
    ASSIGN_OR_RETURN(own_, SharedSegment::Create(SegmentBytes()));
    HeaderOf(own_).nonce.store(nonce_);
    HeaderOf(own_).epoch.store(Value(epoch));
    sequence_ = 0;
    epoch_ = epoch;
    for (size_t r = 0; r < peers_.size(); ++r) {
      if (static_cast<int32_t>(r) == options_.rank) continue;
      ASSIGN_OR_RETURN(peers_[r], OpenBoard(addresses[r]));
    }
    MyBoard().descriptor.store(own_.descriptor());
    MyBoard().epoch.store(Value(epoch));
    RingOthers();
    return absl::OkStatus();
  }

  absl::StatusOr<Parts> Exchange(const ExchangeId& id, int64_t bytes, absl::Duration timeout) override {
    CHECK(bytes >= 0 && bytes <= options_.max_bytes && id.epoch == epoch_);
    const absl::Time deadline = clock_.Now() + timeout;
    Give(id, bytes);
    for (int32_t r = 0; r < options_.ranks; ++r) {
      if (r == options_.rank) {
        parts_[static_cast<size_t>(r)] = {PlaceOf(own_, sequence_), static_cast<size_t>(bytes)};
        continue;
      }
      RETURN_IF_ERROR(AwaitPeer(r, id, deadline));
    }
    return Parts(parts_);
  }

  void Interrupt(Epoch epoch) override {
    uint64_t before = interrupted_below_.load();
    while (before < Value(epoch) && !interrupted_below_.compare_exchange_weak(before, Value(epoch))) {
    }
    MyBoard().bell.Ring();
  }
  void Interrupt() override {
    interrupted_.store(true);
    MyBoard().bell.Ring();
  }
  void Resume() override {
    interrupted_.store(false);
    interrupted_below_.store(0);
  }

 private:
  struct Peer {
    SharedSegment board;   // of the rank's life
    SharedSegment memory;  // of the epoch, opened when it is first needed
    pid_t process = 0;
    uint64_t nonce = 0;
  };

  static Board& BoardOf(const SharedSegment& segment) { return *reinterpret_cast<Board*>(segment.data()); }
  static Header& HeaderOf(const SharedSegment& segment) { return *reinterpret_cast<Header*>(segment.data()); }
  Board& MyBoard() { return BoardOf(own_board_); }
  int64_t SegmentBytes() const { return RoundUp(kPage + kPlaces * place_bytes_, kPage); }
  static Header::Place& Post(const SharedSegment& segment, uint64_t sequence) {
    return HeaderOf(segment).places[sequence % kPlaces];
  }
  std::byte* PlaceOf(const SharedSegment& segment, uint64_t sequence) const {
    return segment.data() + kPage + static_cast<int64_t>(sequence % kPlaces) * place_bytes_;
  }

  static absl::StatusOr<Peer> OpenBoard(const std::string& bytes) {
    ASSIGN_OR_RETURN(const Address address, Address::Decode(bytes));
    if (address.space != ThisProcessSpace()) {
      return absl::FailedPreconditionError(
          "a rank of the group is on another machine, in another process namespace or of another user: ranks that "
          "share "
          "a stage (cluster.tensor_ranks, cluster.sequence_ranks) must be processes of one machine and user");
    }
    ASSIGN_OR_RETURN(SharedSegment board, SharedSegment::Open(address.process, address.descriptor, kPage));
    if (BoardOf(board).nonce.load() != address.nonce) {
      return absl::UnavailableError(
          absl::StrCat("process ", address.process, " is not the rank any more whose address was told"));
    }
    return Peer{std::move(board), {}, address.process, address.nonce};
  }

  void Give(const ExchangeId& id, int64_t bytes) {
    ++sequence_;
    Header::Place& place = Post(own_, sequence_);
    place.plan = Value(id.plan);
    place.index = id.index;
    place.bytes = bytes;
    place.sequence.store(sequence_, std::memory_order_release);
    RingOthers();
  }

  absl::Status AwaitPeer(int32_t r, const ExchangeId& id, absl::Time deadline) {
    Peer& peer = peers_[static_cast<size_t>(r)];
    if (peer.memory.data() == nullptr) RETURN_IF_ERROR(OpenMemory(r, peer, deadline));
    const Header::Place& place = Post(peer.memory, sequence_);
    RETURN_IF_ERROR(
        Await(r, deadline, [&place, this] { return place.sequence.load(std::memory_order_acquire) >= sequence_; }));
    if (place.sequence.load() != sequence_ || place.plan != Value(id.plan) || place.index != id.index ||
        place.bytes < 0 || place.bytes > options_.max_bytes) {
      return absl::InternalError(absl::StrCat("rank ", r, " of the group is at exchange ", place.index, " of plan ",
                                              place.plan, " where this one is at ", id.index, " of plan ",
                                              Value(id.plan)));
    }
    parts_[static_cast<size_t>(r)] = {PlaceOf(peer.memory, sequence_), static_cast<size_t>(place.bytes)};
    return absl::OkStatus();
  }

  // The peer may not have come to this epoch yet; one that has gone on to a later one will never come to this.
  absl::Status OpenMemory(int32_t r, Peer& peer, absl::Time deadline) {
    const Board& board = BoardOf(peer.board);
    RETURN_IF_ERROR(Await(r, deadline, [&board, this] { return board.epoch.load() >= Value(epoch_); }));
    ASSIGN_OR_RETURN(SharedSegment memory, SharedSegment::Open(peer.process, board.descriptor.load(), SegmentBytes()));
    if (HeaderOf(memory).nonce.load() != peer.nonce || HeaderOf(memory).epoch.load() != Value(epoch_)) {
      return absl::UnavailableError(
          absl::StrCat("rank ", r, " of the group is in epoch ", board.epoch.load(), ", not ", Value(epoch_)));
    }
    peer.memory = std::move(memory);
    return absl::OkStatus();
  }

  template <typename Done>
  absl::Status Await(int32_t r, absl::Time deadline, Done done) {
    if (Spin(done)) return absl::OkStatus();
    SharedBell& bell = MyBoard().bell;
    while (true) {
      const uint32_t count = bell.count();
      if (done()) return absl::OkStatus();
      if (interrupted_.load() || interrupted_below_.load() > Value(epoch_)) {
        return absl::UnavailableError(absl::StrCat("the wait for rank ", r, " of the group was interrupted"));
      }
      const absl::Duration left = deadline - clock_.Now();
      if (left <= absl::ZeroDuration()) {
        return absl::UnavailableError(absl::StrCat("rank ", r, " of the group did not come to an exchange in time"));
      }
      bell.Wait(count, left);
    }
  }

  template <typename Done>
  bool Spin(Done done) const {
    constexpr int kLooksPerClock = 64;
    const absl::Time end = clock_.Now() + options_.spin;
    do {
      for (int i = 0; i < kLooksPerClock; ++i) {
        if (done()) return true;
        Pause();
      }
    } while (clock_.Now() < end);
    return done();
  }

  void RingOthers() {
    for (const Peer& peer : peers_) {
      if (peer.board.data() != nullptr) BoardOf(peer.board).bell.Ring();
    }
  }

  const SharedCollectiveOptions options_;
  Clock& clock_;
  const int64_t place_bytes_;
  const SharedSegment own_board_;
  const uint64_t nonce_;
  const std::string address_;
  std::vector<Peer> peers_;
  SharedSegment own_;
  std::vector<absl::Span<const std::byte>> parts_;
  uint64_t sequence_ = 0;  // of the last exchange of the epoch
  Epoch epoch_{};
  std::atomic<uint64_t> interrupted_below_{0};
  std::atomic<bool> interrupted_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> MakeSharedCollective(const SharedCollectiveOptions& options,
                                                                 Entropy& entropy, Clock& clock) {
  if (options.rank < 0 || options.rank >= options.ranks || options.max_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", options.rank, " of a group of ", options.ranks,
                                                   " with parts of ", options.max_bytes, " bytes"));
  }
  ASSIGN_OR_RETURN(SharedSegment board, SharedSegment::Create(kPage));
  return std::make_unique<SharedCollective>(options, std::move(board), entropy.Next(), clock);
}

}  // namespace interlace
