// Two transports of this process whose pages are on a device: host memory that a PeerMemory for
// tests calls so. As kHost UCX carries it, as kCuda it does not where there is no GPU.
#include "kv_transfer/ucx/ucx_transport_device.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "testing/eventually.h"
#include "testing/host_peer_memory.h"
#include "testing/status_matchers.h"

namespace baleen::kv_transfer {
namespace {

using ::baleen::testing::Eventually;
using ::baleen::testing::HostPeerMemory;
using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Kind = PeerMemory::Kind;

std::unique_ptr<Transport> Make(HostPeerMemory* device, DeviceWays ways,
                                const std::string& transports = "shm") {
  auto made = CreateUcxTransport(
      {.name = "device", .transports = transports, .peer_memory = device, .device_ways = ways});
  EXPECT_THAT(made, IsOk());
  return *std::move(made);
}

// a puts pages, b owns them.
class Pair {
 public:
  static constexpr int kCount = 300;  // more than one put's pieces

  explicit Pair(DeviceWays ways = DeviceWays::kAny, const std::string& transports = "shm",
                size_t page = 1000, Kind kind_a = Kind::kHost, Kind kind_b = Kind::kHost)
      : page(page), device_a(kind_a), device_b(kind_b), source(page * kCount), target(source) {
    for (size_t i = 0; i < source.size(); ++i) source[i] = std::byte(i * 31 % 251);
    a = Make(&device_a, ways, transports);
    b = Make(&device_b, DeviceWays::kAny, transports);
    RunOn(*b, [&] {
      const auto region = b->RegisterRegion(MemoryKind::kDevice, target.data(), target.size());
      key_ = *b->PackRemoteKey(*region);
      back = *b->Open(a->LocalAddress());
    });
    RunOn(*a, [&] {
      BALEEN_EXPECT_OK(a->RegisterRegion(MemoryKind::kDevice, source.data(), source.size()));
      there = *a->Open(b->LocalAddress());
      imported = *a->ImportKey(there, key_);
    });
  }
  ~Pair() { a.reset(), b.reset(); }

  absl::Status Agree() {
    std::promise<absl::Status> agreed;
    RunOn(*a, [&] {
      a->AgreeOnDeviceWay(there, [&](absl::Status s) { agreed.set_value(std::move(s)); });
    });
    return agreed.get_future().get();
  }
  std::string Way() {
    std::string name;
    RunOn(*a, [&] { name = a->DeviceWayName(there); });
    return name;
  }
  uint64_t At(size_t offset) { return reinterpret_cast<uint64_t>(target.data()) + offset; }
  // Page i to page kCount - 1 - i.
  std::vector<Transport::Piece> AllPages() {
    std::vector<Transport::Piece> pieces;
    for (int i = 0; i < kCount; ++i)
      pieces.push_back(
          {{source.data() + size_t(i) * page, page}, At(size_t(kCount - 1 - i) * page)});
    return pieces;
  }
  bool AllPagesAreThere() {
    bool equal = true;
    RunOn(*b, [&] {
      for (int i = 0; i < kCount; ++i)
        equal &= std::memcmp(target.data() + size_t(kCount - 1 - i) * page,
                             source.data() + size_t(i) * page, page) == 0;
    });
    return equal;
  }
  struct Outcome {
    std::future<absl::Status> put, flushed;
  };
  Outcome Put(std::vector<Transport::Piece> pieces) {
    auto put = std::make_shared<std::promise<absl::Status>>(),
         flushed = std::make_shared<std::promise<absl::Status>>();
    Outcome outcome = {put->get_future(), flushed->get_future()};
    RunOn(*a, [&] {
      a->Put(there, pieces, imported, [put](const absl::Status& s) { put->set_value(s); });
      a->Flush(there, [flushed](const absl::Status& s) { flushed->set_value(s); });
    });
    return outcome;
  }
  bool TargetIsUntouched() {
    return std::count(target.begin(), target.end(), std::byte{0}) == ptrdiff_t(target.size());
  }

  const size_t page;
  HostPeerMemory device_a, device_b;
  std::vector<std::byte> source, target;
  std::unique_ptr<Transport> a, b;
  EndpointId there, back;
  RemoteKeyId imported;

 private:
  std::string key_;
};

// ---- by PeerMemory ------------------------------------------------------------------------------

TEST(ByPeerMemory, PagesAreFetchedByTheTargetsDeviceManyAtOnce) {
  Pair pair;
  BALEEN_ASSERT_OK(pair.Agree());
  EXPECT_EQ(pair.Way(), "cuda_ipc");
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  BALEEN_EXPECT_OK(outcome.put.get());
  BALEEN_EXPECT_OK(outcome.flushed.get());
  EXPECT_TRUE(pair.AllPagesAreThere());
  EXPECT_EQ(pair.device_b.copies, 3);
  EXPECT_EQ(pair.device_b.imports, 1);
  EXPECT_EQ(pair.device_a.copies, 0);
}

TEST(ByPeerMemory, NeitherPutNorFlushEndsBeforeTheCopies) {
  Pair pair;
  BALEEN_ASSERT_OK(pair.Agree());
  pair.device_b.hold = true;
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  ASSERT_TRUE(Eventually([&] { return pair.device_b.copies == 3; }));
  EXPECT_EQ(outcome.put.wait_for(milliseconds(50)), std::future_status::timeout);
  EXPECT_EQ(outcome.flushed.wait_for(milliseconds(0)), std::future_status::timeout);
  pair.device_b.hold = false;
  BALEEN_EXPECT_OK(outcome.put.get());
  BALEEN_EXPECT_OK(outcome.flushed.get());
}

TEST(ByPeerMemory, WhatIsNotInsideBothRegionsIsRefused) {
  Pair pair;
  BALEEN_ASSERT_OK(pair.Agree());
  std::vector<std::byte> host(pair.page);
  for (const Transport::Piece& bad :
       {Transport::Piece{{pair.source.data(), 1000}, pair.At(pair.target.size() - 999)},
        Transport::Piece{{pair.source.data(), 1000}, pair.At(0) - 1},
        Transport::Piece{{pair.source.data() + pair.source.size() - 1, 2}, pair.At(0)},
        Transport::Piece{{host.data(), 1000}, pair.At(0)}}) {  // of the host, into a device's
    EXPECT_THAT(pair.Put({bad}).flushed.get(), ::testing::Not(IsOk()));
  }
  EXPECT_TRUE(pair.TargetIsUntouched());
  EXPECT_EQ(pair.device_b.copies, 0);
}

TEST(ByPeerMemory, MemoryThatCanBeMappedNoLongerIsAnErrorOfThePut) {
  Pair pair;
  BALEEN_ASSERT_OK(pair.Agree());
  std::vector<std::byte> other(1000);  // the outbox beside the pool
  RunOn(*pair.a, [&] {
    BALEEN_EXPECT_OK(pair.a->RegisterRegion(MemoryKind::kDevice, other.data(), other.size()));
  });
  pair.device_b.refuse = true;
  Pair::Outcome outcome = pair.Put({{other, pair.At(0)}});
  const auto refused = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("refused by its target"));
  EXPECT_THAT(outcome.put.get(), refused);
  EXPECT_THAT(outcome.flushed.get(), refused);
}

// While the device still copies into its pages, the target's end is not closed.
TEST(ByPeerMemory, AnEndIsClosedOnceItsCopiesAreOver) {
  Pair pair;
  BALEEN_ASSERT_OK(pair.Agree());
  pair.device_b.hold = true;
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  ASSERT_TRUE(Eventually([&] { return pair.device_b.copies == 3; }));
  std::promise<void> closed;
  auto over = closed.get_future();
  pair.b->Post([&] { pair.b->Close(pair.back, [&] { closed.set_value(); }); });
  EXPECT_EQ(over.wait_for(milliseconds(50)), std::future_status::timeout);
  pair.device_b.hold = false;
  EXPECT_EQ(over.wait_for(seconds(5)), std::future_status::ready);
  RunOn(*pair.a, [&] { pair.a->Close(pair.there, [] {}); });
  EXPECT_EQ(outcome.put.get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(outcome.flushed.get().code(), absl::StatusCode::kCancelled);
}

// ---- by UCX -------------------------------------------------------------------------------------

class ByUcx : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Wires, ByUcx, ::testing::Values("tcp", "^posix,sysv"),
                         [](const auto& info) {
                           return std::string(info.param[0] == '^' ? "remote" : info.param);
                         });

TEST_P(ByUcx, WhatCannotBeMappedIsFetchedAllTheSame) {
  Pair pair(DeviceWays::kAny, GetParam());
  pair.device_b.refuse = true;
  BALEEN_ASSERT_OK(pair.Agree());
  EXPECT_EQ(pair.Way(), "ucx_cuda");
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  BALEEN_EXPECT_OK(outcome.put.get());
  BALEEN_EXPECT_OK(outcome.flushed.get());
  EXPECT_TRUE(pair.AllPagesAreThere());
  EXPECT_EQ(pair.device_b.copies, 0);
}

// Also what does not fit beside it: more bytes than may be on their way to the device.
TEST_P(ByUcx, NobodyIsAskedToMapWhenOnlyUcxIsToBeUsed) {
  Pair pair(DeviceWays::kUcx, GetParam(), /*page=*/size_t{400} << 10);
  BALEEN_ASSERT_OK(pair.Agree());
  EXPECT_EQ(pair.Way(), "ucx_cuda");
  EXPECT_EQ(pair.device_b.imports, 0);
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  BALEEN_EXPECT_OK(outcome.put.get());
  BALEEN_EXPECT_OK(outcome.flushed.get());
  EXPECT_TRUE(pair.AllPagesAreThere());
}

TEST_P(ByUcx, WhatIsNotInsideBothRegionsIsRefused) {
  Pair pair(DeviceWays::kUcx, GetParam());
  BALEEN_ASSERT_OK(pair.Agree());
  std::vector<std::byte> host(pair.page);
  const Transport::Piece nothing = {{pair.source.data(), 0}, pair.At(0)};
  BALEEN_EXPECT_OK(pair.Put({nothing}).flushed.get());
  EXPECT_THAT(pair.Put({{{pair.source.data() + pair.source.size() - 1, 2}, pair.At(0)}}).put.get(),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("region")));
  for (const Transport::Piece& bad :
       {Transport::Piece{{pair.source.data(), 1000}, pair.At(pair.target.size() - 999)},
        Transport::Piece{{pair.source.data(), 1000}, pair.At(0) - 1},
        Transport::Piece{{host.data(), 1000}, pair.At(0)}}) {  // of the host, into a device's
    EXPECT_THAT(pair.Put({bad}).flushed.get(), ::testing::Not(IsOk()));
  }
  EXPECT_TRUE(pair.TargetIsUntouched());
}

TEST_P(ByUcx, NothingIsWrittenOnceTheOwnersEndIsClosed) {
  Pair pair(DeviceWays::kUcx, GetParam(), /*page=*/size_t{400} << 10);
  BALEEN_ASSERT_OK(pair.Agree());
  Pair::Outcome outcome = pair.Put(pair.AllPages());
  std::promise<void> closed;
  auto over = closed.get_future();
  pair.b->Post([&] { pair.b->Close(pair.back, [&] { closed.set_value(); }); });
  ASSERT_EQ(over.wait_for(seconds(10)), std::future_status::ready);
  std::fill(pair.target.begin(), pair.target.end(), std::byte{0});
  pair.Put(pair.AllPages());
  std::this_thread::sleep_for(milliseconds(100));  // what is watched is that nothing happens
  EXPECT_TRUE(pair.TargetIsUntouched());
  RunOn(*pair.a, [&] { pair.a->Close(pair.there, [] {}); });
  EXPECT_EQ(outcome.flushed.get().code(), absl::StatusCode::kCancelled);
}

// ---- which way ----------------------------------------------------------------------------------

TEST(DeviceWay, MappingComesFirstThenUcxOfBoth) {
  const absl::Status refused = absl::FailedPreconditionError("no peer access");
  EXPECT_EQ(*ChooseDeviceWay(absl::OkStatus(), false, false), DeviceWay::kPeerMemory);
  EXPECT_EQ(*ChooseDeviceWay(absl::OkStatus(), true, true), DeviceWay::kPeerMemory);
  EXPECT_EQ(*ChooseDeviceWay(refused, true, true), DeviceWay::kUcx);
  const auto says = [](const char* what) {
    return StatusIs(absl::StatusCode::kFailedPrecondition,
                    AllOf(HasSubstr("no peer access"), HasSubstr(what)));
  };
  EXPECT_THAT(ChooseDeviceWay(refused, false, false), says("UCX of neither"));
  EXPECT_THAT(ChooseDeviceWay(refused, true, false), says("UCX of the target"));
  EXPECT_THAT(ChooseDeviceWay(refused, false, true), says("UCX of the sender"));
}

TEST(DeviceWay, WithoutOneThePutsAreRefusedWithWhatIsMissing) {
  Pair pair(DeviceWays::kAny, "tcp", 1000, Kind::kHost, Kind::kCuda);
  const Transport::Piece piece = {{pair.source.data(), 10}, pair.At(0)};
  EXPECT_EQ(pair.Put({piece}).put.get().code(), absl::StatusCode::kFailedPrecondition);
  pair.device_b.refuse = true;
  EXPECT_THAT(pair.Agree(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                     AllOf(HasSubstr("no peer access"), HasSubstr("the target"))));
  EXPECT_EQ(pair.Way(), "");
  EXPECT_EQ(pair.Put({piece}).put.get().code(), absl::StatusCode::kFailedPrecondition);
  pair.device_b.refuse = false;
  BALEEN_EXPECT_OK(pair.Agree());
  EXPECT_EQ(pair.Way(), "cuda_ipc");
}

TEST(DeviceWay, UcxIsNotUsedOverSharedMemory) {
  Pair pair(DeviceWays::kAny, "shm");
  pair.device_b.refuse = true;
  std::promise<void> connected;
  RunOn(*pair.a,
        [&] { pair.a->Flush(pair.there, [&](const absl::Status&) { connected.set_value(); }); });
  connected.get_future().get();
  EXPECT_THAT(pair.Agree(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("no peer access"), HasSubstr("never over shared memory"))));
}

TEST(DeviceWay, UcxIsNotUsedWhereOnlyPeerMemoryIsWanted) {
  Pair pair(DeviceWays::kPeerMemory);
  pair.device_b.refuse = true;
  EXPECT_THAT(pair.Agree(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("the sender")));
}

TEST(DeviceWay, EveryThreadThatUcxRunsOnHasTheDevice) {
  Pair pair;
  EXPECT_EQ(pair.device_a.threads, 2);  // this one, where UCX looks for devices, and the owner's
}

TEST(DeviceWay, RegionsNeedADeviceAndAWay) {
  std::byte memory[8];
  const auto registered = [&](Transport& transport) {
    absl::Status status;
    RunOn(transport,
          [&] { status = transport.RegisterRegion(MemoryKind::kDevice, memory, 8).status(); });
    return status;
  };
  EXPECT_THAT(registered(*Make(nullptr, DeviceWays::kAny)),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("device")));
  HostPeerMemory unknown(Kind::kCuda);
  BALEEN_EXPECT_OK(registered(*Make(&unknown, DeviceWays::kAny)));
  EXPECT_THAT(registered(*Make(&unknown, DeviceWays::kUcx)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--cuda")));
}

// ---- links --------------------------------------------------------------------------------------

struct Node {
  Node(const std::string& name, DeviceWays ways, Kind kind = Kind::kHost,
       const std::string& require = "")
      : device(kind), transport(Make(&device, ways, "tcp")) {
    auto made = LinkTable::Create(*transport,
                                  {.name = name,
                                   .incarnation = Incarnation{RandomId()},
                                   .pool = {.base = pool.data(),
                                            .page_stride = 1000,
                                            .page_bytes = 1000,
                                            .pages = 10,
                                            .memory = MemoryKind::kDevice},
                                   .peers_write_pool = name == "decode",
                                   .require_transport = require},
                                  metrics);
    EXPECT_THAT(made, IsOk());
    links = *std::move(made);
    RunOn(*transport, [&] {
      links->AddObserver([this](LinkId, LinkState state, const absl::Status& why) {
        const bool over = state == LinkState::kUp || state == LinkState::kFenced;
        if (over && !std::exchange(told, true)) ended.set_value(why);
      });
    });
  }
  // The link to `peer`: up, or why not.
  absl::Status Connect(Node& peer) {
    RunOn(*transport, [&] { BALEEN_EXPECT_OK(links->Connect(peer.links->Self())); });
    return ended.get_future().get();
  }

  std::vector<std::byte> pool = std::vector<std::byte>(10'000);
  HostPeerMemory device;
  Metrics metrics;
  std::unique_ptr<Transport> transport;
  bool told = false;                 // the transport's thread
  std::promise<absl::Status> ended;  // connecting, with the link up or fenced
  std::unique_ptr<LinkTable> links;
};

TEST(DeviceLinks, SayHowTheirPagesGo) {
  for (const auto& [ways, pages] :
       {std::pair{DeviceWays::kAny, "cuda_ipc"}, std::pair{DeviceWays::kUcx, "ucx_cuda"}}) {
    Node prefill("prefill", ways, Kind::kHost, pages), decode("decode", DeviceWays::kAny);
    BALEEN_ASSERT_OK(prefill.Connect(decode));
    LinkInfo info;
    RunOn(*prefill.transport, [&] { info = *prefill.links->Info(prefill.links->Links()[0]); });
    EXPECT_EQ(info.pages, pages);
    EXPECT_THAT(prefill.metrics.Serialize(), HasSubstr(std::string("pages=\"") + pages + "\""));
  }
}

TEST(DeviceLinks, WithoutAWayBothEndsHearWhatIsMissing) {
  Node prefill("prefill", DeviceWays::kAny), decode("decode", DeviceWays::kAny, Kind::kCuda);
  decode.device.refuse = true;
  const auto says = HasSubstr("UCX of the target does not carry");
  EXPECT_THAT(prefill.Connect(decode), StatusIs(absl::StatusCode::kFailedPrecondition, says));
  EXPECT_THAT(decode.ended.get_future().get(), StatusIs(absl::StatusCode::kUnavailable, says));
}

TEST(DeviceLinks, AnotherWayThanTheOneRequiredIsRefused) {
  Node prefill("prefill", DeviceWays::kUcx, Kind::kHost, "cuda_ipc"),
      decode("decode", DeviceWays::kAny);
  EXPECT_THAT(prefill.Connect(decode),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("require_transport: cuda_ipc"), HasSubstr("ucx_cuda"))));
}

}  // namespace
}  // namespace baleen::kv_transfer
