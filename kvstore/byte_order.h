// Integers at fixed byte orders, for keys and headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace interlace {

template <typename T>
void StoreLittle(T value, char* to) {
  const auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<char>(bits >> (8 * i));
}

template <typename T>
T LoadLittle(const char* from) {
  std::make_unsigned_t<T> bits = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    bits = static_cast<decltype(bits)>(bits | (decltype(bits){static_cast<uint8_t>(from[i])} << (8 * i)));
  }
  return static_cast<T>(bits);
}

template <typename T>
void StoreBig(T value, char* to) {
  const auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<char>(bits >> (8 * (sizeof(T) - 1 - i)));
}

template <typename T>
T LoadBig(const char* from) {
  std::make_unsigned_t<T> bits = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    bits = static_cast<decltype(bits)>((bits << 8) | static_cast<uint8_t>(from[i]));
  }
  return static_cast<T>(bits);
}

}  // namespace interlace
