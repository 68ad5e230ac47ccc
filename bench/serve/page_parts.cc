#include "bench/serve/page_parts.h"

#include "absl/strings/str_cat.h"
#include "bench/serve/load_page_style.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

std::string Row(const std::vector<std::string>& cells, bool heading) {
  std::string out = !heading && cells[0].empty() ? "<tr class=\"on\">" : "<tr>";
  for (size_t i = 0; i < cells.size(); ++i) {
    const bool header = heading || i == 0;
    absl::StrAppend(&out, header ? (heading ? "<th scope=\"col\">" : "<th scope=\"row\">") : "<td>",
                    EscapeXml(cells[i]), header ? "</th>" : "</td>");
  }
  return out + "</tr>\n";
}

}  // namespace

std::string PageHeader(absl::string_view title, const PageFacts& facts) {
  std::string out;
  for (const auto& [name, value] : facts) {
    if (value.empty()) continue;
    absl::StrAppend(&out, value.size() > 80 ? "<div class=\"long\"><dt>" : "<div><dt>", EscapeXml(name), "</dt><dd>",
                    EscapeXml(value), "</dd></div>");
  }
  return absl::StrCat("<header><h1>", EscapeXml(title),
                      "</h1><button id=\"theme\" type=\"button\" hidden=\"hidden\">light / dark</button><dl>", out,
                      "</dl></header>\n");
}

std::string PageSection(absl::string_view id, absl::string_view heading, const std::string& content) {
  return absl::StrCat("<section id=\"", id, "\"><h2>", EscapeXml(heading), "</h2>\n", content, "</section>\n");
}

std::string PageTable(const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<div class=\"scroll\"><table><thead>";
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i == 1) out += "</thead><tbody>";
    absl::StrAppend(&out, Row(rows[i], i == 0));
  }
  return out + (rows.size() > 1 ? "</tbody>" : "</thead>") + "</table></div>\n";
}

std::string PictureGrid(const std::vector<std::string>& pictures) {
  std::string out = "<div class=\"grid3\">";
  for (const std::string& picture : pictures) absl::StrAppend(&out, "<div>", picture, "</div>");
  return out + "</div>";
}

std::string PageShell(absl::string_view title, const std::string& body) {
  return absl::StrCat("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>",
                      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>",
                      EscapeXml(title), "</title><style>", LoadPageStyle(), "</style></head><body>\n", body, "<script>",
                      LoadPageScript(), "</script></body></html>\n");
}

}  // namespace interlace
