// Real processes over UCX: this one is decode, transfer_peer is prefill. Everything runs over
// shared memory and over TCP.
#include "kv_transfer/ucx/ucx_transport.h"

#include <dirent.h>

#include <atomic>
#include <fstream>
#include <future>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "kv_transfer/kv_receiver.h"
#include "testing/eventually.h"
#include "testing/status_matchers.h"
#include "tests/kv_transfer/page_pattern.h"
#include "tests/kv_transfer/peer_process.h"

// UCX 1.13 leaks about 100 bytes when it cannot attach to the shared memory of a process that is
// gone.
extern "C" const char* __lsan_default_suppressions() { return "leak:libuct.so"; }

namespace baleen::kv_transfer::testing {
namespace {

using ::baleen::testing::Eventually;
using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int kPages = 64;
constexpr size_t kPageBytes = 100'000;

size_t CountDescriptors() {
  size_t count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

class UcxWire : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { Start({}); }
  void Start(LinkOptions options) {
    receiver_.reset();
    links_.reset();
    transport_.reset();
    memory_.assign(kPages * kPageBytes, std::byte{0});
    auto transport = CreateUcxTransport({.name = "decode", .transports = GetParam()});
    BALEEN_ASSERT_OK(transport);
    transport_ = *std::move(transport);
    options.name = "decode-0/0";
    options.incarnation = Incarnation{RandomId()};
    options.fingerprint = {{"model", "tiny"}};
    options.pool = {.base = memory_.data(),
                    .page_stride = kPageBytes,
                    .page_bytes = kPageBytes,
                    .pages = kPages};
    options.peers_write_pool = true;
    auto links = LinkTable::Create(*transport_, options, metrics_);
    BALEEN_ASSERT_OK(links);
    links_ = *std::move(links);
    RunOn(*transport_, [this] {
      links_->SetHandler(kFirstUserType,
                         [this](LinkId, std::span<const std::byte> header, Buffer payload) {
                           MutexLock lock(mu_);
                           uint64_t size = 0;
                           std::memcpy(&size, header.data(), 8);
                           messages_.push_back({size, std::move(payload)});
                         });
      links_->AddObserver([this](LinkId link, LinkState state, const absl::Status& reason) {
        MutexLock lock(mu_);
        states_[link.value] = {state, reason};
      });
    });
    receiver_ = KvReceiver::Create(*links_, {.drain_ack_timeout = milliseconds(500)},
                                   {.ready =
                                        [this](AttemptId id, HandoffRecord r) {
                                          MutexLock lock(mu_);
                                          ready_[id.value] = r.first_token;
                                        },
                                    .failed =
                                        [this](AttemptId id, absl::Status s) {
                                          MutexLock lock(mu_);
                                          failed_[id.value] = s;
                                        },
                                    .settled =
                                        [this](AttemptId id) {
                                          MutexLock lock(mu_);
                                          settled_.insert(id.value);
                                        }},
                                   metrics_);
  }

  PeerProcess Peer(const std::string& fingerprint = "tiny") {
    return PeerProcess("prefill", GetParam(), kPages, kPageBytes, fingerprint);
  }
  uint64_t self() { return links_->options().incarnation.value; }
  std::string self_address() { return absl::BytesToHexString(links_->Self().transport_address); }
  bool Is(const auto& container, uint64_t id) {
    MutexLock lock(mu_);
    return container.count(id) > 0;
  }
  std::span<const std::byte> Page(int page) {
    return {memory_.data() + size_t(page) * kPageBytes, kPageBytes};
  }
  void Grant(uint64_t attempt, const PeerProcess& peer, std::vector<PageId> pages) {
    receiver_->Grant({.attempt = AttemptId{attempt},
                      .stages = {{.peer = peer.address()}},
                      .pages = std::move(pages)});
  }
  std::optional<LinkInfo> Info(const PeerProcess& peer) {
    std::optional<LinkInfo> info;
    RunOn(*transport_, [&] {
      if (auto link = links_->Find(peer.address().incarnation)) info = links_->Info(*link);
    });
    return info;
  }
  bool Up(const PeerProcess& peer) {
    const auto info = Info(peer);
    return info && info->state == LinkState::kUp;
  }
  void ConnectAndWait(PeerProcess& peer) {
    RunOn(*transport_, [&] { BALEEN_EXPECT_OK(links_->Connect(peer.address())); });
    ASSERT_TRUE(Eventually([&] { return Up(peer); }));
    peer.Expect("link up");
  }

  std::vector<std::byte> memory_;
  Metrics metrics_;
  Mutex mu_;
  std::map<uint64_t, uint32_t> ready_;
  std::map<uint64_t, absl::Status> failed_;
  std::set<uint64_t> settled_;
  std::map<uint64_t, std::pair<LinkState, absl::Status>> states_;
  std::vector<std::pair<uint64_t, Buffer>> messages_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<LinkTable> links_;
  std::unique_ptr<KvReceiver> receiver_;
};

INSTANTIATE_TEST_SUITE_P(Wires, UcxWire, ::testing::Values("shm", "tcp", ""), [](const auto& info) {
  return info.param[0] == 0 ? std::string("all") : std::string(info.param);
});

TEST_P(UcxWire, PagesArriveByteForByteThroughAllStates) {
  PeerProcess peer = Peer();
  peer.Tell(absl::StrCat("begin 1 40 ", self()));
  peer.Tell("pages 1 0 17");
  std::vector<PageId> pages;
  for (int i = 0; i < 40; ++i) pages.push_back(PageId{(i * 7 + 3) % kPages});
  Grant(1, peer, pages);
  peer.Tell("pages 1 17 23");
  peer.Tell("handoff 1 4711");
  ASSERT_TRUE(Eventually([&] { return Is(ready_, 1); }));
  EXPECT_EQ(ready_[1], 4711u);
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(IsPage(Page(pages[size_t(i)].value), i)) << i;
  receiver_->Release(AttemptId{1});
  EXPECT_EQ(peer.Expect("closed 1"), "closed 1 0");
  const auto info = Info(peer);
  ASSERT_TRUE(info.has_value());
  EXPECT_GT(info->probe_gb_per_s, 0);
  const std::string want = GetParam();
  EXPECT_THAT(info->wire, want == "tcp" ? ::testing::Matcher<std::string>("tcp")
                                        : AnyOf(HasSubstr("posix"), HasSubstr("sysv")));
}

// The rule behind Fence::kOwnClose: after the owner closed its end, a peer that goes on putting
// changes nothing.
TEST_P(UcxWire, TA17_OwnersForceCloseStopsAFloodOfPuts) {
  PeerProcess peer = Peer();
  ConnectAndWait(peer);
  peer.Tell(absl::StrCat("flood ", self()));
  peer.Expect("flooding");
  ASSERT_TRUE(Eventually([&] {
    bool arrived = false;
    RunOn(*transport_, [&] { arrived = IsPage(Page(0), 0); });
    return arrived;
  }));
  LinkId link;
  RunOn(*transport_, [&] {
    link = *links_->Find(peer.address().incarnation);
    links_->Close(link, absl::CancelledError("fenced by the test"));
  });
  // Without the peer hearing of it: it is stopped before the close, or hears "bye" and stops by
  // itself; both must leave the page alone once the table says so.
  ASSERT_TRUE(Eventually([&] {
    bool settled = false;
    RunOn(*transport_, [&] { settled = links_->Settled(link); });
    return settled;
  }));
  std::fill(memory_.begin(), memory_.end(), std::byte{0xCA});
  const TimePoint until = std::chrono::steady_clock::now() + milliseconds(300);
  while (std::chrono::steady_clock::now() < until)
    ASSERT_TRUE(std::all_of(Page(0).begin(), Page(0).end(),
                            [](std::byte b) { return b == std::byte{0xCA}; }));
}

TEST_P(UcxWire, TA16_AHungWriterWakesUpAfterItsPagesWereGivenAway) {
  Start({.heartbeat = milliseconds(50), .lease = milliseconds(600)});
  PeerProcess peer = Peer();
  peer.Tell(absl::StrCat("begin 1 64 ", self()));
  std::vector<PageId> pages;
  for (int i = 0; i < kPages; ++i) pages.push_back(PageId{i});
  Grant(1, peer, pages);
  peer.Expect("link up");
  peer.Tell(absl::StrCat("flood ", self()));
  peer.Expect("flooding");
  peer.Kill(SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return Is(failed_, 1); }, seconds(5)));
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("silent")));
  ASSERT_TRUE(Eventually([&] { return Is(settled_, 1); }, seconds(5)))
      << "these wires are fenced by the owner's close";
  std::fill(memory_.begin(), memory_.end(), std::byte{0xCA});
  peer.Kill(SIGCONT);
  peer.Expect("link fenced", seconds(30));  // it notices that nobody is there any more
  EXPECT_TRUE(std::all_of(memory_.begin(), memory_.end(),
                          [](std::byte b) { return b == std::byte{0xCA}; }));
}

TEST_P(UcxWire, TB1_KillOfPrefillIsNoticedAtOnceAndPagesComeBack) {
  PeerProcess peer = Peer();
  peer.Tell(absl::StrCat("begin 1 2 ", self()));
  Grant(1, peer, {PageId{3}, PageId{4}});
  peer.Tell("pages 1 0 1");
  ASSERT_TRUE(Eventually([&] { return receiver_->counts().receiving == 1; }));
  const TimePoint killed = std::chrono::steady_clock::now();
  peer.Kill(SIGKILL);
  ASSERT_TRUE(Eventually([&] { return Is(failed_, 1); }, seconds(2)));
  ASSERT_TRUE(Eventually([&] { return Is(settled_, 1); }, seconds(2)));
  EXPECT_LT(std::chrono::steady_clock::now() - killed, seconds(1));
  EXPECT_EQ(receiver_->counts().quarantined_pages, 0);
}

TEST_P(UcxWire, TB14_ClosingAStoppedPeerTakesNoTime) {
  PeerProcess peer = Peer();
  ConnectAndWait(peer);
  peer.Kill(SIGSTOP);
  RunOn(*transport_, [&] {
    const LinkId link = *links_->Find(peer.address().incarnation);
    for (int i = 0; i < 100; ++i) links_->SendMessage(link, Bye{.reason = std::string(2000, 'x')});
  });
  const TimePoint start = std::chrono::steady_clock::now();
  receiver_.reset();
  links_.reset();
  transport_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(3));
}

TEST_P(UcxWire, TF4_ARestartedPeerIsANewPeer) {
  std::string old_incarnation;
  {
    PeerProcess peer = Peer();
    ConnectAndWait(peer);
    peer.Quit();
    ASSERT_TRUE(Eventually([&] { return !Info(peer).has_value(); }, seconds(3)));
    // Its address is stale now: the attempt fails by itself.
    Grant(1, peer, {PageId{0}});
    RunOn(*transport_, [&] {
      if (auto link = links_->Find(peer.address().incarnation))
        links_->Close(*link, absl::UnavailableError("stale"));
    });
    ASSERT_TRUE(Eventually([&] { return Is(failed_, 1) && Is(settled_, 1); }, seconds(8)));
  }
  PeerProcess peer = Peer();
  peer.Tell(absl::StrCat("begin 2 1 ", self()));
  peer.Tell("pages 2 0 1");
  peer.Tell("handoff 2 9");
  Grant(2, peer, {PageId{5}});
  ASSERT_TRUE(Eventually([&] { return Is(ready_, 2); }));
  EXPECT_TRUE(IsPage(Page(5), 0));
}

TEST_P(UcxWire, ADifferentFingerprintIsRefusedWithTheFieldsName) {
  PeerProcess peer = Peer("another");
  Grant(1, peer, {PageId{0}});
  ASSERT_TRUE(Eventually([&] { return Is(failed_, 1); }));
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("model: ")));
  ASSERT_TRUE(Eventually([&] { return Is(settled_, 1); }));
  peer.Expect("link fenced");
}

TEST_P(UcxWire, LargeMessagesArriveWholeAndInOrder) {
  PeerProcess peer = Peer();
  constexpr uint64_t kBig = 120'000'000;
  for (uint64_t bytes : {uint64_t{100}, uint64_t{20'000}, uint64_t{1'000'000}, kBig})
    peer.Tell(absl::StrCat("hello ", self_address(), " ", self(), " ", bytes));
  ASSERT_TRUE(Eventually([&] {
    MutexLock lock(mu_);
    return messages_.size() == 8;
  }));
  MutexLock lock(mu_);
  for (size_t i = 0; i < 8; i += 2) {
    const auto& [size, payload] = messages_[i];
    ASSERT_EQ(payload.size(), size);
    EXPECT_TRUE(IsPage(payload, int(size)));
    EXPECT_EQ(messages_[i + 1].second.size(), 8u) << "a small one must not overtake it";
  }
}

TEST_P(UcxWire, TF6_LinkChurnLeavesNoDescriptorsAndNoMemory) {
  PeerProcess peer = Peer();
  size_t descriptors = 0, resident = 0;
  for (int i = 0; i < 100; ++i) {
    peer.Tell(absl::StrCat("churn ", self_address(), " ", self()));
    peer.Expect("churned");
    ASSERT_TRUE(Eventually([&] { return !Info(peer).has_value(); }, seconds(3)));
    if (i != 20) continue;
    descriptors = CountDescriptors();
    resident = ResidentBytes();
  }
  ASSERT_TRUE(Eventually([&] { return CountDescriptors() <= descriptors + 2; }, seconds(5)))
      << CountDescriptors() << " after, " << descriptors << " before";
#ifdef __SANITIZE_ADDRESS__
  resident += size_t{256} << 20;  // the sanitizer keeps freed memory
#endif
  EXPECT_LT(ResidentBytes(), resident + (4 << 20));
}

TEST_P(UcxWire, RequireTransportRefusesAnythingElse) {
  const std::string other = std::string(GetParam()) == "tcp" ? "shm" : "tcp";
  Start({.require_transport = other});
  PeerProcess peer = Peer();
  Grant(1, peer, {PageId{0}});
  ASSERT_TRUE(Eventually([&] { return Is(failed_, 1); }));
  EXPECT_THAT(failed_[1], StatusIs(absl::StatusCode::kFailedPrecondition,
                                   HasSubstr(absl::StrCat("require_transport: ", other))));
}

TEST_P(UcxWire, AnIdleProcessSleeps) {
  PeerProcess peer = Peer();
  ConnectAndWait(peer);
  const auto cpu = [] {
    timespec t = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
  };
  const double before = cpu();
  std::this_thread::sleep_for(seconds(1));  // what is measured is the passing of time
  EXPECT_LT(cpu() - before, 0.05);
}

// Two transports of this process, without links above them.
class UcxPair : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (auto* transport : {&a_, &b_}) {
      auto made = CreateUcxTransport({.name = "pair", .transports = GetParam()});
      BALEEN_ASSERT_OK(made);
      *transport = *std::move(made);
    }
    RunOn(*b_, [&] {
      region_ = *b_->RegisterRegion(MemoryKind::kHost, memory_.data(), memory_.size());
      key_ = *b_->PackRemoteKey(region_);
      back_ = *b_->Open(a_->LocalAddress());
    });
    RunOn(*a_, [&] {
      there_ = *a_->Open(b_->LocalAddress());
      imported_ = *a_->ImportKey(there_, key_);
    });
  }
  void TearDown() override { a_.reset(), b_.reset(); }

  uint64_t At(size_t offset) { return reinterpret_cast<uint64_t>(memory_.data()) + offset; }
  // The status of a flush after one put; DeadlineExceeded when nothing answers.
  absl::Status PutAndFlush(std::byte value, uint64_t address, size_t bytes) {
    source_.assign(bytes, value);
    auto over = std::make_shared<std::promise<absl::Status>>();
    a_->Post([this, address, over] {
      const Transport::Piece piece = {source_, address};
      a_->Put(there_, {&piece, 1}, imported_, [](const absl::Status&) {});
      a_->Flush(there_, [over](const absl::Status& s) { over->set_value(s); });
    });
    auto future = over->get_future();
    if (future.wait_for(milliseconds(500)) != std::future_status::ready)
      return absl::DeadlineExceededError("no answer to flush");
    return future.get();
  }
  std::byte Byte(size_t offset) {
    std::byte value;
    RunOn(*b_, [&] { value = memory_[offset]; });
    return value;
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(300'000), source_;
  std::unique_ptr<Transport> a_, b_;
  RegionId region_;
  std::string key_;
  EndpointId there_, back_;
  RemoteKeyId imported_;
};

INSTANTIATE_TEST_SUITE_P(Wires, UcxPair, ::testing::Values("shm", "tcp"));

TEST_P(UcxPair, AFlushedPutIsThere) {
  for (size_t bytes : {size_t{1}, size_t{5000}, size_t{250'000}}) {
    const auto value = std::byte(bytes % 251);
    BALEEN_EXPECT_OK(PutAndFlush(value, At(7), bytes));
    EXPECT_EQ(Byte(7), value);
    EXPECT_EQ(Byte(7 + bytes - 1), value);
    EXPECT_NE(Byte(7 + bytes), value);
  }
}

TEST_P(UcxPair, TA7_PutsOutsideTheRegionAreRefusedByTheOwner) {
  BALEEN_EXPECT_OK(PutAndFlush(std::byte{1}, At(0), memory_.size()));
  EXPECT_THAT(PutAndFlush(std::byte{2}, At(1), memory_.size()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("refused by its target")));
  EXPECT_EQ(PutAndFlush(std::byte{2}, At(0) - 8, 8).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PutAndFlush(std::byte{2}, ~uint64_t{0}, 8).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Byte(1), std::byte{1});
}

TEST_P(UcxPair, TF6_AKeyOfARegionThatIsGoneIsRefused) {
  RunOn(*b_, [&] { b_->DeregisterRegion(region_); });
  EXPECT_EQ(PutAndFlush(std::byte{2}, At(0), 8).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Byte(0), std::byte{0});
}

// A peer that goes on over its old connection is heard no more, also when we have a new one to it.
TEST_P(UcxPair, TA17_TheOwnersCloseFencesThatConnectionForGood) {
  BALEEN_EXPECT_OK(PutAndFlush(std::byte{1}, At(0), 100'000));
  std::promise<void> closed;
  b_->Post([&] { b_->Close(back_, [&] { closed.set_value(); }); });
  ASSERT_EQ(closed.get_future().wait_for(seconds(5)), std::future_status::ready);
  EXPECT_FALSE(PutAndFlush(std::byte{2}, At(0), 100'000).ok());
  EXPECT_EQ(Byte(0), std::byte{1});
  RunOn(*b_, [&] { back_ = *b_->Open(a_->LocalAddress()); });
  EXPECT_FALSE(PutAndFlush(std::byte{3}, At(0), 100).ok());
  EXPECT_FALSE(PutAndFlush(std::byte{3}, At(0), 100'000).ok());
  EXPECT_EQ(Byte(0), std::byte{1});
  RunOn(*a_, [&] {  // a new connection of the peer counts again
    a_->Close(there_, [] {});
    there_ = *a_->Open(b_->LocalAddress());
    imported_ = *a_->ImportKey(there_, key_);
  });
  BALEEN_EXPECT_OK(PutAndFlush(std::byte{4}, At(0), 100'000));
  EXPECT_EQ(Byte(99'999), std::byte{4});
}

// The peer gave a connection up, we did not hear of it, and its next one arrives first: the end of
// ours to the old one must not touch the new one.
TEST_P(UcxPair, TheOldConnectionsCloseLeavesThePeersNewOneAlone) {
  BALEEN_EXPECT_OK(PutAndFlush(std::byte{1}, At(0), 100'000));
  for (int life = 2; life < 5; ++life) {
    std::promise<void> answered, closed;
    RunOn(*b_, [&] {
      b_->SetReceiver([&](std::span<const std::byte>, Buffer) {  // as LinkTable on a new Hello
        b_->Close(back_, [&] { closed.set_value(); });
        back_ = *b_->Open(a_->LocalAddress());
        b_->Bind(back_);
        answered.set_value();
      });
    });
    RunOn(*a_, [&] {
      a_->Close(there_, [] {});
      there_ = *a_->Open(b_->LocalAddress());
      imported_ = *a_->ImportKey(there_, key_);
      a_->Send(there_, {}, {}, [](const absl::Status&) {});
    });
    ASSERT_EQ(answered.get_future().wait_for(seconds(5)), std::future_status::ready);
    ASSERT_EQ(closed.get_future().wait_for(seconds(5)), std::future_status::ready);
    BALEEN_EXPECT_OK(PutAndFlush(std::byte(life), At(0), 100));
    BALEEN_EXPECT_OK(PutAndFlush(std::byte(life), At(0), 100'000));
    EXPECT_EQ(Byte(99'999), std::byte(life));
  }
  RunOn(*b_, [&] { b_->SetReceiver([](std::span<const std::byte>, Buffer) {}); });
}

// We opened an end of our own, and a message of one that the peer gave up comes in before that of
// the one it stands by: the puts of the latter count.
TEST_P(UcxPair, TheEndThatIsBoundCountsAndNotTheFirstOneHeard) {
  std::promise<void> heard_old, heard_new;
  RunOn(*b_, [&] {
    b_->SetReceiver([&](std::span<const std::byte> header, Buffer) {
      if (header.empty()) return heard_old.set_value();
      b_->Bind(back_);
      heard_new.set_value();
    });
  });
  RunOn(*a_, [&] { a_->Send(there_, {}, {}, [](const absl::Status&) {}); });
  ASSERT_EQ(heard_old.get_future().wait_for(seconds(5)), std::future_status::ready);
  RunOn(*a_, [&] {
    a_->Close(there_, [] {});
    there_ = *a_->Open(b_->LocalAddress());
    imported_ = *a_->ImportKey(there_, key_);
    const std::byte header[] = {std::byte{1}};
    a_->Send(there_, header, {}, [](const absl::Status&) {});
  });
  ASSERT_EQ(heard_new.get_future().wait_for(seconds(5)), std::future_status::ready);
  BALEEN_EXPECT_OK(PutAndFlush(std::byte{3}, At(0), 100'000));
  EXPECT_EQ(Byte(99'999), std::byte{3});
}

// More than the wire's queue holds, with no timer and no answer to wake anybody.
TEST_P(UcxPair, AFullQueueMovesOnByItself) {
  constexpr int kMessages = 20'000;
  std::atomic<int> arrived{0}, sent{0};
  RunOn(*b_, [&] { b_->SetReceiver([&](std::span<const std::byte>, Buffer) { ++arrived; }); });
  const std::vector<std::byte> bytes(4000, std::byte{7});
  const std::span<const std::byte> payload = bytes;
  RunOn(*a_, [&] {
    for (int i = 0; i < kMessages; ++i)
      a_->Send(there_, {}, {&payload, 1}, [&](const absl::Status& s) { sent += s.ok(); });
  });
  EXPECT_TRUE(Eventually([&] { return arrived == kMessages && sent == kMessages; }))
      << arrived << " arrived, " << sent << " sent";
}

TEST_P(UcxPair, ClosingCancelsWhatIsUnderWay) {
  RunOn(*b_, [&] { b_->Close(back_, [] {}); });  // so that nothing answers
  std::promise<absl::Status> flushed;
  RunOn(*a_, [&] { a_->Flush(there_, [&](absl::Status s) { flushed.set_value(std::move(s)); }); });
  RunOn(*a_, [&] { a_->Close(there_, [] {}); });
  EXPECT_EQ(flushed.get_future().get().code(), absl::StatusCode::kCancelled);
}

TEST(UcxTransport, UnknownTransportIsRefusedByName) {
  EXPECT_THAT(CreateUcxTransport({.name = "x", .transports = "carrier_pigeon"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("carrier_pigeon")));
}

TEST(UcxTransport, GarbageAddressesAndKeysAreRefused) {
  auto transport = CreateUcxTransport({.name = "x", .transports = "tcp"});
  BALEEN_ASSERT_OK(transport);
  RunOn(**transport, [&] {
    EXPECT_THAT((*transport)->Open("nonsense"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("address")));
    std::string address = (*transport)->LocalAddress();
    address.back() = char(address.back() + 1);
    EXPECT_THAT((*transport)->Open(address),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("address")));
  });
}

}  // namespace
}  // namespace baleen::kv_transfer::testing
