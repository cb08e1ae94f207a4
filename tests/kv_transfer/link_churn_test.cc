// Links between two transports over real shared memory and tcp that both sides end and begin again
// within milliseconds. A link that ends before it is up may cost a lease.
#include <future>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "testing/status_matchers.h"

namespace baleen::kv_transfer {
namespace {

using ::baleen::testing::IsOk;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

struct Node {
  Node(const std::string& name, const std::string& transports) {
    auto wire = CreateUcxTransport({.name = name, .transports = transports});
    EXPECT_THAT(wire, IsOk());
    transport = *std::move(wire);
    auto made = LinkTable::Create(*transport,
                                  {.name = name,
                                   .incarnation = Incarnation{RandomId()},
                                   .heartbeat = milliseconds(50),
                                   .lease = milliseconds(500),
                                   .probe_bytes = 4096},
                                  metrics);
    EXPECT_THAT(made, IsOk());
    links = *std::move(made);
  }
  template <typename F>
  auto On(F f) {
    std::promise<decltype(f())> result;
    transport->Post([&] { result.set_value(f()); });
    return result.get_future().get();
  }
  void Connect(Node& peer) {
    On([&] { return links->Connect(peer.links->Self()).ok(); });
  }
  bool IsUp(Node& peer) {
    return On([&] {
      const auto link = links->Find(peer.links->options().incarnation);
      return link && links->Info(*link)->state == LinkState::kUp;
    });
  }
  void Close(Node& peer) {
    On([&] {
      if (const auto link = links->Find(peer.links->options().incarnation))
        links->Close(*link, absl::CancelledError("churn"));
      return true;
    });
  }

  Metrics metrics;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<LinkTable> links;
};

class LinkChurn : public ::testing::TestWithParam<const char*> {};

TEST_P(LinkChurn, ALinkComesUpAtBothEndsAfterManyShortLives) {
  Node a("a", GetParam()), b("b", GetParam());
  std::mt19937 random(7);
  const auto either = [&]() -> Node& { return random() % 2 == 0 ? a : b; };
  for (int round = 0; round < 5; ++round) {
    for (int life = 0; life < 10; ++life) {
      Node& from = either();
      from.Connect(&from == &a ? b : a);
      std::this_thread::sleep_for(microseconds(random() % 3000));
      Node& ends = either();
      ends.Close(&ends == &a ? b : a);
    }
    const TimePoint deadline = std::chrono::steady_clock::now() + seconds(20);
    bool up = false;
    while (!up && std::chrono::steady_clock::now() < deadline) {
      a.Connect(b);
      std::this_thread::sleep_for(milliseconds(1));
      up = a.IsUp(b) && b.IsUp(a);
    }
    ASSERT_TRUE(up) << "round " << round << ": " << a.IsUp(b) << b.IsUp(a);
  }
}

INSTANTIATE_TEST_SUITE_P(Wires, LinkChurn, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace baleen::kv_transfer
