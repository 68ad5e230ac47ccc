#include "cli/top_frame.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

// Colours as the page has them: ECMA-48 codes.
constexpr absl::string_view kBold = "1", kDim = "2", kRed = "31", kGreen = "32", kYellow = "33", kBlue = "34",
                            kMagenta = "35", kCyan = "36";
// From nothing to full; readable without colours.
constexpr std::array<absl::string_view, 5> kShades = {"·", "░", "▒", "▓", "█"};
constexpr std::array<absl::string_view, 9> kBars = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr int kLabel = 9;  // columns before a map or a bar

// One line, cut at a width. Text is put in piece by piece, each in one colour.
class Line {
 public:
  Line(int width, bool colour) : left_(width), colour_(colour) {}
  Line& Put(absl::string_view text, absl::string_view code = "") {
    std::string shown;
    for (size_t i = 0; i < text.size() && left_ > 0;) {
      size_t end = i + 1;
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
      // What a request is called must not steer the terminal.
      const auto c = static_cast<unsigned char>(text[i]);
      const bool c1 = c == 0xc2 && end == i + 2 && static_cast<unsigned char>(text[i + 1]) < 0xa0;
      if (c < 0x20 || c == 0x7f || c1) {
        shown += '?';
      } else {
        shown.append(text.data() + i, end - i);
      }
      --left_;
      i = end;
    }
    if (colour_ && !code.empty() && !shown.empty()) {
      absl::StrAppend(&text_, "\x1b[", code, "m", shown, "\x1b[0m");
    } else {
      text_ += shown;
    }
    return *this;
  }
  int left() const { return left_; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  int left_;
  const bool colour_;
};

std::string Time(absl::Duration time) {
  if (time == absl::InfiniteDuration()) return "-";
  const double seconds = absl::ToDoubleSeconds(time), size = std::abs(seconds);
  if (size < 0.9995) return absl::StrFormat("%.0fms", seconds * 1e3);
  if (size < 99.95) return absl::StrFormat("%.1fs", seconds);
  return absl::StrFormat("%.0fm", seconds / 60);
}
std::string Time(const std::optional<absl::Duration>& time) { return time ? Time(*time) : "-"; }

std::string Percent(int64_t part, int64_t whole) {
  return absl::StrFormat("%.1f%%", whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0);
}

absl::string_view CodeOf(RequestState state) {
  switch (state) {
    case RequestState::kRunning:
      return kGreen;
    case RequestState::kStreaming:
      return kMagenta;
    case RequestState::kParked:
      return kYellow;
    case RequestState::kFetching:
      return kCyan;
    case RequestState::kFailed:
      return kRed;
    case RequestState::kWaiting:
    case RequestState::kFinished:
      return kDim;
  }
  return "";
}

class Frame {
 public:
  Frame(const TopView& view, int width) : view_(view), replica_(view.state.replica), width_(std::max(1, width)) {}

  std::vector<std::string> Lines(int height) {
    Head();
    if (view_.known) {
      Rates();
      Queue();
      Replicas();
      Stages();
      Map();
      Targets();
      Requests(height);
    }
    if (height > 0 && lines_.size() > static_cast<size_t>(height)) lines_.resize(static_cast<size_t>(height));
    return std::move(lines_);
  }

 private:
  Line NewLine() const { return Line(width_, view_.colour); }
  void Add(const Line& line) { lines_.push_back(line.text()); }

  // Of several, how busy each is.
  void Replicas() {
    for (size_t r = 0; r < replica_.replicas.size(); ++r) {
      const ReplicaRow& row = replica_.replicas[r];
      Line line = NewLine();
      line.Put(absl::StrFormat("%-*s", kLabel, absl::StrCat("replica ", r, " ")), kDim);
      if (row.ranks_ready < row.ranks) {
        line.Put(absl::StrCat(row.ranks_ready, "/", row.ranks, " ranks"), kYellow);
      } else {
        const double held = row.blocks > 0 ? 100.0 * static_cast<double>(row.blocks_held) / row.blocks : 0;
        line.Put(absl::StrFormat("%d running, %d waiting, %.0f%% of KV held", row.running, row.waiting, held));
        if (row.role != "both") line.Put(absl::StrCat(", ", row.role));
        if (row.draining) line.Put(", drained", kYellow);
      }
      Add(line);
    }
  }

  void Head() {
    Line line = NewLine();
    line.Put("interlace top", kBold).Put("  ");
    if (view_.known) {
      line.Put(view_.state.model, kCyan)
          .Put(absl::StrCat("  ", replica_.policy, "  ", replica_.ranks_ready, "/", replica_.ranks, " ranks  up ",
                            Time(replica_.uptime)));
      if (replica_.draining) line.Put("  draining", kYellow);
    } else {
      line.Put(view_.url);
    }
    const absl::string_view hint = "q quits";
    if (view_.live && line.left() > static_cast<int>(hint.size()) + 2) {
      line.Put(std::string(static_cast<size_t>(line.left()) - hint.size(), ' ')).Put(hint, kDim);
    }
    Add(line);
    if (view_.trouble.empty()) return;
    Line trouble = NewLine();
    Add(trouble.Put(view_.trouble, kRed));
  }

  void Rates() {
    double tokens = 0, positions = 0;
    const size_t count = std::min<size_t>(3, replica_.seconds.size());
    for (size_t i = replica_.seconds.size() - count; i < replica_.seconds.size(); ++i) {
      tokens += static_cast<double>(replica_.seconds[i].tokens) / static_cast<double>(count);
      positions += static_cast<double>(replica_.seconds[i].positions) / static_cast<double>(count);
    }
    Line line = NewLine();
    line.Put(absl::StrFormat("%-*s", kLabel, "tokens/s"), kDim)
        .Put(absl::StrFormat("%.0f", tokens), kBold)
        .Put(absl::StrFormat(" generated, %.0f computed; step ", positions))
        .Put(replica_.steps > 0 ? Time(replica_.step_p50) : "-", kBold);
    if (replica_.steps > 0) line.Put(absl::StrCat(" (p95 ", Time(replica_.step_p95), ")"));
    const int room = std::min<int>(line.left() - 2, static_cast<int>(replica_.seconds.size()));
    if (room > 4) {
      line.Put("  ");
      int64_t most = 1;
      for (const SecondSnapshot& second : replica_.seconds) most = std::max(most, second.tokens);
      for (size_t i = replica_.seconds.size() - static_cast<size_t>(room); i < replica_.seconds.size(); ++i) {
        const auto tall = static_cast<size_t>((8 * replica_.seconds[i].tokens + most - 1) / most);
        line.Put(kBars[tall], kGreen);
      }
    }
    Add(line);
  }

  void Queue() {
    Line line = NewLine();
    line.Put(absl::StrFormat("%-*s", kLabel, "requests"), kDim);
    const std::pair<RequestState, int64_t> parts[] = {{RequestState::kRunning, replica_.running},
                                                      {RequestState::kStreaming, replica_.streaming},
                                                      {RequestState::kParked, replica_.parked},
                                                      {RequestState::kFetching, replica_.fetching},
                                                      {RequestState::kWaiting, replica_.waiting}};
    for (const auto& [state, count] : parts) {
      const bool always = state == RequestState::kRunning || state == RequestState::kWaiting;
      if (count == 0 && !always) continue;
      line.Put(absl::StrCat(count), count > 0 ? CodeOf(state) : kDim).Put(absl::StrCat(" ", NameOf(state), "  "));
    }
    Add(line.Put(absl::StrCat(replica_.slo.finished, " finished  "))
            .Put(absl::StrCat(replica_.slo.failed, " failed"), replica_.slo.failed > 0 ? kRed : ""));
  }

  // "device 0 [#####::  ] 63.0% of 64 MiB": held, cached, ring, free.
  void Bar(const std::string& label, const RoomSnapshot& room, absl::string_view code) {
    Line line = NewLine();
    line.Put(absl::StrFormat("%-*s", kLabel, label), kDim);
    const std::string text = absl::StrCat(" ", Percent(room.held + room.cached, room.total), " of ",
                                          HumanBytes(room.total * replica_.slot_bytes));
    const int cells = std::clamp(line.left() - static_cast<int>(text.size()), 1, 40);
    const auto upto = [&](int64_t slots) {
      return static_cast<int>(room.total > 0 ? std::clamp<int64_t>(slots * cells / room.total, 0, cells) : 0);
    };
    const int held = upto(room.held), cached = upto(room.held + room.cached),
              ring = upto(room.held + room.cached + room.ring);
    for (int c = 0; c < cells; ++c) {
      line.Put(c < held ? "█" : c < cached ? "▒" : c < ring ? "╱" : "·", c < cached ? code : kDim);
    }
    Add(line.Put(text));
  }

  void Stages() {
    for (size_t s = 0; s < replica_.stages.size(); ++s) {
      const std::string number = replica_.stages.size() > 1 ? absl::StrCat(" ", s) : "";
      Bar(absl::StrCat("device", number), replica_.stages[s].device, kBlue);
      Bar(absl::StrCat("host", number), replica_.stages[s].host, kYellow);
    }
  }

  // A cell per layer, or per few of them where the line is too short; the fullest of them counts.
  void MapRow(absl::string_view name, absl::string_view code, int64_t top, const std::string& sum,
              int64_t (*value)(const LayerSnapshot&)) {
    Line line = NewLine();
    line.Put(absl::StrFormat("%-*s", kLabel, name), kDim);
    const int layers = static_cast<int>(replica_.by_layer.size());
    const int room = std::max(1, line.left() - 10);
    const int each = (layers + room - 1) / room;
    for (int l = 0; l < layers; l += each) {
      int64_t most = 0;
      for (int i = l; i < std::min(layers, l + each); ++i) most = std::max(most, value(replica_.by_layer[i]));
      const int64_t shade = most == 0 ? 0 : std::clamp<int64_t>((4 * most + top - 1) / top, 1, 4);
      line.Put(kShades[static_cast<size_t>(shade)], shade == 0 ? kDim : code);
    }
    Add(line.Put(absl::StrCat(" ", sum)));
  }

  void Map() {
    if (replica_.by_layer.empty()) {
      Line line = NewLine();
      return Add(line.Put("no replica is formed: ranks are loading or lost", kYellow));
    }
    int64_t most = 1, device = 0, host = 0, streamed = 0;
    for (const LayerSnapshot& layer : replica_.by_layer) {
      most = std::max({most, layer.device, layer.host});
      device += layer.device;
      host += layer.host;
      streamed = std::max<int64_t>(streamed, layer.streamed_by);
    }
    Line line = NewLine();
    Add(line.Put(absl::StrCat("KV of ", replica_.by_layer.size(), " layers, the first at the left"), kBold));
    MapRow("device", kBlue, most, HumanBytes(device * replica_.slot_bytes),
           [](const LayerSnapshot& layer) { return layer.device; });
    MapRow("host", kYellow, most, HumanBytes(host * replica_.slot_bytes),
           [](const LayerSnapshot& layer) { return layer.host; });
    MapRow("streamed", kMagenta, std::max<int64_t>(1, replica_.running + replica_.streaming),
           streamed > 0 ? absl::StrCat("by ", streamed) : "by none",
           [](const LayerSnapshot& layer) { return int64_t{layer.streamed_by}; });
  }

  void Targets() {
    Line line = NewLine();
    line.Put(absl::StrFormat("%-*s", kLabel, "targets"), kDim);
    const std::pair<absl::string_view, TargetTally> targets[] = {{"ttft", replica_.slo.ttft},
                                                                 {"tpot", replica_.slo.tpot},
                                                                 {"gap", replica_.slo.largest_gap},
                                                                 {"deadline", replica_.slo.deadline}};
    for (const auto& [name, tally] : targets) {
      const int64_t total = tally.met + tally.missed;
      line.Put(absl::StrCat(name, " "));
      if (total == 0) {
        line.Put("-", kDim);
      } else {
        line.Put(Percent(tally.met, total), tally.missed == 0 ? kGreen : kYellow);
        if (width_ >= 100) line.Put(absl::StrCat(" of ", total));
      }
      line.Put("  ");
    }
    const int64_t ended = replica_.slo.finished + replica_.slo.failed;
    if (ended > 0) line.Put("goodput ").Put(Percent(replica_.slo.goodput, ended), kBold);
    Add(line);
  }

  // What a table of this width has room for.
  struct Layout {
    int name, strip, tokens;
    bool tenant;
    const char* gap;  // between columns
  };
  Layout LayoutOf() const {
    if (width_ < 100) return {12, 8, 9, false, " "};
    return width_ < 140 ? Layout{20, 16, 11, true, "  "} : Layout{36, 32, 11, true, "  "};
  }

  void Requests(int height) {
    lines_.emplace_back();
    const Layout layout = LayoutOf();
    Line head = NewLine();
    head.Put(absl::StrFormat("%-9s%s%-*s%s", "STATE", layout.gap, layout.name, "REQUEST", layout.gap), kDim);
    if (layout.tenant) head.Put(absl::StrFormat("%-10s %4s%s", "TENANT", "PRIO", layout.gap), kDim);
    head.Put(absl::StrFormat("%6s %*s%s%-*s%s%6s %6s %6s %6s", "PROMPT", layout.tokens, "TOKENS", layout.gap,
                             layout.strip, "LAYERS", layout.gap, "AGE", "FIRST", "GAP", "SLACK"),
             kDim);
    Add(head);
    const size_t room = height > 0 ? static_cast<size_t>(height) : lines_.size() + 1000;
    size_t hidden = 0;
    for (const RequestSnapshot& request : replica_.requests) {
      if (lines_.size() + 1 >= room) {
        ++hidden;
      } else {
        Row(request, layout);
      }
    }
    const int64_t more =
        static_cast<int64_t>(hidden) + replica_.total() - static_cast<int64_t>(replica_.requests.size());
    if (more > 0) {
      Line line = NewLine();
      return Add(line.Put(absl::StrCat("and ", more, " more"), kDim));
    }
    for (const RequestSnapshot& request : replica_.ended) {
      if (lines_.size() < room) Row(request, layout);
    }
  }

  void Row(const RequestSnapshot& request, const Layout& layout) {
    const bool ended = request.state == RequestState::kFinished || request.state == RequestState::kFailed;
    const absl::string_view code = ended ? kDim : "";
    const auto clipped = [](absl::string_view text, int columns) {
      return text.size() <= static_cast<size_t>(columns)
                 ? std::string(text)
                 : absl::StrCat(text.substr(0, static_cast<size_t>(columns) - 1), "~");
    };
    Line line = NewLine();
    line.Put(absl::StrFormat("%-9s%s", NameOf(request.state), layout.gap), CodeOf(request.state))
        .Put(absl::StrFormat("%-*s%s", layout.name, clipped(request.name, layout.name), layout.gap), code);
    if (layout.tenant) {
      line.Put(
          absl::StrFormat("%-10s %4d%s", clipped(request.targets.tenant, 10), request.targets.priority, layout.gap),
          code);
    }
    const bool computing = !ended && request.computed > 0 && request.computed < request.prompt;
    const std::string prompt = computing ? Percent(request.computed, request.prompt) : absl::StrCat(request.prompt);
    line.Put(absl::StrFormat("%6s %*s%s", prompt, layout.tokens,
                             absl::StrCat(request.generated, "/", request.max_tokens), layout.gap),
             code);
    Strip(request.layers, layout.strip, &line);
    const absl::Duration gap = std::max(request.largest_gap, request.since_token.value_or(absl::ZeroDuration()));
    line.Put(absl::StrFormat("%s%6s %6s ", layout.gap, Time(request.age), Time(request.first_token)), code)
        .Put(absl::StrFormat("%6s", gap > absl::ZeroDuration() ? Time(gap) : "-"),
             request.targets.largest_gap && gap > *request.targets.largest_gap ? kRed : code)
        .Put(absl::StrFormat(" %6s", Time(request.slack)), request.slack < absl::ZeroDuration() ? kRed : code);
    Add(line);
  }

  // At most `columns` of them, one per layer or few of them: on the device, all or some; on the host.
  static void Strip(absl::string_view layers, int columns, Line* line) {
    const int count = static_cast<int>(layers.size()), used = std::min(columns, count);
    for (int c = 0; c < columns; ++c) {
      if (c >= used) {
        line->Put(" ");
        continue;
      }
      const int begin = c * count / used, end = (c + 1) * count / used;
      const absl::string_view part = layers.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      const auto device = std::count(part.begin(), part.end(), 'd'), host = std::count(part.begin(), part.end(), 'h');
      if (device > 0) {
        line->Put(host > 0 ? "▓" : "█", kBlue);
      } else {
        line->Put(host > 0 ? "░" : "·", host > 0 ? kYellow : kDim);
      }
    }
  }

  const TopView& view_;
  const ReplicaSnapshot& replica_;
  const int width_;
  std::vector<std::string> lines_;
};

}  // namespace

std::string TopFrame(const TopView& view, int width, int height) {
  return absl::StrJoin(Frame(view, width).Lines(height), "\n");
}

}  // namespace interlace
