#include "prefill_worker/pipeline.h"

#include <gtest/gtest.h>

#include <cstring>
#include <future>

#include "absl/strings/str_cat.h"
#include "kv_transfer/loopback_transport.h"
#include "testing/event_log.h"

namespace baleen::prefill_worker {
namespace {

using baleen::testing::EventLog;
using kv_transfer::Buffer;
using kv_transfer::BufferPool;

// One stage's end of the wires.
struct End {
  End(kv_transfer::LoopbackHub& hub, int index)
      : transport(hub.Create(absl::StrCat("stage ", index))) {
    links = *kv_transfer::LinkTable::Create(
        *transport, {.name = absl::StrCat("stage ", index), .incarnation = {uint64_t(10 + index)}},
        metrics);
    pipeline = std::make_unique<Pipeline>(
        *links, index,
        Pipeline::Callbacks{.batch =
                                [this](Pipeline::Batch batch) {
                                  float first = 0;
                                  if (!batch.activations.empty())
                                    std::memcpy(&first, batch.activations.data(), sizeof(first));
                                  log.Add(absl::StrCat("batch ", batch.header.number, " bytes ",
                                                       batch.activations.size(), " first ", first));
                                },
                            .report =
                                [this](StageReport r) {
                                  log.Add(absl::StrCat("report ", r.attempt.value, " ",
                                                       r.status.message()));
                                },
                            .broken =
                                [this](const absl::Status& why) {
                                  log.Add(std::string(why.message().substr(0, 15)));
                                }});
  }
  worker::MemberInfo member(int index) const {
    const auto self = links->Self();
    return {.index = index,
            .incarnation = self.incarnation,
            .transport_address = self.transport_address};
  }

  EventLog log;
  Metrics metrics;
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<kv_transfer::LinkTable> links;
  std::unique_ptr<Pipeline> pipeline;
};

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    members_ = {first_.member(0), second_.member(1)};
    first_.pipeline->Connect(members_);
    second_.pipeline->Connect(members_);
  }
  // What a stage gone mad might send.
  void SendNonsense(uint8_t type, std::vector<std::byte> bytes) {
    auto kept = std::make_shared<std::vector<std::byte>>(std::move(bytes));
    first_.transport->Post([this, type, kept] {
      const auto link = first_.links->Connect({.name = "stage 1",
                                               .transport_address = members_[1].transport_address,
                                               .incarnation = members_[1].incarnation});
      const std::span<const std::byte> pieces[] = {*kept};
      first_.links->Send(*link, type, {}, pieces, [kept](const absl::Status&) {});
    });
  }

  kv_transfer::LoopbackHub hub_;
  End first_{hub_, 0}, second_{hub_, 1};
  std::vector<worker::MemberInfo> members_;
};

TEST_F(PipelineTest, BatchesGoOnInOrderWithTheirActivations) {
  const auto pool = BufferPool::Create(1 << 20);
  for (uint64_t number = 1; number <= 3; ++number) {
    Buffer rows = pool->Get(8 * sizeof(float));
    const float value = float(number) + 0.5f;
    std::memcpy(rows.data(), &value, sizeof(value));
    first_.pipeline->SendBatch({.number = number, .entries = {{.attempt = {1}, .rows = 2}}},
                               std::move(rows));
  }
  first_.pipeline->SendBatch({.number = 4, .aborts = {{1}}}, {});
  ASSERT_TRUE(second_.log.WaitFor("batch 4 bytes 0 first 0"));
  EXPECT_EQ(second_.log.events(),
            (std::vector<std::string>{"batch 1 bytes 32 first 1.5", "batch 2 bytes 32 first 2.5",
                                      "batch 3 bytes 32 first 3.5", "batch 4 bytes 0 first 0"}));
}

TEST_F(PipelineTest, ReportsReachTheLeaderFromEveryStage) {
  second_.pipeline->Report({.attempt = {5}, .status = absl::InternalError("NaN")});
  first_.pipeline->Report({.attempt = {6}});
  EXPECT_TRUE(first_.log.WaitFor("report 5 NaN"));
  EXPECT_TRUE(first_.log.WaitFor("report 6 "));
}

TEST_F(PipelineTest, NonsenseBreaksTheGroupInsteadOfTheProcess) {
  SendNonsense(kBatchMessage, {});
  EXPECT_TRUE(second_.log.WaitFor("batch: too shor"));
  SendNonsense(kBatchMessage, std::vector<std::byte>(4, std::byte{0xff}));
  EXPECT_TRUE(second_.log.WaitFor("batch: header i"));
  SendNonsense(kBatchMessage, std::vector<std::byte>(8));
  EXPECT_TRUE(second_.log.WaitFor("batch header: w"));
}

TEST_F(PipelineTest, ABatchThatIsNotTheNextOneBreaksTheGroup) {
  first_.pipeline->SendBatch({.number = 1}, {});
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  first_.pipeline->SendBatch({.number = 3}, {});
  EXPECT_TRUE(second_.log.WaitFor("batch 3 after b"));
  first_.pipeline->SendBatch({.number = 1}, {});
  EXPECT_TRUE(second_.log.WaitFor("batch 1 after b"));
}

TEST_F(PipelineTest, OnlyThePreviousStagesBatchesAndMembersReportsCount) {
  End stranger(hub_, 7);
  stranger.pipeline->Connect(members_);  // has no place among them
  stranger.pipeline->Report({.attempt = {7}});
  const std::vector<std::byte> header = Encode(BatchHeader{.number = 1});
  const auto size = static_cast<uint32_t>(header.size());
  auto message = std::make_shared<std::vector<std::byte>>();
  for (const auto piece : {std::as_bytes(std::span(&size, 1)), std::as_bytes(std::span(header))})
    message->insert(message->end(), piece.begin(), piece.end());
  auto sent = std::make_shared<std::promise<void>>();
  stranger.transport->Post([&, message, sent] {
    const auto link = stranger.links->Connect(second_.links->Self());
    const std::span<const std::byte> whole[] = {*message};
    stranger.links->Send(*link, kBatchMessage, {}, whole,
                         [message, sent](const absl::Status&) { sent->set_value(); });
  });
  sent->get_future().wait();
  second_.pipeline->Report({.attempt = {8}});
  ASSERT_TRUE(first_.log.WaitFor("report 8 "));
  first_.pipeline->SendBatch({.number = 1, .entries = {{.attempt = {1}}}}, {});
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  EXPECT_EQ(first_.log.events(), (std::vector<std::string>{"report 8 "}));
  EXPECT_EQ(second_.log.events(), (std::vector<std::string>{"batch 1 bytes 0 first 0"}));
}

TEST_F(PipelineTest, ABrokenLinkNamesTheStage) {
  first_.pipeline->SendBatch({.number = 1}, {});
  ASSERT_TRUE(second_.log.WaitFor("batch 1 bytes 0 first 0"));
  hub_.Break("stage 0", "stage 1");
  EXPECT_TRUE(first_.log.WaitFor("link to stage 1"));
  EXPECT_TRUE(second_.log.WaitFor("link to stage 0"));
}

}  // namespace
}  // namespace baleen::prefill_worker
