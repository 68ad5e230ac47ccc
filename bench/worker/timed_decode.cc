#include "bench/worker/timed_decode.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr size_t kWordsOfRequest = 2500;

}  // namespace

void TimedSink::OnTokens(absl::Span<const int32_t> tokens) {
  absl::MutexLock lock(&mutex_);
  if (tokens_.empty()) first_ = now_();
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  last_ = now_();
}

void TimedSink::OnEnd(const RequestEnd& end) {
  absl::MutexLock lock(&mutex_);
  CHECK_MSG(end.status.ok(), end.status.ToString().c_str());
  end_ = std::make_unique<RequestEnd>(end);
}

void TimedSink::Wait() {
  absl::MutexLock lock(&mutex_);
  const auto ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return end_ != nullptr; };
  mutex_.Await(absl::Condition(&ended));
}

double TimedDecode::Run(InProcessReplica& replica, int round, int32_t streams, const Make& make) {
  if (words_.empty()) words_ = replica.tokenizer().Encode(text_, false);
  sinks_.clear();
  for (int32_t s = 0; s < streams; ++s) {
    Request request{.id = RequestId{++requests_}, .name = absl::StrCat("r", requests_)};
    const size_t place = static_cast<size_t>((round + 1) * streams + s) * kWordsOfRequest;
    request.max_tokens = tokens_;
    make(words_.data() + place % (words_.size() - kWordsOfRequest), &request);
    request.arrival = clock_.Now();
    request.deadline = request.arrival + absl::Minutes(10);
    request.sink = sinks_.emplace_back(std::make_shared<TimedSink>(now_));
    CHECK(replica.engine().Submit(std::move(request)).ok());
  }
  absl::Time first = absl::InfiniteFuture(), last = absl::InfinitePast();
  size_t tokens = 0;
  for (const auto& sink : sinks_) {
    sink->Wait();
    first = std::min(first, sink->first());
    last = std::max(last, sink->last());
    tokens += sink->tokens().size() - 1;
  }
  return static_cast<double>(tokens) / absl::ToDoubleSeconds(last - first);
}

bool ReadArguments(const char* name, int argc, char** argv, DecodeArguments* out) {
  if (argc < 3 || (argc > 3 && !absl::SimpleAtoi(argv[3], &out->rounds)) ||
      (argc > 4 && !absl::SimpleAtoi(argv[4], &out->tokens)) || out->rounds < 1 || out->tokens < 2) {
    std::fprintf(stderr, "usage: %s MODEL TEXT [ROUNDS [TOKENS [DRAFT_MODEL]]]\n", name);
    return false;
  }
  std::ifstream file(argv[2], std::ios::binary);
  out->model = argv[1];
  if (argc > 5) out->draft_model = argv[5];
  out->text.assign(std::istreambuf_iterator<char>(file), {});
  if (out->text.size() < 100000) {
    std::fprintf(stderr, "%s: %s holds less than 100 kB\n", name, argv[2]);
    return false;
  }
  out->text.resize(std::min<size_t>(out->text.size(), 1000000));
  return true;
}

}  // namespace interlace
