// Reading load runs back from JSON: ours and vLLM's. Files come from anywhere: each field's type is checked before it
// is used.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_json.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using nlohmann::json;

// Fields of one object; the first that has a wrong type is remembered, later reads do nothing.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) Fail("", "an object");
  }
  const json* Find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  void Get(const char* key, std::string* out) {
    if (const json* v = Typed(key, &json::is_string, "a string")) *out = v->get<std::string>();
  }
  void Get(const char* key, bool* out) {
    if (const json* v = Typed(key, &json::is_boolean, "true or false")) *out = v->get<bool>();
  }
  void Get(const char* key, double* out) {
    if (const json* v = Typed(key, &json::is_number, "a number")) *out = v->get<double>();
  }
  template <typename Integer>
  void Get(const char* key, Integer* out) {
    if (const json* v = Typed(key, &json::is_number_integer, "an integer")) {
      const bool fits = v->is_number_unsigned()
                            ? v->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<Integer>::max())
                            : v->get<int64_t>() >= static_cast<int64_t>(std::numeric_limits<Integer>::min()) &&
                                  (v->get<int64_t>() < 0 || std::is_unsigned_v<Integer> ||
                                   static_cast<uint64_t>(v->get<int64_t>()) <=
                                       static_cast<uint64_t>(std::numeric_limits<Integer>::max()));
      if (!fits) return Fail(key, "an integer in range");
      *out = v->get<Integer>();
    }
  }
  void Get(const char* key, absl::Duration* out) {
    int64_t ns = 0;
    if (Find(key) == nullptr) return;
    Get(key, &ns);
    *out = absl::Nanoseconds(ns);
  }
  void Get(const char* key, std::optional<absl::Duration>* out) {
    if (Find(key) == nullptr) return;
    absl::Duration d;
    Get(key, &d);
    *out = d;
  }
  // Elements of an array of numbers; empty if there is none.
  std::vector<double> Numbers(const char* key) {
    return Elements<double>(key, &json::is_number, "an array of numbers");
  }
  std::vector<int64_t> Integers(const char* key) {
    return Elements<int64_t>(key, &json::is_number_integer, "an array of integers");
  }
  std::vector<json> Objects(const char* key) {
    const json* v = Typed(key, &json::is_array, "an array");
    return v == nullptr ? std::vector<json>{} : v->get<std::vector<json>>();
  }
  void Require(const char* key) {
    if (Find(key) == nullptr) Fail(key, "present");
  }
  void Fail(absl::string_view key, absl::string_view expected) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, key.empty() ? "" : ".", key, ": must be ", expected));
  }
  const absl::Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  template <typename T>
  std::vector<T> Elements(const char* key, bool (json::*is)() const, const char* expected) {
    std::vector<T> out;
    const json* v = Typed(key, &json::is_array, "an array");
    if (v == nullptr) return out;
    for (const json& element : *v) {
      if (!(element.*is)()) {
        Fail(key, expected);
        return {};
      }
      out.push_back(element.get<T>());
    }
    return out;
  }
  const json* Typed(const char* key, bool (json::*is)() const noexcept, absl::string_view expected) {
    const json* v = Find(key);
    if (v == nullptr || !status_.ok()) return nullptr;
    if ((v->*is)()) return v;
    Fail(key, expected);
    return nullptr;
  }

  const json& object_;
  const std::string where_;
  absl::Status status_;
};

absl::StatusOr<LoadOutcome> OutcomeOf(const std::string& name, absl::string_view where) {
  for (int i = 0; i <= static_cast<int>(LoadOutcome::kCancelled); ++i) {
    if (LoadOutcomeName(static_cast<LoadOutcome>(i)) == name) return static_cast<LoadOutcome>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ".outcome: \"", name, "\" is none"));
}

absl::StatusOr<RequestRecord> ReadRecord(const json& object, const std::string& where) {
  Fields fields(object, where);
  RequestRecord r;
  fields.Get("index", &r.index);
  fields.Get("request_id", &r.request_id);
  fields.Get("session", &r.session);
  fields.Get("turn", &r.turn);
  fields.Get("tenant", &r.tenant);
  fields.Get("priority", &r.priority);
  if (const json* targets = fields.Find("targets")) {
    Fields t(*targets, where + ".targets");
    t.Get("ttft", &r.targets.ttft);
    t.Get("tpot", &r.targets.tpot);
    t.Get("largest_gap", &r.targets.largest_gap);
    t.Get("e2el", &r.targets.e2el);
    RETURN_IF_ERROR(t.status());
  }
  fields.Get("due", &r.due);
  fields.Get("sent", &r.sent);
  fields.Get("ended", &r.ended);
  absl::Duration at = r.sent;
  for (const int64_t gap : fields.Integers("gaps")) {
    if (gap < 0) fields.Fail("gaps", "at least 0");
    r.chunks.push_back(at += absl::Nanoseconds(gap));
  }
  if (fields.Find("tokens") != nullptr) {
    for (const int64_t n : fields.Integers("tokens")) {
      if (n < 0 || n > std::numeric_limits<int32_t>::max()) fields.Fail("tokens", "counts of tokens");
      r.chunk_tokens.push_back(static_cast<int32_t>(n));
    }
  } else {
    r.chunk_tokens.assign(r.chunks.size(), 1);
  }
  std::string outcome;
  fields.Require("outcome");
  fields.Get("outcome", &outcome);
  fields.Get("http_status", &r.http_status);
  fields.Get("error", &r.error);
  fields.Get("finish_reason", &r.finish_reason);
  fields.Get("prompt_tokens", &r.prompt_tokens);
  fields.Get("completion_tokens", &r.completion_tokens);
  fields.Get("cached_tokens", &r.cached_tokens);
  fields.Get("shared_prefix_tokens", &r.shared_prefix_tokens);
  fields.Get("retry_after", &r.retry_after);
  fields.Get("text", &r.text);
  RETURN_IF_ERROR(fields.status());
  ASSIGN_OR_RETURN(r.outcome, OutcomeOf(outcome, where));
  return r;
}

absl::StatusOr<LoadRun> ReadOurs(const json& part, const std::string& where) {
  Fields fields(part, where);
  fields.Require("run");
  fields.Require("records");
  RETURN_IF_ERROR(fields.status());
  Fields head(*fields.Find("run"), where + ".run");
  LoadRun run;
  int64_t began = 0;
  head.Get("label", &run.label);
  head.Get("server", &run.server);
  head.Get("model", &run.model);
  head.Get("dataset", &run.dataset);
  head.Get("arrivals", &run.arrivals);
  head.Get("offered_rate", &run.offered_rate);
  head.Get("concurrency", &run.concurrency);
  head.Get("seed", &run.seed);
  head.Get("began", &began);
  head.Get("duration", &run.duration);
  head.Get("elapsed", &run.elapsed);
  head.Get("over_saturated", &run.over_saturated);
  head.Get("stopped_because", &run.stopped_because);
  head.Get("client_cpu", &run.client_cpu);
  head.Get("unsent", &run.unsent);
  RETURN_IF_ERROR(head.status());
  run.began = absl::FromUnixNanos(began);
  const json& records = *fields.Find("records");
  if (!records.is_array()) return absl::InvalidArgumentError(absl::StrCat(where, ".records: must be an array"));
  for (size_t i = 0; i < records.size(); ++i) {
    ASSIGN_OR_RETURN(RequestRecord record, ReadRecord(records[i], absl::StrCat(where, ".records[", i, "]")));
    run.records.push_back(std::move(record));
  }
  return run;
}

// What `vllm bench serve --save-detailed` wrote. It tells no due times: a request counts as due when it was sent. A gap
// is a delivery of one token, as vLLM takes it.
absl::StatusOr<LoadRun> ReadVllm(const json& result, const std::string& where, absl::string_view name) {
  Fields fields(result, where);
  for (const char* key : {"ttfts", "itls", "input_lens", "output_lens", "errors"}) {
    if (fields.Find(key) == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".", key,
                       ": missing; neither a file of interlace bench serve nor of vllm bench serve --save-detailed"));
    }
  }
  LoadRun run;
  fields.Get("label", &run.label);
  if (run.label.empty()) run.label = std::string(name);
  fields.Get("model_id", &run.model);
  fields.Get("backend", &run.server);
  if (const json* rate = fields.Find("request_rate"); rate != nullptr && rate->is_number()) {
    run.offered_rate = rate->get<double>();
  }
  fields.Get("max_concurrency", &run.concurrency);
  double duration = 0, burstiness = 1;
  fields.Get("duration", &duration);
  fields.Get("burstiness", &burstiness);
  run.elapsed = absl::Seconds(duration);
  run.arrivals = burstiness == 1 ? "poisson" : absl::StrCat("gamma ", burstiness);
  const std::vector<double> ttfts = fields.Numbers("ttfts"), starts = fields.Numbers("start_times"),
                            inputs = fields.Numbers("input_lens"), outputs = fields.Numbers("output_lens");
  const json& itls = *fields.Find("itls");
  const json& errors = *fields.Find("errors");
  const json* texts = fields.Find("generated_texts");
  const size_t count = ttfts.size();
  const auto has = [&](size_t size, const char* key) {
    if (size != count) fields.Fail(key, absl::StrCat("as long as ttfts: ", count, ", not ", size));
  };
  has(inputs.size(), "input_lens");
  has(outputs.size(), "output_lens");
  has(itls.size(), "itls");
  has(errors.size(), "errors");
  if (!starts.empty()) has(starts.size(), "start_times");
  RETURN_IF_ERROR(fields.status());
  const double begin = starts.empty() ? 0 : *std::min_element(starts.begin(), starts.end());
  for (size_t i = 0; i < count; ++i) {
    RequestRecord r;
    r.index = static_cast<int64_t>(i);
    r.due = r.sent = r.ended = starts.empty() ? absl::ZeroDuration() : absl::Seconds(starts[i] - begin);
    r.prompt_tokens = static_cast<int32_t>(inputs[i]);
    r.completion_tokens = static_cast<int32_t>(outputs[i]);
    if (errors[i].is_string()) r.error = errors[i].get<std::string>();
    r.outcome = r.error.empty() ? LoadOutcome::kOk : LoadOutcome::kFailed;
    if (r.outcome == LoadOutcome::kOk && ttfts[i] > 0) {
      r.chunks.push_back(r.sent + absl::Seconds(ttfts[i]));
      for (const json& gap : itls[i]) {
        if (!gap.is_number()) {
          return absl::InvalidArgumentError(absl::StrCat(where, ".itls[", i, "]: must be an array of numbers"));
        }
        r.chunks.push_back(r.chunks.back() + absl::Seconds(gap.get<double>()));
      }
      r.chunk_tokens.assign(r.chunks.size(), 1);
      r.ended = r.chunks.back();
    }
    if (texts != nullptr && texts->is_array() && i < texts->size() && (*texts)[i].is_string()) {
      r.text = (*texts)[i].get<std::string>();
    }
    run.duration = std::max(run.duration, r.due);
    run.elapsed = std::max(run.elapsed, r.ended);
    run.records.push_back(std::move(r));
  }
  return run;
}

absl::Status ReadEnvironment(const json& part, const std::string& where, LoadEnvironment* out) {
  Fields fields(part, where);
  const json* environment = fields.Find("environment");
  if (environment == nullptr) return fields.status();
  Fields e(*environment, where + ".environment");
  e.Get("commit", &out->commit);
  e.Get("hardware", &out->hardware);
  e.Get("command", &out->command);
  return e.status();
}

absl::Status ReadCapacity(const json& part, const std::string& where, std::optional<CapacityResult>* out) {
  const Fields fields(part, where);
  const json* capacity = fields.Find("capacity");
  if (capacity == nullptr) return fields.status();
  CapacityResult c;
  c.high = std::numeric_limits<double>::infinity();  // written as null
  Fields head(*capacity, where + ".capacity");
  head.Get("rate", &c.rate);
  head.Get("low", &c.low);
  head.Get("high", &c.high);
  head.Get("at_least", &c.at_least);
  head.Get("stopped_because", &c.stopped_because);
  RETURN_IF_ERROR(head.status());
  for (const json& seed : head.Objects("seeds")) {
    Fields s(seed, where + ".capacity.seeds");
    SeedCapacity& to = c.seeds.emplace_back();
    to.high = std::numeric_limits<double>::infinity();
    s.Get("seed", &to.seed);
    s.Get("low", &to.low);
    s.Get("high", &to.high);
    RETURN_IF_ERROR(s.status());
  }
  for (const json& step : head.Objects("steps")) {
    Fields s(step, where + ".capacity.steps");
    CapacityStep& to = c.steps.emplace_back();
    s.Get("seed", &to.seed);
    s.Get("rate", &to.rate);
    s.Get("share", &to.share);
    s.Get("holds", &to.holds);
    s.Get("why", &to.why);
    RETURN_IF_ERROR(s.status());
  }
  *out = std::move(c);
  return head.status();
}

}  // namespace

absl::StatusOr<LoadReport> ParseLoadReport(absl::string_view text, absl::string_view name) {
  const json file = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(name, ": is no JSON"));
  const Fields fields(file, std::string(name));
  RETURN_IF_ERROR(fields.status());
  LoadReport report;
  const json* ours = fields.Find("interlace");
  if (ours != nullptr) {
    Fields part(*ours, absl::StrCat(name, ".interlace"));
    int format = 0;
    part.Get("format", &format);
    RETURN_IF_ERROR(part.status());
    if (format != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ".interlace.format: ", format, "; this version reads format 1"));
    }
    RETURN_IF_ERROR(ReadEnvironment(*ours, absl::StrCat(name, ".interlace"), &report.environment));
    RETURN_IF_ERROR(ReadCapacity(*ours, absl::StrCat(name, ".interlace"), &report.capacity));
  }
  const json* runs = fields.Find("runs");
  if (runs != nullptr && !runs->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ".runs: must be an array"));
  }
  for (size_t i = 0; i < (runs != nullptr ? runs->size() : 1); ++i) {
    const std::string where = runs != nullptr ? absl::StrCat(name, ".runs[", i, "]") : std::string(name);
    const Fields result(runs != nullptr ? (*runs)[i] : file, where);
    RETURN_IF_ERROR(result.status());
    if (const json* part = result.Find("interlace")) {
      ASSIGN_OR_RETURN(LoadRun run, ReadOurs(*part, where + ".interlace"));
      report.runs.push_back(std::move(run));
    } else {
      ASSIGN_OR_RETURN(LoadRun run, ReadVllm(runs != nullptr ? (*runs)[i] : file, where, name));
      report.runs.push_back(std::move(run));
    }
  }
  if (report.runs.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ".runs: is empty"));
  return report;
}

}  // namespace interlace
