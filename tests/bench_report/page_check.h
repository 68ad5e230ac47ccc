// Reads a page and checks what must hold of every one: it is well-formed, numbers are numbers, nothing comes from
// elsewhere.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/bench_report/xml_check.h"

namespace interlace {

struct CheckedPage {
  std::string html, faults;
  std::vector<std::string> sections;
  int pictures = 0;
};

inline CheckedPage CheckPage(const std::string& html) {
  CheckedPage page = {.html = html};
  page.faults = XmlCheck::Faults(html, [&](const std::string& name, const XmlAttributes& attributes) {
    if (name == "section") page.sections.push_back(attributes.at("id"));
    if (name == "svg" && attributes.count("role") > 0) ++page.pictures;
    EXPECT_NE(name, "link");
    EXPECT_NE(name, "img");
    for (const auto& [key, value] : attributes) {
      EXPECT_NE(key, "src");
      EXPECT_NE(key, "href");
      const bool numeric = key == "x" || key == "y" || key == "width" || key == "height" || key == "cx" ||
                           key == "cy" || key == "r" || key == "d" || key == "viewBox";
      if (!numeric) continue;
      EXPECT_EQ(value.find_first_not_of("0123456789.- MLHVZhvlm"), std::string::npos)
          << name << " " << key << "=" << value;
    }
  });
  EXPECT_EQ(page.faults, "");
  for (const char* none : {">nan", ">inf", ">-nan", "nan ", "http-equiv", "@import", "url("}) {
    EXPECT_THAT(html, ::testing::Not(::testing::HasSubstr(none)));
  }
  return page;
}

}  // namespace interlace
