#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/floor_backend.h"
#include "common/ids.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/shard.h"

namespace baleen {

// One measured batch: `sequences` of `context` tokens, of which the last `rows` are computed.
struct Cell {
  int sequences = 0;
  int rows = 0;
  int context = 0;

  int64_t pages() const { return sequences * PagesFor(context); }
  std::string name() const {
    return rows == 1 ? absl::StrCat("decode, batch ", sequences, ", context ", context)
                     : absl::StrCat("prefill, chunk ", rows, ", ending at ", context);
  }
};

// What a process of the cluster would be.
struct Workload {
  model::ModelConfig config;
  model::Shard shard;
  std::vector<Cell> cells;

  int max_rows() const;
  int max_sequences() const;
  int max_context() const;
};

// One rank of eight, decoding; of the model's first `layers` layers, 0: all.
Workload DecodeWorkload(model::ModelConfig config, int layers);
// One stage of eight in the middle of the model; of its first `layers` layers, 0: all.
Workload PrefillWorkload(const model::ModelConfig& config, int layers);

// Row lists of a cell, over pages in a scattered order.
struct CellBatch {
  CellBatch(const Cell& cell, const model::ModelConfig& config, int pool_pages);
  model::Batch batch() const { return {tokens, positions, sequences, page_table, stride}; }

  std::vector<int32_t> tokens, positions, sequences, page_table;
  int stride = 0;

  // The same for steps of one row a sequence.
  struct Sequence {
    int32_t token = 0;
    int32_t position = 0;
    std::vector<PageId> pages;
  };
  std::vector<Sequence> sequence_list;
  StepKeys keys;
};

}  // namespace baleen
