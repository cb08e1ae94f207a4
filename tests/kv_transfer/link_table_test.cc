// Links between two or three processes over a manual LoopbackHub.
#include "kv_transfer/link_table.h"

#include "gtest/gtest.h"
#include "testing/fake_clock.h"
#include "testing/loopback_transport.h"
#include "testing/status_matchers.h"

namespace baleen::kv_transfer {
namespace {

using ::baleen::testing::IsOk;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;
using Fate = LoopbackHub::Fate;
using OpKind = LoopbackHub::OpKind;
using std::chrono::milliseconds;
using std::chrono::seconds;

struct Node {
  Node(LoopbackHub& hub, const std::string& name, LinkOptions options = {}) {
    transport = hub.Create(name);
    options.name = name;
    options.incarnation = Incarnation{RandomId()};
    if (options.fingerprint.empty()) options.fingerprint = {{"model", "tiny"}};
    if (options.probe_bytes == LinkOptions().probe_bytes) options.probe_bytes = 4096;
    auto made = LinkTable::Create(*transport, options, metrics);
    EXPECT_THAT(made, IsOk());
    links = *std::move(made);
    links->AddObserver([this](LinkId, LinkState state, const absl::Status& why) {
      states.push_back(state);
      if (state == LinkState::kFenced) reason = why;
    });
    links->SetHandler(kFirstUserType,
                      [this](LinkId from, std::span<const std::byte> header, Buffer payload) {
                        last_from = from;
                        received.push_back({Bytes(header.begin(), header.end()),
                                            Bytes(payload.span().begin(), payload.span().end())});
                      });
  }
  LinkState State(const Node& peer) {
    const auto link = links->Find(peer.links->options().incarnation);
    return link ? links->Info(*link)->state : LinkState::kDown;
  }
  LinkId Connect(Node& peer) { return *links->Connect(peer.links->Self()); }
  double Dropped(const char* cause) {
    return metrics.Counter("transfer_dropped_messages_total", "", {{"cause", cause}}).Value();
  }

  std::unique_ptr<Transport> transport;
  Metrics metrics;
  std::unique_ptr<LinkTable> links;
  std::vector<LinkState> states;
  absl::Status reason;
  std::vector<std::pair<Bytes, Bytes>> received;
  LinkId last_from;
};

class Links : public ::testing::Test {
 protected:
  void Pass(Duration duration) {
    for (Duration step = milliseconds(20); duration > Duration::zero(); duration -= step) {
      clock_.Advance(step);
      hub_.Run();
    }
  }
  baleen::testing::FakeClock clock_;
  LoopbackHub hub_{LoopbackHub::Mode::kManual, clock_};
};

TEST_F(Links, OneConnectBringsBothSidesUp) {
  Node a(hub_, "a"), b(hub_, "b");
  a.Connect(b);
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
  EXPECT_EQ(b.State(a), LinkState::kUp);
  EXPECT_EQ(b.links->Info(b.links->Links()[0])->peer_name, "a");
  EXPECT_EQ(a.states, (std::vector{LinkState::kConnecting, LinkState::kProbing, LinkState::kUp}));
}

TEST_F(Links, APeerIsCalledAsItCallsItself) {
  Node a(hub_, "a"), b(hub_, "prefill-1/0");
  PeerAddress address = b.links->Self();
  address.name = "prefill/0";  // what somebody who does not know the group calls it
  const LinkId link = *a.links->Connect(address);
  hub_.Run();
  EXPECT_EQ(a.links->Info(link)->peer_name, "prefill-1/0");
  const auto up = [&](const char* peer) {
    return a.metrics
        .Gauge("transfer_link", "", {{"peer", peer}, {"wire", "loopback"}, {"pages", "host"}})
        .Value();
  };
  EXPECT_EQ(up("prefill-1/0"), 1);
  EXPECT_EQ(up("prefill/0"), 0);
}

TEST_F(Links, TwoEndsThatConnectAtOnceGetOneLink) {
  Node a(hub_, "a"), b(hub_, "b");
  const LinkId link = a.Connect(b);
  b.Connect(a);
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
  EXPECT_EQ(b.State(a), LinkState::kUp);
  EXPECT_EQ(a.links->Links().size(), 1u);
  EXPECT_EQ(b.links->Links().size(), 1u);
  EXPECT_EQ(a.Connect(b), link) << "the same life";
}

TEST_F(Links, MessagesSentBeforeTheHandshakeWaitAndKeepTheirOrder) {
  Node a(hub_, "a"), b(hub_, "b");
  const LinkId link = a.Connect(b);
  int done = 0;
  const Bytes body(100'000, std::byte{7});
  for (uint8_t i = 0; i < 10; ++i) {
    const std::byte header[] = {std::byte{i}};
    const std::span<const std::byte> pieces[] = {std::span(body).first(60'000),
                                                 std::span(body).subspan(60'000)};
    a.links->Send(link, kFirstUserType, header, pieces,
                  [&](const absl::Status& s) { done += s.ok(); });
  }
  hub_.Run();
  EXPECT_EQ(done, 10);
  ASSERT_EQ(b.received.size(), 10u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(b.received[i].first, Bytes{std::byte(i)});
  EXPECT_EQ(b.received[9].second, body);
  b.links->Send(b.last_from, kFirstUserType, {});  // the way back needs no more than the id
  hub_.Run();
  EXPECT_EQ(a.received.size(), 1u);
}

TEST_F(Links, ADifferenceOfFingerprintsIsRefusedOnBothSidesByName) {
  Node a(hub_, "a", {.fingerprint = {{"model", "tiny"}, {"drafts", "1"}}});
  Node b(hub_, "b", {.fingerprint = {{"model", "tiny"}, {"drafts", "3"}}});
  const LinkId link = a.Connect(b);
  absl::Status sent;
  a.links->Send(link, kFirstUserType, {}, {}, [&](const absl::Status& s) { sent = s; });
  hub_.Run();
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("drafts: ")));
  EXPECT_THAT(b.reason, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("drafts: ")));
  EXPECT_EQ(sent.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(b.received.empty());
  Pass(milliseconds(60));
  EXPECT_TRUE(a.links->Settled(link));
  EXPECT_TRUE(a.links->Links().empty()) << "forgotten once settled";
}

TEST_F(Links, TF1_RequireTransportNamesWhatTheWireIs) {
  Node a(hub_, "a", {.require_transport = "rc"}), b(hub_, "b");
  a.Connect(b);
  hub_.Run();
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("require_transport: rc, but the link between a and b "
                                           "runs over loopback")));
  EXPECT_THAT(b.reason, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("require_transport")));
}

TEST_F(Links, TF2_AProbeThatDoesNotArriveWholeKeepsTheLinkDown) {
  Node a(hub_, "a"), b(hub_, "b");
  hub_.SetFaults([](const LoopbackHub::Op& op) {  // the put is lost, the flush says it is there
    return op.kind == OpKind::kPut && op.from == "a" ? Fate::kDrop : Fate::kPass;
  });
  a.Connect(b);
  hub_.Run();
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("wrong content")));
}

TEST_F(Links, AProbeThatIsNeverAnsweredEndsTheLink) {
  Node a(hub_, "a"), b(hub_, "b");
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.kind == OpKind::kMessage && op.message_type == uint8_t(MessageType::kProbe)
               ? Fate::kDrop
               : Fate::kPass;
  });
  a.Connect(b);
  hub_.Run();
  Pass(seconds(5));
  EXPECT_EQ(a.State(b), LinkState::kProbing);
  Pass(seconds(2));
  EXPECT_EQ(a.State(b), LinkState::kDown) << "heartbeats alone do not keep it";
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("probe")));
}

TEST_F(Links, SilenceMakesSuspectThenFenced) {
  Node a(hub_, "a"), b(hub_, "b");
  a.Connect(b);
  hub_.Run();
  Pass(seconds(20));
  EXPECT_EQ(a.State(b), LinkState::kUp) << "an idle link lives on heartbeats";
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return op.from == "b" ? Fate::kDrop : Fate::kPass; });
  Pass(milliseconds(4200));
  EXPECT_EQ(a.State(b), LinkState::kSuspect);
  EXPECT_EQ(b.State(a), LinkState::kUp);
  hub_.SetFaults(nullptr);
  Pass(milliseconds(1200));
  EXPECT_EQ(a.State(b), LinkState::kUp);
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return op.from == "b" ? Fate::kDrop : Fate::kPass; });
  Pass(milliseconds(7200));
  EXPECT_EQ(a.State(b), LinkState::kDown);
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("b was silent")));
}

// T-H8: whoever was starved of time does not blame others for it.
TEST_F(Links, TH8_AProcessThatWasStoppedListensBeforeItJudges) {
  Node a(hub_, "a"), b(hub_, "b");
  a.Connect(b);
  hub_.Run();
  clock_.Advance(seconds(30));
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
}

TEST_F(Links, TB6_ABrokenLinkIsANewOneAtTheNextConnect) {
  Node a(hub_, "a"), b(hub_, "b");
  const LinkId first = a.Connect(b);
  hub_.Run();
  hub_.Break("a", "b");
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kDown);
  EXPECT_EQ(b.State(a), LinkState::kDown);
  const LinkId second = a.Connect(b);
  EXPECT_NE(first, second);
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
  EXPECT_EQ(b.State(a), LinkState::kUp);
}

TEST_F(Links, APeerThatConnectsAgainReplacesTheLinkWeStillBelieveIn) {
  Node a(hub_, "a"), b(hub_, "b");
  a.Connect(b);
  hub_.Run();
  hub_.SetFaults(
      [](const LoopbackHub::Op& op) { return op.from == "a" ? Fate::kDrop : Fate::kPass; });
  a.links->Close(*a.links->Find(b.links->options().incarnation), absl::CancelledError("quietly"));
  hub_.SetFaults(nullptr);
  EXPECT_EQ(b.State(a), LinkState::kUp);
  a.Connect(b);
  hub_.Run();
  EXPECT_THAT(b.reason, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("new link")));
  EXPECT_EQ(b.State(a), LinkState::kUp);
  EXPECT_EQ(a.State(b), LinkState::kUp);
}

// Closed and opened again before the first Hello is answered. Two ends that answer each other's new
// links with new links would never end.
TEST_F(Links, ALinkReplacedBeforeItsHelloIsAnsweredComesUp) {
  for (const bool both_connect : {false, true}) {
    Node a(hub_, "a"), b(hub_, "b");
    int hellos = 0;
    hub_.SetFaults([&](const LoopbackHub::Op& op) {
      if (op.message_type != uint8_t(MessageType::kHello)) return Fate::kPass;
      return ++hellos > 50 ? Fate::kDrop : Fate::kPass;
    });
    const LinkId first = a.Connect(b);
    if (both_connect) b.Connect(a);
    a.links->Close(first, absl::CancelledError("at once"));
    const LinkId second = a.Connect(b);
    hub_.Run();
    EXPECT_LE(hellos, 5) << both_connect;
    EXPECT_EQ(a.State(b), LinkState::kUp) << both_connect;
    EXPECT_EQ(b.State(a), LinkState::kUp) << both_connect;
    EXPECT_EQ(a.links->Find(b.links->options().incarnation), second) << both_connect;
    hub_.SetFaults(nullptr);
  }
}

TEST_F(Links, CloseTellsThePeerWhy) {
  Node a(hub_, "a"), b(hub_, "b");
  const LinkId link = a.Connect(b);
  hub_.Run();
  a.links->Close(link, absl::CancelledError("a leaves"));
  hub_.Run();
  EXPECT_THAT(b.reason, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("a leaves")));
}

TEST_F(Links, TF4_WhatIsMeantForAnEarlierLifeIsDroppedAndCounted) {
  Node a(hub_, "a"), b(hub_, "b");
  PeerAddress stale = b.links->Self();
  stale.incarnation = Incarnation{12345};
  BALEEN_ASSERT_OK(a.links->Connect(stale));
  hub_.Run();
  EXPECT_EQ(b.Dropped("stale_incarnation"), 1);
  EXPECT_TRUE(b.links->Links().empty());
  Pass(seconds(7));
  EXPECT_THAT(a.reason, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("connecting")));
}

TEST_F(Links, FramesOfAClosedLinkAreDroppedAndCounted) {
  Node a(hub_, "a"), b(hub_, "b");
  const LinkId link = a.Connect(b);
  hub_.Run();
  b.links->Send(*b.links->Find(a.links->options().incarnation), kFirstUserType, {});
  a.links->Close(link, absl::CancelledError("first"));
  hub_.Run();
  EXPECT_TRUE(a.received.empty());
  EXPECT_EQ(a.Dropped("stale_link"), 1);
}

TEST_F(Links, RepeatedHandshakeMessagesChangeNothing) {
  Node a(hub_, "a"), b(hub_, "b");
  hub_.SetFaults([](const LoopbackHub::Op& op) {
    return op.kind == OpKind::kMessage ? Fate::kDuplicate : Fate::kPass;
  });
  a.Connect(b);
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
  EXPECT_EQ(b.State(a), LinkState::kUp);
  EXPECT_EQ(a.links->Links().size() + b.links->Links().size(), 2u);
}

TEST_F(Links, AMissingPeerDoesNotHoldUpOthers) {  // T-B10
  Node a(hub_, "a"), b(hub_, "b");
  PeerAddress nobody = {"nobody", "loopback:999", Incarnation{9}};
  PeerAddress garbage = {"garbage", "???", Incarnation{10}};
  BALEEN_ASSERT_OK(a.links->Connect(nobody));
  BALEEN_ASSERT_OK(a.links->Connect(garbage));
  a.Connect(b);
  hub_.Run();
  EXPECT_EQ(a.State(b), LinkState::kUp);
  Pass(milliseconds(100));
  EXPECT_EQ(a.links->Links().size(), 1u);
}

TEST_F(Links, ItselfIsNoPeer) {
  Node a(hub_, "a");
  EXPECT_THAT(a.links->Connect(a.links->Self()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("to itself")));
}

TEST_F(Links, PagesGoOnlyInsideTheExportedPool) {
  std::vector<std::byte> pool(4 * 1000);
  Node a(hub_, "a");
  Node b(hub_, "b",
         {.pool = {.base = pool.data(), .page_stride = 1000, .page_bytes = 900, .pages = 4},
          .peers_write_pool = true});
  const LinkId link = a.Connect(b);
  hub_.Run();
  const Bytes bytes(900, std::byte{5});
  std::vector<absl::StatusCode> codes;
  const auto done = [&](const absl::Status& s) { codes.push_back(s.code()); };
  const auto put = [&](size_t size, int page, size_t offset) {
    const LinkTable::PagePut one = {std::span(bytes).first(size), PageId{page}};
    a.links->PutPages(link, {&one, 1}, offset, done);
  };
  put(900, 3, 0);
  put(900, 4, 0);
  put(900, -1, 0);
  put(900, 0, 1);
  put(1, 0, 901);
  put(100, 0, 800);
  const LinkTable::PagePut one_is_bad[] = {{bytes, PageId{1}}, {bytes, PageId{4}}};
  const LinkTable::PagePut all_good[] = {{bytes, PageId{2}}, {bytes, PageId{3}}};
  a.links->PutPages(link, one_is_bad, 0, done);
  a.links->PutPages(link, all_good, 0, done);
  hub_.Run();
  EXPECT_EQ(std::count(codes.begin(), codes.end(), absl::StatusCode::kOk), 3);
  EXPECT_EQ(std::count(codes.begin(), codes.end(), absl::StatusCode::kOutOfRange), 5);
  EXPECT_EQ(pool[1000], std::byte{0});
  EXPECT_EQ(pool[2 * 1000 + 899], std::byte{5});
  EXPECT_EQ(pool[3 * 1000 + 899], std::byte{5});
  EXPECT_EQ(pool[800], std::byte{5});
  EXPECT_EQ(pool[799], std::byte{0});
}

}  // namespace
}  // namespace baleen::kv_transfer
