#include "bench/serve/load_page_style.h"

#include "absl/strings/str_cat.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

// Lines keep 3 : 1 against the paper and are told apart with every common colour blindness (after Okabe and Ito).
constexpr char kLight[] =
    "--paper:#fff;--raised:#f5f7f9;--ink:#1c2228;--soft:#5a6570;--grid:#e6eaee;--axis:#98a3ad;--warn:#fdf3e1;"
    "--c0:#0072b2;--c1:#d55e00;--c2:#00876c;--c3:#a8518a;--c4:#a67c00;--c5:#3d9bd6;--c6:#4d5761;"
    "--ok:#5aa897;--shed:#e0a526;--bad:#c8442f;--left:#9aa5ae;";
constexpr char kDark[] =
    "--paper:#15191d;--raised:#1e242a;--ink:#e8ecef;--soft:#a3aeb8;--grid:#2a3138;--axis:#5d6872;--warn:#3a2f18;"
    "--c0:#5eb5ee;--c1:#f58a4b;--c2:#3ac7a6;--c3:#d992c0;--c4:#e3bd4a;--c5:#9aa8ff;--c6:#c3ccd4;"
    "--ok:#4a9a88;--shed:#e3b04b;--bad:#e5674f;--left:#737f89;";

constexpr char kPage[] = R"(
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main{max-width:1240px;margin:0 auto;padding:0 20px}
header{padding-top:24px;position:relative}
h1{font-size:26px;margin:0 120px 12px 0;line-height:1.2}
h2{font-size:19px;margin:36px 0 8px;padding-top:14px;border-top:1px solid var(--grid)}
h3{font-size:15px;margin:14px 0 4px}
#theme{position:absolute;right:20px;top:24px;font:inherit;font-size:13px;color:var(--ink);background:var(--raised);border:1px solid var(--grid);border-radius:6px;padding:4px 10px;cursor:pointer}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:8px 20px;margin:0;padding:12px 14px;background:var(--raised);border-radius:8px}
dt{font-size:12px;color:var(--soft)}
dd{margin:0;font-size:14px;overflow-wrap:anywhere}
.terms{margin-top:8px}
figure{margin:0 0 8px}
figcaption,.note{font-size:13px;color:var(--soft);max-width:80ch;margin:6px 0 0}
.lead{font-size:17px;margin:6px 0}
.grid3{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:22px 28px;align-items:start}
.wide{margin:10px 0}
.narrow{display:none;margin:10px 0}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:4px 0 10px;font-size:13px}
.legend span{white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
.tiles div{background:var(--raised);border-radius:8px;padding:10px 14px}
.tiles span{display:block;font-size:12px;color:var(--soft)}
.tiles b{font-size:21px;font-weight:600}
.long{grid-column:1/-1}
.warnings{background:var(--warn);border-radius:8px;padding:8px 14px;margin:16px 0 0;font-size:14px}
.warnings ul{margin:0;padding:0 0 0 18px}
details{margin:6px 0}
summary{cursor:pointer;font-size:14px;padding:4px 0}
.scroll{overflow-x:auto;margin:4px 0 12px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:4px 10px;text-align:right;white-space:nowrap}
thead th{color:var(--soft);font-weight:500;white-space:normal;vertical-align:bottom}
tbody th{font-weight:500;text-align:left;position:sticky;left:0;background:var(--paper)}
tbody tr:not(.on) th,tbody tr:not(.on) td{border-top:1px solid var(--grid)}
.latencies th:nth-child(2),.latencies td:nth-child(2){text-align:left}
#capacity td:last-child,#capacity thead th:last-child{text-align:left}
.o-ok{fill:var(--ok)}.o-cancelled{fill:var(--left)}.o-shed{fill:var(--shed)}
.o-refused,.o-failed,.o-truncated,.o-garbage,.o-timeout,.o-lost{fill:var(--bad)}
.o-failed{opacity:.85}.o-truncated{opacity:.7}.o-garbage{opacity:.6}.o-timeout{opacity:.5}.o-lost{opacity:.4}
.w-wait{fill:var(--k);opacity:.32}.w-stream{fill:var(--k)}
.w-tick{stroke:var(--paper);stroke-width:.8;opacity:.7;fill:none}
.w-lag{stroke:var(--bad);stroke-width:2;fill:none}
.w-hole{stroke:var(--bad);stroke-width:1.6;fill:none}
.w-shed,.w-failed,.w-left{stroke-width:1.6;fill:none}
.w-shed{stroke:var(--shed)}.w-failed{stroke:var(--bad)}.w-left{stroke:var(--left)}
@media (max-width:760px){
header,main{padding-left:14px;padding-right:14px}
h1{font-size:22px}#theme{right:14px}
dl{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.wide{display:none}.narrow{display:block}
}
@media print{
body{font-size:11pt}#theme{display:none}
tr,.grid3>div,.wide,.tiles{break-inside:avoid}
h2,h3,.legend,summary,thead{break-after:avoid}
h2{margin-top:18px}
.scroll{overflow:visible}table{font-size:7pt}th,td{padding:2px 4px}
.wide{display:block}.narrow{display:none}
}
)";

}  // namespace

std::string LoadPageStyle() {
  return absl::StrCat(
      ":root{color-scheme:light;", kLight,
      "}\n@media screen and (prefers-color-scheme:dark){:root:not([data-theme=light]){color-scheme:dark;", kDark,
      "}}\n@media screen{:root[data-theme=dark]{color-scheme:dark;", kDark, "}}\n", kPage, SvgChartStyle());
}

absl::string_view LoadPageScript() {
  return R"js(
(function(){
var root=document.documentElement,button=document.getElementById("theme");
if(!button)return;
button.hidden=false;
button.addEventListener("click",function(){
var dark=root.dataset.theme?root.dataset.theme==="dark":matchMedia("(prefers-color-scheme: dark)").matches;
root.dataset.theme=dark?"light":"dark";
});
})();
)js";
}

}  // namespace interlace
