// Steps of DeepSeek-V3.2 at real size with random weights on one GPU, beside their floors.
//
//   cuda_step_bench decode|prefill [--layers N] [--config DIR] [--device cuda|cpu]
//
// decode: one rank of eight: every layer, 32 of 256 experts, one row a sequence, as
// engine::DecodePass runs it: greedy tokens come back, once launched op by op and once as a
// recorded step. The rank computes as many pairs of a row and an expert as it would receive from
// eight ranks with as many rows each (EightRanks, below); rows do not travel. prefill: one stage of
// eight: 8 layers from the middle, all experts, chunks of 4,096 rows.
//
// A cell's time is the median of rounds, from the call to the device's end. "host" is the part
// until everything has been launched (a full launch queue makes it wait). Floors:
// floor_backend.h, with the bandwidth of a copy in the same run. Then one more round each under
// CUPTI: launches and the ten largest kernels, beside the ten largest floors of ops.
// --layers N measures the model's first N layers and the head, or N layers of the stage, for a
// card that is too small; nothing is extrapolated.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/device_rates.h"
#include "bench/floor_backend.h"
#include "bench/step_workload.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "engine/decode_pass.h"
#include "kernels/cuda/kernel_profile.h"
#include "kernels/float_formats.h"
#include "model/checkpoint/loader.h"
#include "model/checkpoint/random_tensors.h"
#include "model/forward.h"
#include "model/in_process_exchange.h"
#include "tools/arguments.h"

namespace baleen {
namespace {

using kernels::Backend;
using model::DeviceBlock;
using model::Forward;
using model::ModelConfig;

constexpr int kWarmUps = 3;
constexpr int kRounds = 15;
constexpr int kShown = 10;
constexpr size_t kSpareBytes = size_t{2} << 30;  // for the driver, beside what is planned

double GiB(double bytes) { return bytes / (1 << 30); }

template <typename T>
DeviceBlock Upload(Backend& backend, const std::vector<T>& host) {
  DeviceBlock block(backend, host.size() * sizeof(T));
  BALEEN_CHECK_MSG(block.data() != nullptr, "no memory");
  backend.CopyIn(block.data(), host.data(), block.bytes());
  backend.Synchronize();
  return block;
}

// Stands in for the exchange of eight ranks: a row's choice of expert e becomes the local expert
// e mod 32. Ranks whose rows chose like ours, turned by a rank each, would send exactly these
// pairs. One small kernel, in place of the kernels of a real exchange.
class EightRanks final : public model::ExpertExchange {
 public:
  EightRanks(Backend& backend, const ModelConfig& config, int local, int max_rows)
      : backend_(backend),
        experts_(config.n_routed_experts),
        ids_(backend, size_t(max_rows) * config.num_experts_per_tok * sizeof(int32_t)) {
    std::vector<int32_t> local_of(experts_);
    for (int e = 0; e < experts_; ++e) local_of[e] = e % local;
    local_of_ = Upload(backend, local_of);
  }

  Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq, const int32_t* ids,
                    int topk) override {
    // Ids travel as words: nothing is computed with them.
    backend_.GatherRows({.x = {local_of_.data(), DType::kF32, experts_, 1, 1},
                         .index = ids,
                         .out = {ids_.data(), DType::kF32, x.rows * topk, 1, 1}});
    return {.x = x, .xq = xq, .ids = reinterpret_cast<const int32_t*>(ids_.data()), .rows = x.rows};
  }
  kernels::Matrix Collect(const kernels::Matrix& expert_out) override { return expert_out; }
  bool recordable() const override { return true; }

 private:
  Backend& backend_;
  const int experts_;
  DeviceBlock ids_, local_of_;
};

// Fills `pages` pages of `layout` by the ops that a step uses, from normal numbers.
void FillPool(Backend& backend, const KvLayout& layout, std::byte* pool, int pages) {
  constexpr int kPages = 64;  // of one call
  constexpr int kRows = kPages * kPageTokens;
  constexpr size_t kNoise = size_t{16} << 20, kShift = 4096 - 8;
  std::mt19937 rng(9);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> noise(kNoise);
  for (uint16_t& v : noise) v = kernels::F32ToBf16(normal(rng));
  std::vector<int32_t> positions(kRows), sequences(kRows, 0), table(pages);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(table.begin(), table.end(), 0);
  const DeviceBlock values = Upload(backend, noise), at = Upload(backend, positions);
  const DeviceBlock zeros = Upload(backend, sequences), ids = Upload(backend, table);
  size_t from = 0;
  const auto rows_of = [&](int rows, int cols) {
    from = (from + kShift) % (kNoise - size_t(kRows) * layout.kv_lora);
    return kernels::Matrix{values.data() + from * 2, DType::kBf16, rows, cols, cols};
  };
  for (int first = 0; first < pages; first += kPages) {
    const int count = std::min(kPages, pages - first);
    const kernels::RowMap rows = {
        .rows = count * kPageTokens,
        .positions = reinterpret_cast<const int32_t*>(at.data()),
        .sequences = reinterpret_cast<const int32_t*>(zeros.data()),
        .page_table = reinterpret_cast<const int32_t*>(ids.data()) + first,
        .page_table_stride = count};
    for (int layer = 0; layer < layout.layers; ++layer) {
      const kernels::LayerCache cache = {pool, layout.PageBytes(), layer * layout.LayerBytes(),
                                         layout};
      backend.StoreLatent({.latent = rows_of(rows.rows, layout.kv_lora),
                           .rope = rows_of(rows.rows, layout.rope),
                           .cache = cache,
                           .rows = rows});
      backend.StoreIndexKeys(
          {.keys = rows_of(rows.rows, layout.index_dim), .cache = cache, .rows = rows});
    }
  }
  backend.Synchronize();
}

struct StepTime {
  double total = 0;  // seconds
  double host = 0;   // of them until all was launched
};

// A way to run a step: a column of the table.
struct Mode {
  const char* name;
  std::function<StepTime(const CellBatch&)> step;
};

// One process of the cluster: weights, pool and forward pass.
class Process {
 public:
  // `backend` must outlive the result.
  static absl::StatusOr<std::unique_ptr<Process>> Create(Backend& backend, Workload workload) {
    std::unique_ptr<Process> process(new Process(backend, std::move(workload)));
    BALEEN_RETURN_IF_ERROR(process->Load());
    BALEEN_RETURN_IF_ERROR(process->MakeForward());
    return process;
  }

  const Workload& workload() const { return w_; }
  int pool_pages() const { return pool_pages_; }
  bool Fits(const Cell& cell) const { return cell.pages() <= pool_pages_; }

  // The ways to run a step: columns of the table.
  std::vector<Mode> Modes() {
    std::vector<Mode> modes;
    if (!w_.shard.last()) {
      modes.push_back({"launched", [this](const CellBatch& b) { return PrefillStep(b); }});
      return modes;
    }
    modes.push_back({"launched", [this](const CellBatch& b) { return DecodeStep(*launched_, b); }});
    if (forward_->recordable()) {
      modes.push_back(
          {"recorded", [this](const CellBatch& b) { return DecodeStep(*recorded_, b); }});
      modes.push_back(
          {"ahead", [this](const CellBatch& b) { return DecodeStepsAhead(*recorded_, b); }});
    }
    return modes;
  }

  // The plan beside what the device says has been taken since `before` was free.
  void PrintMemory(size_t before) const {
    const double weights = double(weights_->memory.bytes());
    const double forward = double(PlannedForward());
    const double pool = double(pool_.bytes());
    const double steps =
        w_.shard.last() ? 2 * double(engine::DecodePass::Bytes(PassOptions(true))) : 0;
    const double plan = weights + forward + pool + steps;
    const double used = double(before) - double(backend_.memory().free);
    std::printf(
        "memory: weights %.2f + forward %.2f + steps %.2f + pool %.2f (%d pages) = plan %.2f GiB; "
        "used %.2f GiB, %.4f of the plan\n",
        GiB(weights), GiB(forward), GiB(steps), GiB(pool), pool_pages_, GiB(plan), GiB(used),
        used / plan);
  }

 private:
  Process(Backend& backend, Workload workload) : backend_(backend), w_(std::move(workload)) {
    options_ = {.numerics = Numerics::kFp8,
                .layout = LayoutOf(w_.config, w_.shard, Numerics::kFp8),
                .max_rows = w_.max_rows(),
                .max_sequences = w_.max_sequences(),
                .max_head_rows = w_.shard.last() ? w_.max_rows() : 1,
                .max_context = w_.max_context(),
                .score_bytes = model::DefaultScoreBytes(backend_)};
  }

  engine::DecodePass::Options PassOptions(bool record) const {
    return {.max_sequences = w_.max_sequences(),
            .max_context = w_.max_context(),
            .max_head_rows = w_.max_rows(),
            .index_topk = w_.config.index_topk,
            .record = record,
            .vocabulary = {.limit = w_.config.vocab_size}};
  }

  StepTime PrefillStep(const CellBatch& cell) {
    const auto begin = std::chrono::steady_clock::now();
    forward_->RunMain(cell.batch());
    const std::chrono::duration<double> host = std::chrono::steady_clock::now() - begin;
    backend_.Synchronize();
    const std::chrono::duration<double> total = std::chrono::steady_clock::now() - begin;
    return {total.count(), host.count()};
  }

  static std::vector<engine::DecodePass::Input> InputsOf(const CellBatch& cell) {
    static const model::SamplingParams greedy{.temperature = 0};
    static const model::TokenHistory history;
    std::vector<engine::DecodePass::Input> inputs;
    for (const CellBatch::Sequence& s : cell.sequence_list) {
      inputs.push_back({.token = s.token,
                        .position = s.position,
                        .pages = s.pages,
                        .slots = s.position + 1,
                        .sampling = &greedy,
                        .history = &history});
    }
    return inputs;
  }

  // A step of several, each launched before the one before is waited for.
  StepTime DecodeStepsAhead(engine::DecodePass& pass, const CellBatch& cell) {
    constexpr int kSteps = 8;
    const std::vector<engine::DecodePass::Input> inputs = InputsOf(cell);
    std::chrono::duration<double> host{};
    const auto begin = std::chrono::steady_clock::now();
    for (int step = 0; step < kSteps; ++step) {
      const auto launch = std::chrono::steady_clock::now();
      pass.Launch(inputs);
      host += std::chrono::steady_clock::now() - launch;
      if (step > 0) pass.Wait();
    }
    pass.Wait();
    const std::chrono::duration<double> total = std::chrono::steady_clock::now() - begin;
    return {total.count() / kSteps, host.count() / kSteps};
  }

  StepTime DecodeStep(engine::DecodePass& pass, const CellBatch& cell) {
    const std::vector<engine::DecodePass::Input> inputs = InputsOf(cell);
    const auto begin = std::chrono::steady_clock::now();
    pass.Launch(inputs);
    const std::chrono::duration<double> host = std::chrono::steady_clock::now() - begin;
    pass.Wait();
    const std::chrono::duration<double> total = std::chrono::steady_clock::now() - begin;
    return {total.count(), host.count()};
  }

  size_t PlannedForward() const {
    return Forward::PlannedBytes(backend_, w_.config, w_.shard, options_);
  }

  absl::Status Load() {
    const auto begin = std::chrono::steady_clock::now();
    model::RandomTensors tensors(w_.config, w_.shard, /*seed=*/1);
    BALEEN_ASSIGN_OR_RETURN(weights_, LoadWeights(backend_, tensors, w_.config, w_.shard));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("random weights: %.2f GiB in %.1f s\n", GiB(double(weights_->memory.bytes())),
                took.count());
    return absl::OkStatus();
  }

  // The pool is as large as the largest cell that fits beside the forward pass.
  absl::Status MakeForward() {
    const size_t page = options_.layout.PageBytes();
    const size_t steps = w_.shard.last() ? 2 * engine::DecodePass::Bytes(PassOptions(true)) : 0;
    const size_t wanted = PlannedForward() + steps + kSpareBytes;
    const size_t free = backend_.memory().free;
    for (const Cell& cell : w_.cells) {
      const int64_t pages = cell.pages();
      if (wanted + pages * page <= free) pool_pages_ = std::max<int>(pool_pages_, int(pages));
    }
    if (pool_pages_ == 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no cell fits: ", free, " bytes are free, try --layers"));
    }
    pool_ = DeviceBlock(backend_, page * pool_pages_);
    if (pool_.data() == nullptr) return absl::ResourceExhaustedError("no memory for the pool");
    FillPool(backend_, options_.layout, pool_.data(), pool_pages_);
    options_.pool = pool_.data();
    MakeExchange();
    BALEEN_ASSIGN_OR_RETURN(
        forward_, Forward::Create(backend_, w_.config, *weights_, *exchange_, w_.shard, options_));
    if (!w_.shard.first()) FillStream();
    if (!w_.shard.last()) return absl::OkStatus();
    launched_.emplace(*forward_, PassOptions(false));
    const auto begin = std::chrono::steady_clock::now();
    recorded_.emplace(*forward_, PassOptions(true));
    recorded_->Record();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("recording of all shapes: %.1f s\n", took.count());
    return absl::OkStatus();
  }

  void MakeExchange() {
    const int local = w_.shard.end_expert - w_.shard.first_expert;
    if (local == w_.config.n_routed_experts) {
      exchange_ = std::make_unique<model::InProcessExchange>();
    } else {
      exchange_ = std::make_unique<EightRanks>(backend_, w_.config, local, w_.max_rows());
    }
  }

  // What the stage before would send. Later steps go on with what the step left there.
  void FillStream() {
    const kernels::Matrix stream = forward_->stream();
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    std::vector<float> values(size_t(w_.max_rows()) * stream.cols);
    for (float& v : values) v = normal(rng);
    backend_.CopyIn(stream.data, values.data(), values.size() * sizeof(float));
    backend_.Synchronize();
  }

  Backend& backend_;
  const Workload w_;
  model::ForwardOptions options_;
  std::unique_ptr<model::ModelWeights> weights_;
  int pool_pages_ = 0;
  DeviceBlock pool_;
  std::unique_ptr<model::ExpertExchange> exchange_;
  std::unique_ptr<Forward> forward_;
  std::optional<engine::DecodePass> launched_, recorded_;  // of a decode rank
};

StepTime Median(const std::function<StepTime()>& step) {
  for (int i = 0; i < kWarmUps; ++i) step();
  std::vector<double> total, host;
  for (int i = 0; i < kRounds; ++i) {
    const StepTime time = step();
    total.push_back(time.total);
    host.push_back(time.host);
  }
  std::nth_element(total.begin(), total.begin() + kRounds / 2, total.end());
  std::nth_element(host.begin(), host.begin() + kRounds / 2, host.end());
  return {total[kRounds / 2], host[kRounds / 2]};
}

double Sum(const std::vector<OpFloor>& floors) {
  double seconds = 0;
  for (const OpFloor& floor : floors) seconds += floor.seconds;
  return seconds;
}

std::vector<OpFloor> FloorsOf(FloorBackend& backend, const Mode& mode, const CellBatch& cell) {
  backend.StartCounting(cell.keys);
  mode.step(cell);
  return backend.StopCounting();
}

void PrintTimes(FloorBackend& backend, const Process& process, const std::vector<Mode>& modes) {
  std::printf("\n%-40s %-10s %9s %9s %9s %6s\n", "step", "mode", "ms", "floor ms", "host ms",
              "ratio");
  for (const Cell& cell : process.workload().cells) {
    if (!process.Fits(cell)) {
      std::printf("%-40s does not fit\n", cell.name().c_str());
      continue;
    }
    const CellBatch batch(cell, process.workload().config, process.pool_pages());
    const double floor = Sum(FloorsOf(backend, modes.front(), batch));
    for (const Mode& mode : modes) {
      const StepTime time = Median([&] { return mode.step(batch); });
      std::printf("%-40s %-10s %9.3f %9.3f %9.3f %6.2f\n", cell.name().c_str(), mode.name,
                  time.total * 1e3, floor * 1e3, time.host * 1e3, time.total / floor);
      std::fflush(stdout);
    }
  }
}

void PrintKernels(const std::vector<kernels::cuda::KernelTotal>& totals) {
  int launches = 0;
  double device = 0;
  for (const auto& total : totals) {
    launches += total.launch ? total.count : 0;
    device += total.microseconds;
  }
  std::printf("  %d kernel launches, kernels and copies together %.3f ms; the largest:\n", launches,
              device * 1e-3);
  for (size_t i = 0; i < std::min<size_t>(totals.size(), kShown); ++i) {
    std::printf("  %6d x %10.1f us  %s\n", totals[i].count, totals[i].microseconds,
                totals[i].name.c_str());
  }
}

void PrintProfiles(FloorBackend& backend, const Process& process, const std::vector<Mode>& modes) {
  for (const Cell& cell : process.workload().cells) {
    if (!process.Fits(cell)) continue;
    const CellBatch batch(cell, process.workload().config, process.pool_pages());
    for (const Mode& mode : modes) {
      std::printf("\n%s, %s\n", cell.name().c_str(), mode.name);
      const auto totals = kernels::cuda::ProfileKernels([&] { mode.step(batch); });
      if (!totals.ok()) {
        std::printf("  no kernels: %s\n", totals.status().ToString().c_str());
      } else {
        PrintKernels(*totals);
      }
    }
    const std::vector<OpFloor> floors = FloorsOf(backend, modes.front(), batch);
    std::printf("  floors by op:\n");
    for (size_t i = 0; i < std::min<size_t>(floors.size(), kShown); ++i) {
      std::printf("  %6d x %10.1f us  %s\n", floors[i].calls, floors[i].seconds * 1e6,
                  floors[i].op.c_str());
    }
    std::fflush(stdout);
  }
}

void PrintWorkload(const Workload& w, const ModelConfig& whole) {
  const int layers = w.shard.end_layer - w.shard.first_layer;
  std::printf("layers %d to %d (%d of the model's %d), experts %d of %d%s\n", w.shard.first_layer,
              w.shard.end_layer - 1, layers, whole.num_hidden_layers,
              w.shard.end_expert - w.shard.first_expert, w.config.n_routed_experts,
              w.shard.last() ? ", with the head" : "");
}

absl::Status Run(const std::string& what, const tools::Arguments& arguments) {
  int layers = 0;
  if (!absl::SimpleAtoi(arguments.Get("layers", "0"), &layers)) {
    return absl::InvalidArgumentError("--layers must be a number");
  }
  BALEEN_ASSIGN_OR_RETURN(const ModelConfig config, model::LoadModelConfig(arguments.Get(
                                                        "config", "models/deepseek-v3.2-config")));
  BALEEN_ASSIGN_OR_RETURN(const auto device,
                          kernels::MakeBackend(arguments.Get("device", "cuda"), 1));
  const double bandwidth = MeasureCopy(*device);
  std::printf("copy of rows: %.0f GB/s read and written\n", bandwidth * 1e-9);
  FloorBackend backend(*device, bandwidth);
  const size_t before = backend.memory().free;
  Workload workload =
      what == "decode" ? DecodeWorkload(config, layers) : PrefillWorkload(config, layers);
  PrintWorkload(workload, config);
  BALEEN_ASSIGN_OR_RETURN(const auto process, Process::Create(backend, std::move(workload)));
  const std::vector<Mode> modes = process->Modes();
  PrintTimes(backend, *process, modes);
  process->PrintMemory(before);
  PrintProfiles(backend, *process, modes);
  return absl::OkStatus();
}

}  // namespace
}  // namespace baleen

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto arguments = baleen::tools::ParseArguments(args, {"layers", "config", "device"});
  if (!arguments.ok() || arguments->words.size() != 1 ||
      (arguments->words[0] != "decode" && arguments->words[0] != "prefill")) {
    std::fprintf(stderr,
                 "usage: cuda_step_bench decode|prefill [--layers N] [--config DIR] "
                 "[--device cuda|cpu]\n");
    return 2;
  }
  const absl::Status status = baleen::Run(arguments->words[0], *arguments);
  if (!status.ok()) std::fprintf(stderr, "cuda_step_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
