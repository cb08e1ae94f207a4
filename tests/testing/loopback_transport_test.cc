// The fake must behave as the contract of Transport says, or the tests above it prove nothing.
#include "testing/loopback_transport.h"

#include <cstring>
#include <future>

#include "gtest/gtest.h"
#include "testing/status_matchers.h"

namespace baleen::kv_transfer {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;
using Fate = LoopbackHub::Fate;

class Loopback : public ::testing::Test {
 protected:
  void SetUp() override {
    b_->SetReceiver([this](std::span<const std::byte> header, Buffer payload) {
      received_.push_back(int(header[0]) * 1000 + int(payload.size()));
    });
    a_->SetFailureObserver([this](EndpointId, absl::Status s) { failure_ = s; });
    const auto region = b_->RegisterRegion(MemoryKind::kHost, memory_.data(), memory_.size());
    endpoint_ = *a_->Open(b_->LocalAddress());
    back_ = *b_->Open(a_->LocalAddress());
    key_ = *a_->ImportKey(endpoint_, *b_->PackRemoteKey(*region));
  }
  void Put(std::byte value, size_t at, size_t size = 8) {
    source_.assign(size, value);
    const Transport::Piece piece = {source_, reinterpret_cast<uint64_t>(memory_.data()) + at};
    a_->Put(endpoint_, {&piece, 1}, key_, Note());
  }
  void Send(int header, size_t bytes) {
    const std::byte h[] = {std::byte(header)};
    const std::vector<std::byte> body(bytes);
    const std::span<const std::byte> piece = body;
    a_->Send(endpoint_, h, {&piece, 1}, Note());
  }
  Transport::Done Note() {
    return [this](absl::Status s) { done_.push_back(s.code()); };
  }

  LoopbackHub hub_{LoopbackHub::Mode::kManual};
  std::vector<std::byte> memory_ = std::vector<std::byte>(64), source_;
  std::unique_ptr<Transport> a_ = hub_.Create("a"), b_ = hub_.Create("b");
  EndpointId endpoint_, back_;
  RemoteKeyId key_;
  std::vector<int> received_;
  std::vector<absl::StatusCode> done_;
  absl::Status failure_;
};

TEST_F(Loopback, DeliversInOrderAndCallsDoneLater) {
  Send(1, 10);
  Send(2, 20);
  EXPECT_TRUE(done_.empty());
  hub_.Run();
  EXPECT_EQ(received_, (std::vector{1010, 2020}));
  EXPECT_EQ(done_.size(), 2u);
}

TEST_F(Loopback, PutsStayInsideTheirRegion) {
  Put(std::byte{1}, 0);
  Put(std::byte{2}, 60);  // four bytes too far
  hub_.Run();
  EXPECT_EQ(memory_[7], std::byte{1});
  EXPECT_EQ(memory_[60], std::byte{0});
}

TEST_F(Loopback, HeldOperationsWaitWithEverythingBehindThem) {
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.kind == LoopbackHub::OpKind::kPut ? Fate::kHold : Fate::kPass;
  });
  Put(std::byte{3}, 0);
  a_->Flush(endpoint_, Note());
  Send(1, 1);
  hub_.Run();
  EXPECT_TRUE(done_.empty());
  EXPECT_TRUE(received_.empty());
  hub_.ReleaseHeld();
  hub_.Run();
  EXPECT_EQ(memory_[0], std::byte{3});
  EXPECT_EQ(done_.size(), 3u);
  EXPECT_EQ(received_.size(), 1u);
}

TEST_F(Loopback, ClosingCancelsWhatIsUnderWay) {
  hub_.DropAfter(0);
  Send(1, 1);
  bool closed = false;
  a_->Close(endpoint_, [&] { closed = true; });
  hub_.Run();
  EXPECT_TRUE(closed);
  EXPECT_EQ(done_, std::vector{absl::StatusCode::kCancelled});
  Send(2, 1);
  hub_.Run();
  EXPECT_EQ(done_.back(), absl::StatusCode::kUnavailable);
}

TEST_F(Loopback, AfterTheOwnersCloseLatePutsAreDroppedOrNotAsTheFenceSays) {
  b_->Close(back_, [] {});
  hub_.Run();
  Put(std::byte{1}, 0);
  hub_.Run();
  EXPECT_EQ(memory_[0], std::byte{0}) << "kOwnClose";
  auto c = hub_.Create("c", Transport::Fence::kPeerDeath);
  const auto region = c->RegisterRegion(MemoryKind::kHost, memory_.data(), memory_.size());
  endpoint_ = *a_->Open(c->LocalAddress());
  key_ = *a_->ImportKey(endpoint_, *c->PackRemoteKey(*region));
  Put(std::byte{2}, 0);
  hub_.Run();
  EXPECT_EQ(memory_[0], std::byte{2}) << "kPeerDeath";
}

TEST_F(Loopback, APeerThatEndsIsReported) {
  b_.reset();
  hub_.Run();
  EXPECT_THAT(failure_, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("gone")));
}

TEST(LoopbackThreads, CarriesMessagesBetweenThreads) {
  LoopbackHub hub;
  auto a = hub.Create("a"), b = hub.Create("b");
  std::promise<size_t> got;
  RunOn(*b, [&] {
    b->SetReceiver([&](std::span<const std::byte>, Buffer payload) {
      EXPECT_TRUE(b->OnOwnThread());
      got.set_value(payload.size());
    });
  });
  const std::vector<std::byte> body(12345);
  RunOn(*a, [&] {
    const std::span<const std::byte> piece = body;
    a->Send(*a->Open(b->LocalAddress()), {}, {&piece, 1}, [](const absl::Status&) {});
  });
  EXPECT_EQ(got.get_future().get(), 12345u);
}

}  // namespace
}  // namespace baleen::kv_transfer
