#include "common/boxed.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace interlace {
namespace {

TEST(BoxedTest, IsOnePointerAndEmptyAtFirst) {
  static_assert(sizeof(Boxed<std::string>) == sizeof(void*));
  Boxed<std::string> box;
  EXPECT_FALSE(box.has_value());
  EXPECT_TRUE(box == std::nullopt);
  box.emplace("a");
  EXPECT_EQ(*box, "a");
  box.reset();
  EXPECT_FALSE(box);
}

TEST(BoxedTest, CopiesAreOfTheirOwn) {
  Boxed<std::string> first = std::string("a"), second = first;
  EXPECT_TRUE(first == second);
  *second += "b";
  EXPECT_EQ(*first, "a");
  EXPECT_FALSE(first == second);
  first = second;
  EXPECT_EQ(*first, "ab");
  const Boxed<std::string> third = std::move(first);
  EXPECT_EQ(*third, "ab");
}

TEST(BoxedTest, ComesFromAnOptionalAndBecomesOne) {
  Boxed<std::string> box = std::optional<std::string>("a");
  EXPECT_EQ(std::optional<std::string>(box), "a");
  box = std::optional<std::string>();
  EXPECT_EQ(std::optional<std::string>(box), std::nullopt);
}

}  // namespace
}  // namespace interlace
