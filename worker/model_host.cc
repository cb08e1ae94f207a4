#include "worker/model_host.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "engine/memory_plan.h"
#include "kernels/backend.h"
#include "kv_transfer/messages.h"
#include "model/checkpoint/identity.h"
#include "model/checkpoint/loader.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/in_process_exchange.h"
#include "model/tokenizer/tokenizer.h"
#include "model/weights.h"
#include "proto/config.pb.h"
#include "xxhash.h"

namespace baleen::worker {
namespace {

// XXH3 of a file's bytes as 16 hexadecimal digits; "none" when it is not there.
std::string FileHash(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return "none";
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const std::string text = bytes.str();
  return absl::StrFormat("%016x", XXH3_64bits(text.data(), text.size()));
}

absl::StatusOr<Numerics> NumericsFrom(const std::string& name, const std::string& device) {
  if (name == "exact" || (name.empty() && device == "cpu")) return Numerics::kExact;
  if (name == "fp8" || name.empty()) return Numerics::kFp8;
  return absl::InvalidArgumentError(
      absl::StrCat("worker.numerics: \"", name, "\" is neither \"exact\" nor \"fp8\""));
}

absl::StatusOr<model::Vocabulary> LoadVocabulary(const std::string& directory,
                                                 const model::ModelConfig& config,
                                                 std::string* hash) {
  BALEEN_ASSIGN_OR_RETURN(auto tokenizer,
                          tokenizer::Tokenizer::Load(absl::StrCat(directory, "/tokenizer.json")));
  if (tokenizer->vocab_limit() > config.vocab_size)
    return absl::InvalidArgumentError(
        absl::StrCat(directory, "/tokenizer.json: has ids up to ", tokenizer->vocab_limit() - 1,
                     ", config.json: vocab_size is ", config.vocab_size));
  *hash = tokenizer->hash();
  model::Vocabulary vocabulary{
      .limit = tokenizer->vocab_limit(),
      .eos_ids = {config.eos_token_ids.begin(), config.eos_token_ids.end()}};
  for (int32_t id = 0; id < vocabulary.limit; ++id)
    if (!tokenizer->HasToken(id)) vocabulary.missing.push_back(id);
  return vocabulary;
}

}  // namespace

absl::StatusOr<ModelOptions> ModelOptionsFrom(const v1::WorkerConfig& config) {
  ModelOptions options{.directory = config.model(),
                       .device = config.device().empty() ? "cpu" : config.device(),
                       .drafts = config.has_drafts() ? config.drafts() : 1,
                       .pages = config.pages(),
                       .memory_fraction = config.memory_fraction(),
                       .max_context = config.max_context(),
                       .cpu_threads = config.has_cpu_threads() ? config.cpu_threads() : 1,
                       .peer_memory = config.peer_memory()};
  if (options.directory.empty()) return absl::InvalidArgumentError("worker.model: missing");
  if (const auto gpu = kernels::GpuOf(options.device); !gpu.ok())
    return absl::InvalidArgumentError(absl::StrCat("worker.", gpu.status().message()));
  if (!options.MapsPeers() && options.peer_memory != "ucx" && options.peer_memory != "host")
    return absl::InvalidArgumentError(
        absl::StrCat("worker.peer_memory: \"", options.peer_memory,
                     "\" is none of \"cuda_ipc\", \"ucx\" and \"host\""));
  if (options.peer_memory == "ucx" && config.transport() == "shm")
    return absl::InvalidArgumentError(
        "worker.transport: \"shm\", over which peer_memory \"ucx\" cannot carry pages");
  if (options.drafts < 0 || options.drafts > 3)
    return absl::InvalidArgumentError(
        absl::StrCat("worker.drafts: ", options.drafts, " is not in 0..3"));
  if (options.pages < 0) return absl::InvalidArgumentError("worker.pages: negative");
  if (!(options.memory_fraction >= 0 && options.memory_fraction <= 1))
    return absl::InvalidArgumentError(
        absl::StrCat("worker.memory_fraction: ", options.memory_fraction, " is not in 0..1"));
  if (options.max_context < 0) return absl::InvalidArgumentError("worker.max_context: negative");
  if (options.cpu_threads < 1) return absl::InvalidArgumentError("worker.cpu_threads: below 1");
  BALEEN_ASSIGN_OR_RETURN(options.numerics, NumericsFrom(config.numerics(), options.device));
  return options;
}

ModelHost::ModelHost() = default;
ModelHost::~ModelHost() {
  forward_.reset();
  weights_.reset();
  if (pool_ != nullptr) backend_->Free(pool_);
}

absl::StatusOr<std::unique_ptr<ModelHost>> ModelHost::Create(const ModelOptions& options,
                                                             Split split, int index, int size,
                                                             const ForwardLimits& limits) {
  std::unique_ptr<ModelHost> host(new ModelHost);
  host->options_ = options;
  host->limits_ = limits;
  BALEEN_ASSIGN_OR_RETURN(model::ModelConfig config, model::LoadModelConfig(options.directory));
  host->config_ = std::make_unique<model::ModelConfig>(std::move(config));
  BALEEN_RETURN_IF_ERROR(host->ChooseShard(split, index, size));
  BALEEN_ASSIGN_OR_RETURN(host->backend_,
                          kernels::MakeBackend(options.device, options.cpu_threads));
  BALEEN_ASSIGN_OR_RETURN(host->weights_, model::LoadWeights(*host->backend_, options.directory,
                                                             *host->config_, host->shard_));
  BALEEN_RETURN_IF_ERROR(host->MakeFingerprint());
  BALEEN_RETURN_IF_ERROR(host->MakePool());
  BALEEN_RETURN_IF_ERROR(host->SharePool());
  return host;
}

absl::Status ModelHost::ChooseShard(Split split, int index, int size) {
  const model::ModelConfig& config = *config_;
  if (index < 0 || index >= size)
    return absl::InvalidArgumentError(
        absl::StrCat("worker.index: ", index, " in a group of worker.size ", size));
  const bool mtp = options_.drafts > 0;
  if (mtp && !config.has_mtp())
    return absl::InvalidArgumentError(
        absl::StrCat("worker.drafts: ", options_.drafts, ", but the checkpoint has no MTP module"));
  if (split == Split::kPipelineStage && size > config.num_hidden_layers)
    return absl::InvalidArgumentError(
        absl::StrCat("worker.size: ", size, " stages for ", config.num_hidden_layers, " layers"));
  if (split == Split::kExpertRank && config.n_routed_experts % size != 0)
    return absl::InvalidArgumentError(absl::StrCat("worker.size: ", size, " ranks do not divide ",
                                                   config.n_routed_experts, " experts"));
  if (options_.max_context > config.max_position_embeddings)
    return absl::InvalidArgumentError(absl::StrCat("worker.max_context: ", options_.max_context,
                                                   " is over the checkpoint's ",
                                                   config.max_position_embeddings));
  if (options_.max_context == 0) options_.max_context = config.max_position_embeddings;
  shard_ = split == Split::kPipelineStage ? model::PipelineStage(config, mtp, index, size)
                                          : model::ExpertRank(config, mtp, index, size);
  const model::Shard whole = model::WholeModel(config, mtp);
  layout_ = model::LayoutOf(config, shard_, options_.numerics);
  whole_layout_ = model::LayoutOf(config, whole, options_.numerics);
  stage_offset_ = model::StageOffset(config, shard_, options_.numerics);
  return absl::OkStatus();
}

model::ForwardOptions ModelHost::ForwardOptionsOf() const {
  return {.numerics = options_.numerics,
          .layout = layout_,
          .pool = pool_,
          .max_rows = limits_.max_rows,
          .max_sequences = limits_.max_sequences,
          .max_head_rows = limits_.max_head_rows,
          .max_context = options_.max_context,
          .score_bytes = model::DefaultScoreBytes(*backend_)};
}

// Everything of the device is planned here: the weights are there, the forward pass takes what it
// says, the pool gets the rest of this process's share.
absl::Status ModelHost::MakePool() {
  const double fraction = options_.memory_fraction > 0
                              ? options_.memory_fraction
                              : engine::DefaultMemoryFraction(options_.device);
  const engine::MemoryBudget budget = {
      .device = backend_->memory(),
      .fraction = fraction,
      .weights = weights_->memory.bytes(),
      .forward = model::Forward::PlannedBytes(*backend_, *config_, shard_, ForwardOptionsOf()),
      .step = limits_.step_bytes ? limits_.step_bytes(*this) : 0};
  const std::string memory =
      absl::StrCat("memory of ", backend_->name(), ": ", engine::Describe(budget));
  spdlog::info("{}", memory);
  const auto pages = engine::PlanPages({.requested_pages = options_.pages,
                                        .page_bytes = layout_.PageBytes(),
                                        .bytes_available = engine::PoolBytes(budget),
                                        .max_context = options_.max_context});
  if (!pages.ok())
    return absl::Status(pages.status().code(),
                        absl::StrCat(pages.status().message(), "; ", memory));
  pages_ = *pages;
  const size_t bytes = static_cast<size_t>(pages_) * layout_.PageBytes();
  pool_ = static_cast<std::byte*>(backend_->Allocate(bytes));
  if (pool_ == nullptr)
    return absl::ResourceExhaustedError(
        absl::StrCat("page pool: ", pages_, " pages want ", bytes, " bytes; ", memory));
  spdlog::info("layers {}..{}{}, experts {}..{}; page pool: {} pages of {} bytes, {} tokens",
               shard_.first_layer, shard_.end_layer - 1, shard_.mtp ? " and MTP" : "",
               shard_.first_expert, shard_.end_expert - 1, pages_, layout_.PageBytes(),
               int64_t{pages_} * kPageTokens);
  return absl::OkStatus();
}

// Whether peers can map the pool shows by trying; whether UCX carries it, when the transport
// registers it.
absl::Status ModelHost::CanShare() const {
  if (peer_memory_ == nullptr)
    return absl::FailedPreconditionError(
        absl::StrCat("memory of ", backend_->name(), " is not shared"));
  if (!options_.MapsPeers()) return absl::OkStatus();
  return peer_memory_->Export(pool_, size_t(pages_) * layout_.PageBytes()).status();
}

// How the pool's pages travel.
absl::Status ModelHost::SharePool() {
  if (options_.peer_memory != "host") {
    peer_memory_ = backend_->MakePeerMemory();
    if (const absl::Status shared = CanShare(); !shared.ok()) {
      if (!options_.peer_memory.empty())
        return absl::FailedPreconditionError(
            absl::StrCat("worker.peer_memory: ", options_.peer_memory, ": ", shared.message()));
      if (peer_memory_ != nullptr) spdlog::warn("pages go by host memory: {}", shared.ToString());
      peer_memory_.reset();
    }
  }
  fingerprint_.push_back({"peer_memory", peer_memory_ == nullptr ? "host" : "device"});
  BALEEN_ASSIGN_OR_RETURN(wire_pool_, WirePool::Create(*backend_, pool_, layout_.PageBytes(),
                                                       pages_, peer_memory_ != nullptr));
  return absl::OkStatus();
}

std::string ModelHost::TransportsFor(const std::string& configured) const {
  return options_.peer_memory == "ucx" && configured.empty() ? "^posix,sysv" : configured;
}

kv_transfer::DeviceWays ModelHost::device_ways() const {
  using kv_transfer::DeviceWays;
  if (options_.peer_memory == "ucx") return DeviceWays::kUcx;
  return options_.peer_memory == "cuda_ipc" ? DeviceWays::kPeerMemory : DeviceWays::kAny;
}

kv_transfer::PagePoolView ModelHost::pool_view() const {
  using kv_transfer::MemoryKind;
  return {.base = wire_pool_->base(),
          .page_stride = layout_.PageBytes(),
          .page_bytes = layout_.PageBytes(),
          .pages = pages_,
          .page_offset = stage_offset_,
          .memory = peer_memory_ == nullptr ? MemoryKind::kHost : MemoryKind::kDevice};
}

absl::Status ModelHost::MakeFingerprint() {
  BALEEN_ASSIGN_OR_RETURN(const std::string weights, model::CheckpointIdentity(options_.directory));
  std::string tokenizer_hash;
  BALEEN_ASSIGN_OR_RETURN(vocabulary_,
                          LoadVocabulary(options_.directory, *config_, &tokenizer_hash));
  const auto number = [](auto n) { return absl::StrCat(n); };
  fingerprint_ = {
      {"protocol", number(int{kv_transfer::kProtocolVersion})},
      {"model", FileHash(options_.directory + "/config.json")},
      {"weights", weights},
      {"tokenizer", tokenizer_hash},
      {"numerics", options_.numerics == Numerics::kExact ? "exact" : "fp8"},
      {"cache_layout", number(kKvLayoutVersion)},
      {"page_tokens", number(kPageTokens)},
      {"cached_layers", number(whole_layout_.layers)},
      {"layer_bytes", number(whole_layout_.LayerBytes())},
      {"drafts", number(options_.drafts)},
      {"max_context", number(options_.max_context)},
  };
  return absl::OkStatus();
}

absl::Status ModelHost::BuildForward(model::ExpertExchange* exchange) {
  BALEEN_CHECK(forward_ == nullptr);
  if (exchange == nullptr) {
    own_exchange_ = std::make_unique<model::InProcessExchange>();
    exchange = own_exchange_.get();
  }
  BALEEN_ASSIGN_OR_RETURN(forward_, model::Forward::Create(*backend_, *config_, *weights_,
                                                           *exchange, shard_, ForwardOptionsOf()));
  return absl::OkStatus();
}

}  // namespace baleen::worker
