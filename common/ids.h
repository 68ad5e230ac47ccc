// Ids that do not mix: each is its own enum class, so a LayerId never lands where a StageId belongs.
#pragma once

#include <cstdint>
#include <type_traits>

namespace interlace {

enum class RequestId : uint64_t {};   // unique within a coordinator's life
enum class PlanId : uint64_t {};      // unique within a replica epoch, ascending
enum class Epoch : uint64_t {};       // one forming of a replica; a rank that dies starts the next one
enum class LayerId : int32_t {};      // 0 .. model layers - 1, whatever stage holds it
enum class StageId : int32_t {};      // pipeline stage, 0 = first

template <typename Id>
requires std::is_enum_v<Id>
constexpr auto Value(Id id) { return static_cast<std::underlying_type_t<Id>>(id); }

}  // namespace interlace
