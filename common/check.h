// CHECK is for bugs of ours only: it prints file, line and text, then aborts. Bad input is an absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define INTERLACE_CHECK(cond, text)                                                           \
  do {                                                                                        \
    if (!(cond)) [[unlikely]] {                                                               \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed: %s\n", __FILE__, __LINE__, #cond, text); \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)

#define CHECK(cond) INTERLACE_CHECK(cond, "")
#define CHECK_MSG(cond, text) INTERLACE_CHECK(cond, text)
