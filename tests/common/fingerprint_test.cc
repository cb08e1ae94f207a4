#include "common/fingerprint.h"

#include <gtest/gtest.h>

namespace baleen {
namespace {

const Fingerprint kHere = {{"numerics", "exact"}, {"layers", "4"}};

TEST(Fingerprint, EqualOnesDifferNowhere) {
  EXPECT_EQ(FirstDifference(kHere, kHere), std::nullopt);
}

TEST(Fingerprint, NamesTheFieldAndBothValues) {
  EXPECT_EQ(FirstDifference(kHere, {{"numerics", "fp8"}, {"layers", "4"}}),
            "numerics: exact here, fp8 there");
}

TEST(Fingerprint, NamesAFieldThatOneSideLacks) {
  EXPECT_EQ(FirstDifference(kHere, {{"numerics", "exact"}}), "layers: 4 here, missing there");
  EXPECT_EQ(FirstDifference({{"numerics", "exact"}}, kHere), "layers: missing here, 4 there");
}

}  // namespace
}  // namespace baleen
