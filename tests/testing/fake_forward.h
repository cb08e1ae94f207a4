#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"
#include "model/forward.h"
#include "model/sampling.h"

namespace baleen::testing {

// A model::Forward without weights for tests of engines and workers: 96 tokens, a hash for every
// layer. What makes it useful:
//   - Each layer of each row writes a record into the page pool, through the page table and in the
//     real layout (latent rows and index keys, every byte used), and reads the records of all
//     earlier positions back from there. A page that is missing, stale, swapped or only partly
//     copied changes every later logit.
//   - The stream between stages carries the whole state, so a lost or reordered row shows.
//   - MoE layers (all but layer 0, and MTP) go through the ExpertExchange; each expert's part is
//     computed only by the shard that holds it.
//   - Rows are independent of batch composition: outputs are equal bit for bit for every chunking,
//     number of stages, ranks and drafts.
//   - Most next tokens follow from the last token alone, so MTP drafts are right about 3 times
//   in 4.
class FakeForward : public model::Forward {
 public:
  static constexpr int kVocab = 96;
  static constexpr int kLayers = 4;  // main layers of the whole model
  static constexpr int kExperts = 8;
  static constexpr int kTopk = 2;
  static constexpr int kDim = 4;  // 16 bits of state in each f32
  static constexpr int32_t kEos = 1;

  static model::Shard Whole(bool mtp) { return {0, kLayers, mtp, 0, kExperts, kLayers}; }
  // Layers split as evenly as they go.
  static model::Shard Stage(bool mtp, int index, int size) {
    return {.first_layer = kLayers * index / size,
            .end_layer = kLayers * (index + 1) / size,
            .mtp = mtp && index + 1 == size,
            .first_expert = 0,
            .end_expert = kExperts,
            .num_layers = kLayers};
  }
  static model::Shard Rank(bool mtp, int index, int size) {
    return {.first_layer = 0,
            .end_layer = kLayers,
            .mtp = mtp,
            .first_expert = kExperts * index / size,
            .end_expert = kExperts * (index + 1) / size,
            .num_layers = kLayers};
  }
  // Small pages: 2 KiB a layer.
  static KvLayout Layout(const model::Shard& shard) {
    return {.numerics = Numerics::kExact,
            .layers = shard.cached_layers(),
            .kv_lora = 4,
            .rope = 2,
            .index_dim = 2};
  }
  static model::Vocabulary Vocabulary() { return {.limit = kVocab, .eos_ids = {kEos}}; }

  // `pool`: [pages][Layout(shard).PageBytes()], outlives this. `exchange` may be nullptr when the
  // shard has all experts.
  FakeForward(const model::Shard& shard, std::byte* pool, model::ExpertExchange* exchange = nullptr)
      : shard_(shard), layout_(Layout(shard)), pool_(pool), exchange_(exchange) {
    BALEEN_CHECK(exchange != nullptr || shard.end_expert - shard.first_expert == kExperts);
    stream_.resize(size_t{kMaxRows} * kDim);
  }

  kernels::Matrix stream() override {
    return {.data = stream_.data(), .rows = kMaxRows, .cols = kDim, .stride = kDim};
  }

  void RunMain(const model::Batch& batch) override { RunMain(RowsOf(batch)); }

  void RunMain(const model::DeviceRows& rows) override {
    const int count = rows.map.rows;
    ++main_runs;
    main_rows.push_back(count);
    BALEEN_CHECK(count <= kMaxRows);
    main_.resize(count);
    for (int r = 0; r < count; ++r) {
      main_[r] = shard_.first() ? Carry(Mix(1, rows.tokens[r]), rows.tokens[r])
                                : Unpack(&stream_[size_t(r) * kDim]);
    }
    for (int layer = shard_.first_layer; layer < shard_.end_layer; ++layer) {
      Layer(rows.map, layer - shard_.first_layer, layer, main_);
    }
    for (int r = 0; r < count; ++r) Pack(main_[r], &stream_[size_t(r) * kDim]);
  }

  void RunMtp(const model::Batch& batch, Hidden from, std::span<const int32_t> rows) override {
    BALEEN_CHECK(rows.size() == size_t(batch.rows()));
    RunMtp(RowsOf(batch), from, rows.data());
  }

  void RunMtp(const model::DeviceRows& rows, Hidden from, const int32_t* hidden_rows) override {
    BALEEN_CHECK(shard_.mtp);
    ++mtp_runs;
    const std::vector<uint64_t> hidden = from == Hidden::kMain ? main_ : mtp_;
    mtp_.resize(rows.map.rows);
    for (int r = 0; r < rows.map.rows; ++r) {
      mtp_[r] = Carry(Mix(hidden.at(hidden_rows[r]), rows.tokens[r]), rows.tokens[r]);
    }
    Layer(rows.map, shard_.end_layer - shard_.first_layer, shard_.num_layers, mtp_);
  }

  kernels::Matrix Head(Hidden of, const int32_t* rows, int count) override {
    BALEEN_CHECK(shard_.last());
    logits_.resize(size_t(count) * kVocab);
    for (int i = 0; i < count; ++i) {
      const uint64_t state = (of == Hidden::kMain ? main_ : mtp_).at(rows[i]);
      float* row = &logits_[size_t(i) * kVocab];
      for (int v = 0; v < kVocab; ++v) row[v] = Noise(state, v);
      row[Successor(state)] += 3.5f;
      if (poison_token >= 0 && TokenOf(state) == poison_token) row[0] = NAN;
    }
    return {.data = logits_.data(), .rows = count, .cols = kVocab, .stride = kVocab};
  }

  kernels::Matrix Head(Hidden of, std::span<const int32_t> rows) override {
    return Head(of, rows.data(), static_cast<int>(rows.size()));
  }

  std::span<const float> Logits(Hidden of, std::span<const int32_t> rows) override {
    Head(of, rows);
    return logits_;
  }

  kernels::Backend& backend() override { return *backend_; }
  bool recordable() const override { return false; }
  bool same_rows() const override { return exchange_ != nullptr && exchange_->same_rows(); }

  void Observe(LayerObserver, void*) override {}

  // Rows after this token give NaN logits; -1: none.
  int32_t poison_token = -1;
  // What was called, for tests of lockstep and batch shapes.
  int main_runs = 0;
  int mtp_runs = 0;
  std::vector<int> main_rows;

 private:
  static constexpr int kMaxRows = 8192;

  static uint64_t Mix(uint64_t a, uint64_t b) {
    uint64_t x = a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2));
    x = (x ^ (x >> 31)) * 0x7FB5D329728EA185u;
    x = (x ^ (x >> 27)) * 0x81DADEF4BC2DD44Du;
    return x ^ (x >> 33);
  }
  // A state's low byte is the row's token, which all layers leave alone.
  static uint64_t Carry(uint64_t hash, uint64_t token) { return (hash & ~255u) | (token & 255u); }
  static int32_t TokenOf(uint64_t state) { return static_cast<int32_t>(state & 255u); }
  static int32_t Successor(uint64_t state) { return (TokenOf(state) * 7 + 3) % (kVocab - 2) + 2; }
  static float Noise(uint64_t state, int token) {  // [0, 4)
    return static_cast<float>(Mix(state, 1000 + token) >> 40) * 0x1p-22f;
  }
  static void Pack(uint64_t state, float* out) {
    for (int i = 0; i < kDim; ++i) out[i] = static_cast<float>(state >> (16 * i) & 0xFFFF);
  }
  static uint64_t Unpack(const float* in) {
    uint64_t state = 0;
    for (int i = 0; i < kDim; ++i) state |= static_cast<uint64_t>(in[i]) << (16 * i);
    return state;
  }

  static model::DeviceRows RowsOf(const model::Batch& batch) {
    return {.map = {.rows = batch.rows(),
                    .positions = batch.positions.data(),
                    .sequences = batch.sequences.data(),
                    .page_table = batch.page_table.data(),
                    .page_table_stride = batch.page_table_stride},
            .tokens = batch.tokens.data()};
  }

  // One layer over all rows: write records, read all earlier ones, experts.
  void Layer(const kernels::RowMap& rows, int cached_layer, int layer,
             std::vector<uint64_t>& states) {
    for (int r = 0; r < rows.rows; ++r) {
      if (rows.sequences[r] == rows.empty_sequence) continue;
      uint64_t words[4];
      for (int i = 0; i < 4; ++i) words[i] = Mix(Mix(states[r], layer * 4 + i), rows.positions[r]);
      std::memcpy(Slot(rows, r, rows.positions[r], cached_layer, false), words, 24);
      std::memcpy(Slot(rows, r, rows.positions[r], cached_layer, true), words + 3, 8);
    }
    for (int r = 0; r < rows.rows; ++r) {
      if (rows.sequences[r] == rows.empty_sequence) continue;
      uint64_t sum = 0;
      for (int p = 0; p <= rows.positions[r]; ++p) {
        uint64_t words[4];
        std::memcpy(words, Slot(rows, r, p, cached_layer, false), 24);
        std::memcpy(words + 3, Slot(rows, r, p, cached_layer, true), 8);
        const uint64_t joined =
            words[0] ^ std::rotl(words[1], 13) ^ std::rotl(words[2], 29) ^ std::rotl(words[3], 47);
        sum += joined * (2 * uint64_t(p) + 1);
      }
      states[r] = Carry(Mix(states[r], sum), states[r]);
    }
    if (layer > 0) Experts(rows, states);
  }

  std::byte* Slot(const kernels::RowMap& rows, int row, int position, int layer,
                  bool index_key) const {
    const size_t entry =
        size_t(rows.sequences[row]) * rows.page_table_stride + position / kPageTokens;
    const int slot = position % kPageTokens;
    std::byte* base = pool_ + size_t(rows.page_table[entry]) * layout_.PageBytes() +
                      size_t(layer) * layout_.LayerBytes();
    return index_key ? base + layout_.IndexKeysOffset() + slot * layout_.IndexKeyBytes()
                     : base + slot * layout_.LatentRowBytes();
  }

  void Experts(const kernels::RowMap& map, std::vector<uint64_t>& states) {
    const int rows = map.rows;
    const auto empty = [&map](int r) { return map.sequences[r] == map.empty_sequence; };
    std::vector<float> x(states.size() * kDim);
    std::vector<int32_t> ids;
    for (int r = 0; r < rows; ++r) {
      Pack(states[r], &x[size_t(r) * kDim]);
      const int32_t first = static_cast<int32_t>(states[r] >> 32) & (kExperts - 1);
      const int32_t second =
          (first + 1 + static_cast<int32_t>(states[r] >> 40) % (kExperts - 1)) % kExperts;
      ids.push_back(empty(r) ? -1 : first);
      ids.push_back(empty(r) ? -1 : second);
    }
    const kernels::Matrix own{.data = x.data(), .rows = rows, .cols = kDim, .stride = kDim};
    model::ExpertExchange::Received in{.x = own, .ids = ids.data(), .rows = rows};
    if (exchange_ != nullptr) in = exchange_->Dispatch(own, {}, ids.data(), kTopk);
    std::vector<float> y(size_t(in.rows) * kTopk * kDim);
    for (int i = 0; i < in.rows * kTopk; ++i) {
      if (in.ids[i] < shard_.first_expert || in.ids[i] >= shard_.end_expert) continue;
      Pack(Mix(Unpack(in.x.row<float>(i / kTopk)), in.ids[i]), &y[size_t(i) * kDim]);
    }
    kernels::Matrix out{.data = y.data(), .rows = in.rows * kTopk, .cols = kDim, .stride = kDim};
    if (exchange_ != nullptr) out = exchange_->Collect(out);
    for (int r = 0; r < rows; ++r) {
      if (empty(r)) continue;
      uint64_t hash = states[r];
      for (int j = 0; j < kTopk; ++j) hash = Mix(hash, Unpack(out.row<float>(r * kTopk + j)));
      states[r] = Carry(hash, states[r]);
    }
  }

  const model::Shard shard_;
  const KvLayout layout_;
  std::byte* const pool_;
  model::ExpertExchange* const exchange_;
  const std::unique_ptr<kernels::Backend> backend_ = kernels::MakeCpuBackend(/*threads=*/1);
  std::vector<float> stream_;
  std::vector<uint64_t> main_, mtp_;  // states of the rows of the last runs
  std::vector<float> logits_;
};

}  // namespace baleen::testing
