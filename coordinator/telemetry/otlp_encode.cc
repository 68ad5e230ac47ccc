#include "coordinator/telemetry/otlp_exporter.h"
#include "proto/compat/otlp_trace.pb.h"

namespace interlace {
namespace {

std::string Id(uint64_t value) {  // the highest byte first
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (56 - 8 * i));
  return bytes;
}

struct SetValue {
  otlp::AnyValue* out;
  void operator()(const std::string& text) const { out->set_string_value(text); }
  void operator()(int64_t number) const { out->set_int_value(number); }
  void operator()(double number) const { out->set_double_value(number); }
  void operator()(bool truth) const { out->set_bool_value(truth); }
};

template <typename Message>
void AddAttributes(const SpanAttributes& attributes, Message* out) {
  for (const auto& [key, value] : attributes) {
    otlp::KeyValue* one = out->add_attributes();
    one->set_key(key);
    std::visit(SetValue{one->mutable_value()}, value);
  }
}

void Encode(const Span& span, absl::Time epoch, otlp::Span* out) {
  const auto nanos = [epoch](absl::Time at) { return static_cast<uint64_t>(absl::ToInt64Nanoseconds(at - epoch)); };
  out->set_trace_id(Id(span.trace.trace_high) + Id(span.trace.trace_low));
  out->set_span_id(Id(span.id));
  if (span.trace.parent != 0) out->set_parent_span_id(Id(span.trace.parent));
  out->set_name(span.name);
  out->set_kind(span.server ? otlp::Span::SPAN_KIND_SERVER : otlp::Span::SPAN_KIND_INTERNAL);
  out->set_start_time_unix_nano(nanos(span.start));
  out->set_end_time_unix_nano(nanos(span.end));
  AddAttributes(span.attributes, out);
  for (const SpanEvent& event : span.events) {
    otlp::Span::Event* one = out->add_events();
    one->set_name(event.name);
    one->set_time_unix_nano(nanos(event.at));
    AddAttributes(event.attributes, one);
  }
  if (span.status.ok()) return;
  out->mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
  out->mutable_status()->set_message(std::string(span.status.message()));
}

}  // namespace

std::string EncodeSpans(const std::vector<Span>& spans, const std::string& service, absl::Time epoch) {
  otlp::ExportTraceServiceRequest request;
  otlp::ResourceSpans* resource = request.add_resource_spans();
  AddAttributes({{"service.name", service}, {"telemetry.sdk.language", std::string("cpp")}},
                resource->mutable_resource());
  otlp::ScopeSpans* scope = resource->add_scope_spans();
  scope->mutable_scope()->set_name("interlace");
  for (const Span& span : spans) Encode(span, epoch, scope->add_spans());
  return request.SerializeAsString();
}

}  // namespace interlace
