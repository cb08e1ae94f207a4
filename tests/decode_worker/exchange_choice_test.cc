#include "decode_worker/exchange_choice.h"

#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(ExchangeChoice, WithoutAWishItIsWhatTheDeviceCanDo) {
  BALEEN_EXPECT_OK(CheckExchange("", "cpu", ""));
  EXPECT_EQ(*ChooseExchange("", /*shared=*/true), ExchangeKind::kPeerMemory);
  EXPECT_EQ(*ChooseExchange("", /*shared=*/false), ExchangeKind::kHost);
}

TEST(ExchangeChoice, AWishIsFollowed) {
  for (const ExchangeKind kind :
       {ExchangeKind::kPeerMemory, ExchangeKind::kNccl, ExchangeKind::kHost}) {
    BALEEN_EXPECT_OK(CheckExchange(Name(kind), "cuda", ""));
    EXPECT_EQ(*ChooseExchange(Name(kind), /*shared=*/true), kind);
  }
  BALEEN_EXPECT_OK(CheckExchange("nccl", "cuda:1", "host"));
  EXPECT_EQ(*ChooseExchange("nccl", /*shared=*/false), ExchangeKind::kNccl);
}

TEST(ExchangeChoice, WishesThatCannotBeNameTheField) {
  const auto refused = [](absl::Status status, const char* text) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  refused(CheckExchange("mail", "cuda", ""), "expert_exchange: \"mail\"");
  refused(CheckExchange("nccl", "cpu", ""), "\"nccl\" needs worker.device \"cuda\"");
  refused(CheckExchange("peer_memory", "", ""), "\"peer_memory\" needs worker.device");
  refused(CheckExchange("peer_memory", "cuda", "host"), "worker.peer_memory is \"host\"");
  EXPECT_THAT(ChooseExchange("peer_memory", /*shared=*/false),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not shared")));
}

}  // namespace
}  // namespace baleen::decode_worker
