#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"
#include "model/checkpoint/loader.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/in_process_exchange.h"

namespace baleen::testing {

inline const std::string kTinyDirectory = std::string(BALEEN_SOURCE_DIR) + "/models/tiny-dsv32";

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  BALEEN_CHECK_MSG(value.ok(), value.status().ToString().c_str());
  return *std::move(value);
}

inline const model::ModelConfig& TinyConfig() {
  static const auto* config =
      new model::ModelConfig(ValueOrDie(model::LoadModelConfig(kTinyDirectory)));
  return *config;
}

// Row lists of a batch under construction.
struct Rows {
  std::vector<int32_t> tokens, positions, sequences;

  void Add(int sequence, int position, std::span<const int32_t> more) {
    for (const int32_t token : more) {
      tokens.push_back(token);
      positions.push_back(position++);
      sequences.push_back(sequence);
    }
  }
  std::vector<int32_t> All() const {
    std::vector<int32_t> rows(tokens.size());
    for (size_t r = 0; r < rows.size(); ++r) rows[r] = static_cast<int32_t>(r);
    return rows;
  }
};

struct TinyOptions {
  Numerics numerics = Numerics::kExact;
  int max_rows = 1024;
  int max_sequences = 4;
  int max_context = 1024;
  int threads = 1;
};

// One shard of models/tiny-dsv32 on a CPU backend of its own, with a pool whose pages are dealt to
// sequences in a scattered order.
class TinyShard {
 public:
  TinyShard(const model::Shard& shard, const TinyOptions& options,
            model::ExpertExchange* exchange = nullptr)
      : backend_(kernels::MakeCpuBackend(options.threads)),
        weights_(ValueOrDie(model::LoadWeights(*backend_, kTinyDirectory, TinyConfig(), shard))),
        layout_(model::LayoutOf(TinyConfig(), shard, options.numerics)),
        stride_(static_cast<int>(PagesFor(options.max_context))) {
    const int pages = stride_ * options.max_sequences;
    pool_ = model::DeviceBlock(*backend_, layout_.PageBytes() * pages);
    for (int i = 0; i < pages; ++i) page_table_.push_back(pages - 1 - i);
    forward_ = ValueOrDie(model::Forward::Create(
        *backend_, TinyConfig(), *weights_, exchange != nullptr ? *exchange : own_exchange_, shard,
        {.numerics = options.numerics,
         .layout = layout_,
         .pool = pool_.data(),
         .max_rows = options.max_rows,
         .max_sequences = options.max_sequences,
         .max_head_rows = 64,
         .max_context = options.max_context}));
  }

  model::Forward& forward() { return *forward_; }
  kernels::Backend& backend() { return *backend_; }
  const KvLayout& layout() const { return layout_; }
  std::byte* pool() { return pool_.data(); }

  model::Batch BatchOf(const Rows& rows) const {
    return {.tokens = rows.tokens,
            .positions = rows.positions,
            .sequences = rows.sequences,
            .page_table = page_table_,
            .page_table_stride = stride_};
  }

  void Run(const Rows& rows) { forward_->RunMain(BatchOf(rows)); }

  // Logits of one row of the last run.
  std::vector<float> LogitsOf(int row, model::Forward::Hidden of = model::Forward::Hidden::kMain) {
    const int32_t rows[] = {row};
    const auto logits = forward_->Logits(of, rows);
    return {logits.begin(), logits.end()};
  }

  int32_t ArgmaxOf(int row, model::Forward::Hidden of = model::Forward::Hidden::kMain) {
    const std::vector<float> logits = LogitsOf(row, of);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

 private:
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<model::ModelWeights> weights_;
  KvLayout layout_;
  int stride_;
  model::DeviceBlock pool_;
  std::vector<int32_t> page_table_;
  model::InProcessExchange own_exchange_;
  std::unique_ptr<model::Forward> forward_;
};

inline TinyShard WholeTiny(const TinyOptions& options = {}) {
  return TinyShard(model::WholeModel(TinyConfig(), /*mtp=*/true), options);
}

}  // namespace baleen::testing
