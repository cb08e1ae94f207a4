#include "bench/step_workload.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace baleen {

using model::ModelConfig;

namespace {

constexpr int kGroup = 8;  // ranks, and stages
constexpr int kChunk = 4096;
constexpr int kStageLayers = 8;  // of most stages

template <typename Size>
int Largest(const std::vector<Cell>& cells, Size size) {
  int largest = 0;
  for (const Cell& cell : cells) largest = std::max(largest, size(cell));
  return largest;
}

}  // namespace

int Workload::max_rows() const {
  return Largest(cells, [](const Cell& c) { return c.sequences * c.rows; });
}
int Workload::max_sequences() const {
  return Largest(cells, [](const Cell& c) { return c.sequences; });
}
int Workload::max_context() const {
  return Largest(cells, [](const Cell& c) { return c.context; });
}

Workload DecodeWorkload(ModelConfig config, int layers) {
  if (layers > 0) config.num_hidden_layers = std::min(layers, config.num_hidden_layers);
  Workload w = {.config = config, .shard = ExpertRank(config, /*mtp=*/false, 0, kGroup)};
  for (const int context : {4096, 32768}) {
    if (context > config.max_position_embeddings) break;
    for (const int sequences : {1, 8, 16, 64}) w.cells.push_back({sequences, 1, context});
  }
  return w;
}

Workload PrefillWorkload(const ModelConfig& config, int layers) {
  Workload w = {.config = config, .shard = PipelineStage(config, /*mtp=*/false, 1, kGroup)};
  w.shard.end_layer = w.shard.first_layer + (layers > 0 ? layers : kStageLayers);
  for (const int context : {4096, 32768, 131072}) {
    if (context <= config.max_position_embeddings) w.cells.push_back({1, kChunk, context});
  }
  return w;
}

CellBatch::CellBatch(const Cell& cell, const ModelConfig& config, int pool_pages) {
  std::mt19937 rng(cell.sequences);
  stride = static_cast<int>(PagesFor(cell.context));
  page_table.resize(pool_pages);
  std::iota(page_table.begin(), page_table.end(), 0);
  std::shuffle(page_table.begin(), page_table.end(), rng);
  page_table.resize(cell.pages());
  for (int s = 0; s < cell.sequences; ++s) {
    for (int r = 0; r < cell.rows; ++r) {
      tokens.push_back(static_cast<int32_t>(rng() % config.vocab_size));
      positions.push_back(cell.context - cell.rows + r);
      sequences.push_back(s);
    }
  }
  for (int s = 0; s < cell.sequences; ++s) {
    const size_t row = size_t(s + 1) * cell.rows - 1;
    Sequence& sequence = sequence_list.emplace_back(Sequence{tokens[row], positions[row], {}});
    for (int p = 0; p < stride; ++p) {
      sequence.pages.push_back(PageId{page_table[size_t(s) * stride + p]});
    }
  }
  for (const int32_t position : positions) {
    keys.seen += position + 1;
    keys.selected += std::min(position + 1, config.index_topk);
  }
  keys.rows = double(positions.size());
  keys.stored = double(cell.sequences) * cell.context;
}

}  // namespace baleen
