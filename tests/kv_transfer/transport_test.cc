#include "kv_transfer/transport.h"

#include <gtest/gtest.h>

#include <vector>

namespace baleen::kv_transfer {
namespace {

TEST(DoneAfter, TheLastPartEndsItWithTheFirstError) {
  std::vector<absl::Status> ends;
  const Transport::Done done =
      DoneAfter(3, [&](absl::Status status) { ends.push_back(std::move(status)); });
  done(absl::OkStatus());
  done(absl::AbortedError("first"));
  EXPECT_TRUE(ends.empty());
  done(absl::InternalError("second"));
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0], absl::AbortedError("first"));
}

TEST(DoneAfter, OnePartIsTheWhole) {
  int ends = 0;
  DoneAfter(1, [&](const absl::Status& status) { ends += status.ok(); })(absl::OkStatus());
  EXPECT_EQ(ends, 1);
}

TEST(DoneAfter, NobodyNeedsToListen) { EXPECT_FALSE(DoneAfter(2, {})); }

}  // namespace
}  // namespace baleen::kv_transfer
