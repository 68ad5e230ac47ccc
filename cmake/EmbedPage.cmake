# cmake -DFOLDER=... -DOUT=... -P EmbedPage.cmake: writes a header with FOLDER/index.html as one text, in which
# @STYLE@ and @SCRIPT@ are style.css and script.js, and with the SHA-256 of both, which the page's policy names.
file(READ ${FOLDER}/index.html page)
file(READ ${FOLDER}/style.css style)
file(READ ${FOLDER}/script.js script)
string(SHA256 style_hash "${style}")
string(SHA256 script_hash "${script}")
string(REPLACE "@STYLE@" "${style}" page "${page}")
string(REPLACE "@SCRIPT@" "${script}" page "${page}")
string(FIND "${page}" ")page\"" clash)
if(NOT clash EQUAL -1)
  message(FATAL_ERROR "${FOLDER}: the page contains the end of a raw literal")
endif()
file(WRITE ${OUT}.part
"// Made of coordinator/front/ui by cmake/EmbedPage.cmake.
#pragma once

namespace interlace {

inline constexpr char kUiStyleSha256[] = \"${style_hash}\";
inline constexpr char kUiScriptSha256[] = \"${script_hash}\";
inline constexpr char kUiPage[] = R\"page(${page})page\";

}  // namespace interlace
")
file(RENAME ${OUT}.part ${OUT})
