// Memory of a GPU over a real UCX built with CUDA (LD_LIBRARY_PATH=.deps/ucx/lib), as between
// machines: this process and a spawned one on one GPU, with nothing mapped.
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/cuda/peer_memory.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "testing/status_matchers.h"
#include "tests/kernels/cuda/spawned_test.h"

namespace baleen::kv_transfer {
namespace {

using baleen::testing::IsOk;
using kernels::cuda::testing::Device;
using kernels::cuda::testing::kBytes;
using kernels::cuda::testing::Pattern;
using kernels::cuda::testing::SpawnedTest;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr size_t kLargest = size_t{3} << 20;  // like a page

struct Place {
  size_t here, there;  // offsets
  size_t bytes;
};

// A process's end: its GPU, its transport, 8 MB that peers may write and that it puts from.
class End {
 public:
  End(const std::string& transports, uint32_t pattern)
      : peer_memory(kernels::cuda::MakeCudaPeerMemory(0)), memory(Pattern(pattern)) {
    auto made = CreateUcxTransport({.name = "end",
                                    .transports = transports,
                                    .peer_memory = peer_memory.get(),
                                    .device_ways = DeviceWays::kUcx});
    EXPECT_THAT(made, IsOk());
    transport = *std::move(made);
    RunOn(*transport, [&] {
      const auto region = transport->RegisterRegion(MemoryKind::kDevice, memory.data(), kBytes);
      EXPECT_THAT(region, IsOk()) << "which UCX is it? LD_LIBRARY_PATH=.deps/ucx/lib";
      if (region.ok()) key_ = *transport->PackRemoteKey(*region);
    });
  }

  // What Connect needs of the other end.
  std::string Address() const {
    const auto base = reinterpret_cast<uint64_t>(memory.data());
    return absl::StrCat(base, " ", key_.size(), " ", key_, transport->LocalAddress());
  }
  void Connect(const std::string& address) {
    int at = 0;
    size_t key_bytes = 0;
    ASSERT_EQ(sscanf(address.c_str(), "%lu %zu %n", &base_there_, &key_bytes, &at), 2);
    RunOn(*transport, [&] {
      const auto endpoint = transport->Open(address.substr(size_t(at) + key_bytes));
      BALEEN_ASSERT_OK(endpoint);
      there = *endpoint;
      imported_ = *transport->ImportKey(there, address.substr(size_t(at), key_bytes));
    });
  }
  absl::Status Agree() {
    std::promise<absl::Status> agreed;
    RunOn(*transport, [&] {
      transport->AgreeOnDeviceWay(there, [&](absl::Status s) { agreed.set_value(std::move(s)); });
    });
    return agreed.get_future().get();
  }
  std::future<absl::Status> Put(const std::vector<Place>& places) {
    auto flushed = std::make_shared<std::promise<absl::Status>>();
    RunOn(*transport, [&] {
      std::vector<Transport::Piece> pieces;
      for (const Place& place : places)
        pieces.push_back({{memory.data() + place.here, place.bytes}, base_there_ + place.there});
      transport->Put(there, pieces, imported_, {});
      transport->Flush(there, [flushed](const absl::Status& s) { flushed->set_value(s); });
    });
    return flushed->get_future();
  }
  bool Close() {
    auto closed = std::make_shared<std::promise<void>>();
    transport->Post([this, closed] { transport->Close(there, [closed] { closed->set_value(); }); });
    return closed->get_future().wait_for(seconds(10)) == std::future_status::ready;
  }

  const std::unique_ptr<PeerMemory> peer_memory;
  Device memory;
  std::unique_ptr<Transport> transport;
  EndpointId there;

 private:
  std::string key_;
  uint64_t base_there_ = 0;
  RemoteKeyId imported_;
};

class UcxCuda : public ::testing::TestWithParam<const char*> {
 protected:
  // A peer that does what its name says, connected both ways.
  std::unique_ptr<SpawnedTest> Peer(End& end, const std::string& name) {
    auto peer = std::make_unique<SpawnedTest>(absl::StrCat("UcxCudaPeer.DISABLED_", name));
    peer->Send(GetParam());
    peer->Send(end.Address());
    const std::string address = peer->Receive();
    EXPECT_FALSE(address.empty()) << "the other process failed";
    if (address.empty()) return nullptr;
    end.Connect(address);
    peer->Send("go");
    return peer;
  }
};
// Not shared memory: there a fetch from a writer that died does not end (worker::ModelHost).
INSTANTIATE_TEST_SUITE_P(Wires, UcxCuda, ::testing::Values("tcp"),
                         [](const auto& info) { return std::string(info.param); });

// The other side of Peer.
std::unique_ptr<End> Introduce(uint32_t pattern) {
  auto end = std::make_unique<End>(SpawnedTest::Hear(), pattern);
  end->Connect(SpawnedTest::Hear());
  SpawnedTest::Tell(end->Address());
  EXPECT_EQ(SpawnedTest::Hear(), "go");
  return end;
}

const std::vector<Place> kTwoPages = {{0, 0, kLargest}, {kLargest, kLargest, kLargest}};

void ExpectEqual(const std::vector<std::byte>& got, const std::vector<std::byte>& want) {
  for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(got[i], want[i]) << "byte " << i;
}

// All sizes and alignments; what lies between them stays as it was.
std::vector<Place> SomePieces() {
  std::vector<Place> pieces = {{0, 0, kLargest}};
  size_t at = kLargest + 1;
  for (size_t i = 1; i < 100; ++i) {
    const size_t bytes = i % 5 == 0 ? 40'000 + i : i * i;
    pieces.push_back({at, at, bytes});
    at += bytes + i % 3;
  }
  EXPECT_LT(at, kBytes);
  return pieces;
}

TEST_P(UcxCuda, PagesOfAnotherProcessArriveByteForByte) {
  End end(GetParam(), 2);
  const auto peer = Peer(end, "PutsSomePieces");
  ASSERT_NE(peer, nullptr);
  EXPECT_EQ(peer->Receive(), "ucx_cuda OK");
  std::vector<std::byte> want = Pattern(2);
  const std::vector<std::byte> theirs = Pattern(1);
  for (const Place& p : SomePieces())
    std::memcpy(want.data() + p.there, theirs.data() + p.here, p.bytes);
  ExpectEqual(end.memory.Read(), want);
}

TEST_P(UcxCuda, PutsOutsideTheRegionAreRefused) {
  End end(GetParam(), 2);
  const auto peer = Peer(end, "OwnsItsMemory");
  ASSERT_NE(peer, nullptr);
  BALEEN_ASSERT_OK(end.Agree());
  BALEEN_EXPECT_OK(end.Put({{0, kBytes - kLargest, kLargest}}).get());
  EXPECT_EQ(end.Put({{0, kBytes - kLargest + 1, kLargest}}).get().code(),
            absl::StatusCode::kInvalidArgument);
}

// The rule behind Fence::kOwnClose, for pages on a device.
TEST_P(UcxCuda, TheOwnersCloseStopsAFloodOfPuts) {
  End end(GetParam(), 2);
  const auto peer = Peer(end, "PutsForever");
  ASSERT_NE(peer, nullptr);
  ASSERT_EQ(peer->Receive(), "flooding");
  ASSERT_TRUE(end.Close());
  end.memory.Write(Pattern(3));
  std::this_thread::sleep_for(milliseconds(300));  // what is watched is that nothing happens
  ExpectEqual(end.memory.Read(), Pattern(3));
}

TEST_P(UcxCuda, AWriterThatDiesLeavesTheOwnerAsItWas) {
  End end(GetParam(), 2);
  auto peer = Peer(end, "PutsForever");
  ASSERT_NE(peer, nullptr);
  ASSERT_EQ(peer->Receive(), "flooding");
  peer->Kill();
  ASSERT_TRUE(end.Close());
  end.memory.Write(Pattern(3));
  peer = Peer(end, "PutsSomePieces");
  ASSERT_NE(peer, nullptr);
  EXPECT_EQ(peer->Receive(), "ucx_cuda OK");
}

TEST_P(UcxCuda, AnOwnerThatDiesLeavesTheWriterAsItWas) {
  End end(GetParam(), 1);
  auto peer = Peer(end, "OwnsItsMemory");
  ASSERT_NE(peer, nullptr);
  BALEEN_ASSERT_OK(end.Agree());
  BALEEN_ASSERT_OK(end.Put(kTwoPages).get());
  std::vector<std::future<absl::Status>> flushed;
  for (int i = 0; i < 50; ++i) flushed.push_back(end.Put(kTwoPages));
  peer->Kill();
  ASSERT_TRUE(end.Close());
  for (auto& f : flushed) ASSERT_EQ(f.wait_for(seconds(10)), std::future_status::ready);
  peer = Peer(end, "OwnsItsMemory");
  ASSERT_NE(peer, nullptr);
  BALEEN_ASSERT_OK(end.Agree());
  BALEEN_EXPECT_OK(end.Put(kTwoPages).get());
}

TEST(UcxCudaPeer, DISABLED_OwnsItsMemory) {
  const auto end = Introduce(1);
  SpawnedTest::Hear();  // nothing: the other process ends first
}

TEST(UcxCudaPeer, DISABLED_PutsSomePieces) {
  const auto end = Introduce(1);
  absl::Status status = end->Agree();
  if (status.ok()) status = end->Put(SomePieces()).get();
  std::string way;
  RunOn(*end->transport, [&] { way = end->transport->DeviceWayName(end->there); });
  SpawnedTest::Tell(absl::StrCat(way, " ", status.ToString()));
  SpawnedTest::Hear();
}

TEST(UcxCudaPeer, DISABLED_PutsForever) {
  const auto end = Introduce(1);
  BALEEN_ASSERT_OK(end->Agree());
  for (int i = 0;; ++i) {  // until it is killed
    auto flushed = end->Put(kTwoPages);
    if (i == 3) SpawnedTest::Tell("flooding");
    flushed.wait_for(milliseconds(20));
  }
}

}  // namespace
}  // namespace baleen::kv_transfer
