// Two processes over UCX: put rate by piece size beside memcpy of the same bytes, what posting a
// put costs its caller, and message round trips.
//
//   transport_bench [shm|tcp ...]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "common/check.h"
#include "common/mutex.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr size_t kPoolBytes = size_t{64} << 20;
constexpr size_t kPieces[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
constexpr size_t kMessages[] = {64, 1 << 10, 16 << 10, 256 << 10, 4 << 20};
constexpr double kSeconds = 0.4;  // per figure

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Agent {
  Agent(const std::string& name, const std::string& transports, bool owner)
      : memory(kPoolBytes, std::byte{1}) {
    auto made = CreateUcxTransport({.name = name, .transports = transports});
    BALEEN_CHECK_MSG(made.ok(), made.status().ToString().c_str());
    transport = *std::move(made);
    LinkOptions options = {.name = name,
                           .incarnation = Incarnation{RandomId()},
                           .pool = {.base = memory.data(),
                                    .page_stride = kPoolBytes,
                                    .page_bytes = kPoolBytes,
                                    .pages = 1},
                           .peers_write_pool = owner};
    auto table = LinkTable::Create(*transport, options, metrics);
    BALEEN_CHECK_MSG(table.ok(), table.status().ToString().c_str());
    links = *std::move(table);
  }
  std::vector<std::byte> memory;
  Metrics metrics;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<LinkTable> links;
};

double MemcpyRate(size_t piece) {
  std::vector<std::byte> from(kPoolBytes, std::byte{1}), to(kPoolBytes, std::byte{2});
  const double start = Now();
  size_t bytes = 0, at = 0;
  while (Now() - start < kSeconds) {
    std::memcpy(to.data() + at, from.data() + at, piece);
    bytes += piece;
    at = (at + piece) % (kPoolBytes - piece + 1);
  }
  return double(bytes) / (Now() - start) / 1e9;
}

// Keeps 32 puts under way; all of it on the transport's thread.
struct PutLoop {
  void Next() {
    if (Now() > stop) {
      if (in_flight == 0)
        links.Flush(link, [this](const absl::Status& s) { over.set_value(s.ok()); });
      return;
    }
    ++in_flight;
    const double before = Now();
    const LinkTable::PagePut put = {.local = {from.data() + at, piece}, .page = PageId{0}};
    links.PutPages(link, {&put, 1}, at, [this](const absl::Status& s) {
      --in_flight;
      bytes += s.ok() ? piece : 0;
      Next();
    });
    posting += Now() - before;
    ++puts;
    at = (at + piece) % (kPoolBytes - piece + 1);
  }
  LinkTable& links;
  LinkId link;
  std::span<const std::byte> from;
  size_t piece;
  double stop;
  size_t at = 0, bytes = 0, puts = 0;
  double posting = 0;
  int in_flight = 0;
  std::promise<bool> over{};
};

void BenchPuts(Agent& agent, LinkId link, const char* wire) {
  std::printf("\n%-12s %12s %12s %12s %14s\n", wire, "piece", "put GB/s", "memcpy GB/s",
              "posting us/put");
  for (size_t piece : kPieces) {
    PutLoop loop = {.links = *agent.links,
                    .link = link,
                    .from = agent.memory,
                    .piece = piece,
                    .stop = Now() + kSeconds};
    const double start = Now();
    agent.transport->Post([&] {
      for (int i = 0; i < 32; ++i) loop.Next();
    });
    BALEEN_CHECK(loop.over.get_future().get());
    const double seconds = Now() - start;
    std::printf("%-12s %12zu %12.2f %12.2f %14.2f\n", "", piece, double(loop.bytes) / seconds / 1e9,
                MemcpyRate(piece), loop.posting / double(loop.puts) * 1e6);
  }
}

// A worker's thread sends, the peer's transport thread echoes, the worker's thread wakes up: as
// expert exchange does.
void BenchRoundTrips(Agent& agent, LinkId link) {
  std::printf("%-12s %12s %12s %12s %14s\n", "", "message", "p50 us", "p99 us", "round trips");
  Mutex mu;
  CondVar arrived;
  int answers = 0;
  RunOn(*agent.transport, [&] {
    agent.links->SetHandler(kFirstUserType, [&](LinkId, std::span<const std::byte>, Buffer) {
      MutexLock lock(mu);
      ++answers;
      arrived.NotifyOne();
    });
  });
  for (size_t size : kMessages) {
    const std::span<const std::byte> payload(agent.memory.data(), size);
    std::vector<double> trips;
    for (const double start = Now(); Now() - start < kSeconds;) {
      const double sent = Now();
      const int before = answers;
      agent.transport->Post([&] {
        agent.links->Send(link, kFirstUserType, {}, {&payload, 1}, {});
      });
      MutexLock lock(mu);
      while (answers == before) arrived.Wait(mu);
      trips.push_back(Now() - sent);
    }
    std::sort(trips.begin(), trips.end());
    std::printf("%-12s %12zu %12.1f %12.1f %14zu\n", "", size, trips[trips.size() / 2] * 1e6,
                trips[trips.size() * 99 / 100] * 1e6, trips.size());
  }
}

int RunSender(const std::string& transports, const std::string& address, uint64_t incarnation) {
  Agent agent("sender", transports, /*owner=*/false);
  std::promise<LinkId> up;
  RunOn(*agent.transport, [&] {
    agent.links->AddObserver([&](LinkId link, LinkState state, const absl::Status& why) {
      BALEEN_CHECK_MSG(state != LinkState::kFenced, why.ToString().c_str());
      if (state == LinkState::kUp) up.set_value(link);
    });
    BALEEN_CHECK(agent.links
                     ->Connect({.name = "owner",
                                .transport_address = absl::HexStringToBytes(address),
                                .incarnation = Incarnation{incarnation}})
                     .ok());
  });
  const LinkId link = up.get_future().get();
  std::string wire;
  RunOn(*agent.transport, [&] { wire = agent.links->Info(link)->wire; });
  BenchPuts(agent, link, wire.c_str());
  BenchRoundTrips(agent, link);
  return 0;
}

int RunOwner(const char* self, const std::string& transports) {
  Agent agent("owner", transports, /*owner=*/true);
  RunOn(*agent.transport, [&] {
    agent.links->SetHandler(
        kFirstUserType, [&](LinkId from, std::span<const std::byte>, Buffer payload) {
          auto kept = std::make_shared<Buffer>(std::move(payload));
          const std::span<const std::byte> bytes = *kept;
          agent.links->Send(from, kFirstUserType, {}, {&bytes, 1}, [kept](const absl::Status&) {});
        });
  });
  const PeerAddress address = agent.links->Self();
  const std::string hex = absl::BytesToHexString(address.transport_address);
  const std::string incarnation = std::to_string(address.incarnation.value);
  const pid_t child = fork();
  if (child == 0) {
    execl(self, self, "--sender", transports.c_str(), hex.c_str(), incarnation.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

}  // namespace
}  // namespace baleen::kv_transfer

int main(int argc, char** argv) {
  using namespace baleen::kv_transfer;
  spdlog::set_level(spdlog::level::off);
  if (argc == 5 && std::string(argv[1]) == "--sender")
    return RunSender(argv[2], argv[3], std::stoull(argv[4]));
  std::vector<std::string> wires(argv + 1, argv + argc);
  if (wires.empty()) wires = {"shm", "tcp"};
  for (const std::string& wire : wires)
    if (const int rc = RunOwner("/proc/self/exe", wire); rc != 0) return rc;
  return 0;
}
