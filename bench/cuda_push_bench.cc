// The cache push between two processes of one GPU, in the layout of a real model: GB/s, pieces and
// what posting costs, for each way that pages can take, beside a plain copy on the device. By UCX
// they go as between machines, with nothing mapped; that needs a UCX that knows CUDA
// (LD_LIBRARY_PATH=.deps/ucx/lib).
//
//   cuda_push_bench MODEL_DIR [WAY ...] [TOKENS ...]
//
// MODEL_DIR: a folder with config.json. WAY: cuda_ipc, ucx_tcp, host_tcp, host_shm;
// default all. TOKENS: default 32768 131072.
//
// A prompt goes in chunks of 8,192 tokens, as prefill makes them. It is over when decode has said
// of every chunk that its next step could read it.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "bench/device_rates.h"
#include "common/check.h"
#include "kernels/backend.h"
#include "kv_transfer/link_table.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "model/config.h"
#include "model/shard.h"
#include "model/weights.h"
#include "spdlog/spdlog.h"
#include "worker/wire_pool.h"

namespace baleen {
namespace {

using kv_transfer::LinkId;
using kv_transfer::LinkState;
using kv_transfer::LinkTable;
using kv_transfer::MemoryKind;

constexpr int kChunkPages = 8192 / kPageTokens;
constexpr int kRounds = 7;
constexpr uint8_t kChunkSent = kv_transfer::kFirstUserType;
constexpr uint8_t kChunkUsable = kv_transfer::kFirstUserType + 1;

struct Way {
  const char* name;
  const char* transports;
  kv_transfer::MemoryKind memory;
  kv_transfer::DeviceWays device_ways = kv_transfer::DeviceWays::kAny;
};
using kv_transfer::DeviceWays;
constexpr Way kWays[] = {
    {"cuda_ipc", "shm", MemoryKind::kDevice, DeviceWays::kPeerMemory},
    {"ucx_tcp", "tcp", MemoryKind::kDevice, DeviceWays::kUcx},
    {"host_tcp", "tcp", MemoryKind::kHost},
    {"host_shm", "shm", MemoryKind::kHost},
};

// Pages of prefill are `page_bytes` / `stages` of decode's.
struct Case {
  Way way;
  int stages;
  int pages;
  size_t page_bytes;
};

template <typename T>
T Must(absl::StatusOr<T> value) {
  BALEEN_CHECK_MSG(value.ok(), value.status().ToString().c_str());
  return *std::move(value);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One process's end of a case.
struct Side {
  Side(kernels::Backend& backend, const char* name, const Case& c, size_t page_bytes, bool decode)
      : pool(backend, page_bytes * size_t(c.pages)) {
    BALEEN_CHECK_MSG(pool.data() != nullptr, "no memory for the pages");
    const bool shared = c.way.memory == MemoryKind::kDevice;
    if (shared) peer_memory = backend.MakePeerMemory();
    wire = Must(worker::WirePool::Create(backend, pool.data(), page_bytes, c.pages, shared));
    transport = Must(kv_transfer::CreateUcxTransport({.name = name,
                                                      .transports = c.way.transports,
                                                      .peer_memory = peer_memory.get(),
                                                      .device_ways = c.way.device_ways}));
    links = Must(LinkTable::Create(*transport,
                                   {.name = name,
                                    .incarnation = Incarnation{RandomId()},
                                    .pool = {.base = wire->base(),
                                             .page_stride = page_bytes,
                                             .page_bytes = page_bytes,
                                             .pages = c.pages,
                                             .memory = c.way.memory},
                                    .peers_write_pool = decode},
                                   metrics));
  }

  model::DeviceBlock pool;
  std::unique_ptr<PeerMemory> peer_memory;
  std::unique_ptr<worker::WirePool> wire;
  Metrics metrics;
  std::unique_ptr<kv_transfer::Transport> transport;
  std::unique_ptr<LinkTable> links;
};

std::vector<PageId> ChunkPages(int first, int pages) {
  std::vector<PageId> ids;
  for (int i = first; i < std::min(pages, first + kChunkPages); ++i) ids.push_back(PageId{i});
  return ids;
}

// Decode: takes what arrives until the other process closes its pipe.
void RunDecode(kernels::Backend& backend, const Case& c, int to_prefill, int from_prefill) {
  Side side(backend, "decode", c, c.page_bytes, /*decode=*/true);
  RunOn(*side.transport, [&] {
    side.links->SetHandler(
        kChunkSent, [&](LinkId link, std::span<const std::byte> header, kv_transfer::Buffer) {
          int first = 0;
          std::memcpy(&first, header.data(), sizeof(first));
          side.wire->FromWire(ChunkPages(first, c.pages));
          side.links->Send(link, kChunkUsable, header);
        });
  });
  const std::string address = side.links->Self().transport_address;
  const uint64_t hello[2] = {side.links->Self().incarnation.value, address.size()};
  BALEEN_CHECK(write(to_prefill, hello, sizeof(hello)) == sizeof(hello));
  BALEEN_CHECK(write(to_prefill, address.data(), address.size()) == ssize_t(address.size()));
  char over = 0;
  BALEEN_CHECK(read(from_prefill, &over, 1) == 1);
}

struct Figures {
  double seconds = 0;  // a prompt
  double posting = 0;  // seconds of the transport's thread, a piece
};

class Prefill {
 public:
  Prefill(kernels::Backend& backend, const Case& c, int from_decode)
      : case_(c), side_(backend, "prefill", c, c.page_bytes / size_t(c.stages), false) {
    uint64_t hello[2] = {};
    BALEEN_CHECK(read(from_decode, hello, sizeof(hello)) == sizeof(hello));
    std::string address(hello[1], 0);
    BALEEN_CHECK(read(from_decode, address.data(), address.size()) == ssize_t(address.size()));
    std::promise<LinkId> up;
    RunOn(*side_.transport, [&] {
      side_.links->SetHandler(kChunkUsable,
                              [this](LinkId, std::span<const std::byte>, kv_transfer::Buffer) {
                                if (--chunks_due_ == 0) usable_.set_value();
                              });
      side_.links->AddObserver([&up](LinkId link, LinkState state, const absl::Status& why) {
        BALEEN_CHECK_MSG(state != LinkState::kFenced || why.code() == absl::StatusCode::kCancelled,
                         why.ToString().c_str());
        if (state == LinkState::kUp) up.set_value(link);
      });
      Must(side_.links->Connect(
          {.name = "decode", .transport_address = address, .incarnation = Incarnation{hello[0]}}));
    });
    link_ = up.get_future().get();
  }

  Figures PushPrompt() {
    usable_ = {};
    posting_ = 0;
    chunks_due_ = (case_.pages + kChunkPages - 1) / kChunkPages;
    const double begin = Now();
    for (int first = 0; first < case_.pages; first += kChunkPages) {
      side_.wire->ToWire(ChunkPages(first, case_.pages));
      side_.transport->Post([this, first] { PushChunk(first); });
    }
    usable_.get_future().wait();
    return {.seconds = Now() - begin, .posting = posting_ / case_.pages};
  }

 private:
  void PushChunk(int first) {
    const double begin = Now();
    const size_t bytes = case_.page_bytes / size_t(case_.stages);
    std::vector<LinkTable::PagePut> puts;
    for (const PageId page : ChunkPages(first, case_.pages))
      puts.push_back(
          {.local = {side_.wire->base() + size_t(page.value) * bytes, bytes}, .page = page});
    const auto ok = [](const absl::Status& s) { BALEEN_CHECK_MSG(s.ok(), s.ToString().c_str()); };
    side_.links->PutPages(link_, puts, 0, ok);
    side_.links->Flush(link_, [this, first, ok](const absl::Status& s) {
      ok(s);
      side_.links->Send(link_, kChunkSent, std::as_bytes(std::span(&first, 1)));
    });
    posting_ += Now() - begin;
  }

  const Case case_;
  Side side_;
  LinkId link_;
  // Of the prompt under way; the transport's thread.
  std::promise<void> usable_;
  int chunks_due_ = 0;
  double posting_ = 0;
};

Figures MedianOf(std::vector<Figures> all) {
  std::nth_element(all.begin(), all.begin() + all.size() / 2, all.end(),
                   [](const Figures& a, const Figures& b) { return a.seconds < b.seconds; });
  return all[all.size() / 2];
}

void RunPrefill(kernels::Backend& backend, const Case& c, double copy_rate, int to_decode,
                int from_decode) {
  Prefill prefill(backend, c, from_decode);
  prefill.PushPrompt();  // the first one maps and faults in
  std::vector<Figures> rounds;
  for (int i = 0; i < kRounds; ++i) rounds.push_back(prefill.PushPrompt());
  const Figures median = MedianOf(std::move(rounds));
  const size_t piece = c.page_bytes / size_t(c.stages);
  const double rate = double(piece) * c.pages / median.seconds;
  std::printf("| %s | %d | %d x %zu | %.2f | %.1f | %.2f | %.3f |\n", c.way.name,
              c.pages * kPageTokens, c.pages, piece, median.seconds * 1e3, rate / 1e9,
              rate / copy_rate, median.posting * 1e6);
  std::fflush(stdout);
  BALEEN_CHECK(write(to_decode, "x", 1) == 1);
}

std::vector<Case> CasesOf(const std::vector<std::string>& arguments, size_t page_bytes) {
  std::vector<Way> ways;
  std::vector<int> tokens;
  for (const std::string& argument : arguments) {
    const auto way = std::find_if(std::begin(kWays), std::end(kWays),
                                  [&](const Way& w) { return w.name == argument; });
    if (way != std::end(kWays)) {
      ways.push_back(*way);
    } else {
      tokens.push_back(std::atoi(argument.c_str()));
      BALEEN_CHECK_MSG(tokens.back() >= kPageTokens, argument.c_str());
    }
  }
  if (ways.empty()) ways.assign(std::begin(kWays), std::end(kWays));
  if (tokens.empty()) tokens = {32768, 131072};
  std::vector<Case> cases;
  for (const Way& way : ways)
    for (const int stages : {1, 8})
      for (const int count : tokens)
        cases.push_back({way, stages, count / kPageTokens, page_bytes});
  return cases;
}

int Run(int argc, char** argv) {
  const model::ModelConfig config = Must(model::LoadModelConfig(argv[1]));
  const size_t page_bytes =
      model::LayoutOf(config, model::WholeModel(config, config.has_mtp()), Numerics::kFp8)
          .PageBytes();
  const std::vector<Case> cases = CasesOf({argv + 2, argv + argc}, page_bytes);
  int down[2], up[2];  // to prefill, to decode
  BALEEN_CHECK(pipe(down) == 0 && pipe(up) == 0);
  const pid_t child = fork();  // before the device is touched
  spdlog::set_level(spdlog::level::warn);
  auto backend = Must(kernels::MakeBackend("cuda", 1));
  if (child == 0) {
    for (const Case& c : cases) RunDecode(*backend, c, down[1], up[0]);
    return 0;
  }
  const double copy_rate = MeasureCopy(*backend) / 2;
  std::printf("a plain copy on the device: %.1f GB/s\n\n", copy_rate / 1e9);
  std::printf(
      "| pages by | tokens | pieces x bytes | ms | GB/s | of the copy | posting us/piece |\n");
  std::printf("| --- | --- | --- | --- | --- | --- | --- |\n");
  for (const Case& c : cases) RunPrefill(*backend, c, copy_rate, up[1], down[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace baleen

int main(int argc, char** argv) {
  if (argc >= 2) return baleen::Run(argc, argv);
  std::fprintf(stderr, "usage: cuda_push_bench MODEL_DIR [WAY ...] [TOKENS ...]\n");
  return 2;
}
