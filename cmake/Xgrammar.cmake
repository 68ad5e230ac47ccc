# xgrammar: what outputs a grammar allows, as masks of tokens. Its C++ core alone, out of the source archive that
# deploy/fetch_xgrammar.sh puts into the cache folder; constraint/ is the only folder that uses it.
set(xgrammar_cache "$ENV{INTERLACE_CACHE}")
if(NOT xgrammar_cache AND DEFINED ENV{XDG_CACHE_HOME})
  set(xgrammar_cache "$ENV{XDG_CACHE_HOME}/interlace")
elseif(NOT xgrammar_cache)
  set(xgrammar_cache "$ENV{HOME}/.cache/interlace")
endif()
set(INTERLACE_XGRAMMAR "${xgrammar_cache}/xgrammar-0.2.9" CACHE PATH "folder with the sources of xgrammar")
if(NOT EXISTS "${INTERLACE_XGRAMMAR}/include/xgrammar/matcher.h")
  message(FATAL_ERROR "the sources of xgrammar are not in ${INTERLACE_XGRAMMAR}: run bash deploy/fetch_xgrammar.sh")
endif()
file(GLOB xgrammar_sources "${INTERLACE_XGRAMMAR}/cpp/*.cc" "${INTERLACE_XGRAMMAR}/cpp/support/*.cc"
  "${INTERLACE_XGRAMMAR}/cpp/converter_ext/*.cc")
add_library(xgrammar STATIC EXCLUDE_FROM_ALL ${xgrammar_sources})
target_include_directories(xgrammar SYSTEM PUBLIC "${INTERLACE_XGRAMMAR}/include" "${INTERLACE_XGRAMMAR}/3rdparty/dlpack/include"
  PRIVATE "${INTERLACE_XGRAMMAR}/3rdparty/picojson")
# Its log goes to constraint/grammar.cc, which turns warnings that a part of a schema is ignored into refusals.
target_compile_definitions(xgrammar PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0 XGRAMMAR_LOG_CUSTOMIZE=1)
target_compile_options(xgrammar PRIVATE -w -O2 -g0)
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
