#include "engine/local_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/memory_plan.h"
#include "model/checkpoint/loader.h"
#include "model/in_process_exchange.h"

namespace baleen::engine {
namespace {

constexpr int kHeadRows = 64;  // of one Logits call

absl::Status CheckOptions(const LocalModelOptions& o, const model::ModelConfig& config) {
  const auto bad = [](auto&&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (o.threads < 1) return bad("threads: ", o.threads, " is below 1");
  if (o.drafts < 0 || o.drafts > 3) return bad("drafts: ", o.drafts, " is not in 0..3");
  if (o.drafts > 0 && !config.has_mtp()) {
    return bad("drafts: ", o.drafts, ", but the checkpoint has no MTP module");
  }
  if (o.chunk_tokens < 1) return bad("chunk: ", o.chunk_tokens, " is below 1");
  if (o.max_sequences < 1) return bad("max_sequences: ", o.max_sequences, " is below 1");
  if (o.max_context < 0 || o.max_context > config.max_position_embeddings) {
    return bad("max_context: ", o.max_context, " is not in 0..", config.max_position_embeddings);
  }
  return absl::OkStatus();
}

}  // namespace

LocalModel::~LocalModel() = default;

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Create(const LocalModelOptions& options) {
  std::unique_ptr<LocalModel> local(new LocalModel);
  BALEEN_RETURN_IF_ERROR(local->Load(options));
  return local;
}

absl::Status LocalModel::Load(const LocalModelOptions& options) {
  BALEEN_ASSIGN_OR_RETURN(config_, model::LoadModelConfig(options.directory));
  BALEEN_RETURN_IF_ERROR(CheckOptions(options, config_));
  const int max_context =
      options.max_context > 0 ? options.max_context : config_.max_position_embeddings;
  shard_ = model::WholeModel(config_, options.drafts > 0);
  BALEEN_ASSIGN_OR_RETURN(backend_, kernels::MakeBackend(options.device, options.threads));
  BALEEN_ASSIGN_OR_RETURN(weights_,
                          model::LoadWeights(*backend_, options.directory, config_, shard_));
  model::ForwardOptions forward = {
      .numerics = options.numerics,
      .layout = model::LayoutOf(config_, shard_, options.numerics),
      .max_rows = std::max(options.chunk_tokens, options.max_sequences * (1 + options.drafts)),
      .max_sequences = options.max_sequences,
      .max_head_rows = kHeadRows,
      .max_context = max_context,
      .score_bytes = model::DefaultScoreBytes(*backend_)};
  const model::Vocabulary all_ids{
      .limit = config_.vocab_size,
      .eos_ids = {config_.eos_token_ids.begin(), config_.eos_token_ids.end()}};
  LocalEngine::Options engine = {.shard = shard_,
                                 .chunk_tokens = options.chunk_tokens,
                                 .max_sequences = options.max_sequences,
                                 .max_head_rows = kHeadRows,
                                 .drafts = options.drafts,
                                 .max_context = max_context,
                                 .index_topk = config_.has_indexer ? config_.index_topk : 0,
                                 .prefix_cache = options.prefix_cache,
                                 .vocabulary = options.vocabulary.value_or(all_ids)};
  BALEEN_ASSIGN_OR_RETURN(engine.pages,
                          MakePool(options, LocalEngine::PlannedBytes(engine), forward));
  exchange_ = std::make_unique<model::InProcessExchange>();
  BALEEN_ASSIGN_OR_RETURN(
      forward_, model::Forward::Create(*backend_, config_, *weights_, *exchange_, shard_, forward));
  engine_ = std::make_unique<LocalEngine>(*forward_, std::move(engine));
  return absl::OkStatus();
}

// Puts the pool into `forward` and returns its pages.
absl::StatusOr<int> LocalModel::MakePool(const LocalModelOptions& options, size_t step_bytes,
                                         model::ForwardOptions& forward) {
  const size_t available =
      PoolBytes({.device = backend_->memory(),
                 .fraction = DefaultMemoryFraction(options.device),
                 .weights = weights_->memory.bytes(),
                 .forward = model::Forward::PlannedBytes(*backend_, config_, shard_, forward),
                 .step = step_bytes});
  BALEEN_ASSIGN_OR_RETURN(const int pages, PlanPages({.requested_pages = options.pages,
                                                      .page_bytes = forward.layout.PageBytes(),
                                                      .bytes_available = available,
                                                      .max_context = forward.max_context,
                                                      .useful_sequences = options.max_sequences}));
  const size_t bytes = forward.layout.PageBytes() * static_cast<size_t>(pages);
  pool_ = model::DeviceBlock(*backend_, bytes);
  if (pool_.data() == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("page pool: no memory for ", pages, " pages, ", bytes, " bytes"));
  }
  forward.pool = pool_.data();
  return pages;
}

}  // namespace baleen::engine
