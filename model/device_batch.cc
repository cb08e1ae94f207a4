#include "model/device_batch.h"

#include <algorithm>

#include "common/check.h"

namespace baleen::model {
namespace {

constexpr int kRowLists = 4;  // positions, sequences, tokens, hidden rows

size_t Capacity(const ForwardOptions& options) {
  return size_t(options.max_rows) * kRowLists +
         size_t(options.max_sequences) * PagesFor(options.max_context);
}

}  // namespace

size_t DeviceBatch::Bytes(const ForwardOptions& options) {
  return Capacity(options) * sizeof(int32_t);
}

DeviceBatch::DeviceBatch(kernels::Backend& backend, const ForwardOptions& options)
    : backend_(backend), options_(options), device_(backend, Bytes(options)) {
  staging_.reserve(Capacity(options));
  positions_.reserve(options.max_rows);
}

void DeviceBatch::Check(const Batch& batch, std::span<const int32_t> hidden_rows,
                        int token_limit) const {
  const size_t rows = batch.positions.size();
  BALEEN_CHECK(rows <= size_t(options_.max_rows));
  BALEEN_CHECK(batch.sequences.size() == rows);
  BALEEN_CHECK(hidden_rows.empty() || hidden_rows.size() == rows);
  if (rows == 0) return;
  BALEEN_CHECK(batch.page_table_stride > 0);
  const int sequences = static_cast<int>(batch.page_table.size() / batch.page_table_stride);
  BALEEN_CHECK(sequences <= options_.max_sequences);
  for (size_t r = 0; r < rows; ++r) {
    BALEEN_CHECK(batch.positions[r] >= 0 && batch.positions[r] < options_.max_context);
    BALEEN_CHECK(batch.positions[r] / kPageTokens < batch.page_table_stride);
    BALEEN_CHECK(batch.sequences[r] >= 0 && batch.sequences[r] < sequences);
  }
  if (token_limit == 0) return;
  BALEEN_CHECK(batch.tokens.size() == rows);
  for (const int32_t token : batch.tokens) BALEEN_CHECK(token >= 0 && token < token_limit);
}

const int32_t* DeviceBatch::Append(std::span<const int32_t> values) {
  const size_t offset = staging_.size();
  staging_.insert(staging_.end(), values.begin(), values.end());
  return reinterpret_cast<const int32_t*>(device_.data()) + offset;
}

void DeviceBatch::Upload(const Batch& batch, std::span<const int32_t> hidden_rows,
                         int token_limit) {
  Check(batch, hidden_rows, token_limit);
  if (in_flight_) backend_.Synchronize();
  staging_.clear();
  positions_.assign(batch.positions.begin(), batch.positions.end());
  rows_ = {.host_positions = positions_};
  if (!positions_.empty()) rows_.keys = *std::max_element(positions_.begin(), positions_.end()) + 1;
  rows_.map.rows = batch.rows();
  rows_.map.positions = Append(batch.positions);
  rows_.map.sequences = Append(batch.sequences);
  if (token_limit > 0) rows_.tokens = Append(batch.tokens);
  hidden_rows_ = Append(hidden_rows);

  // Of each sequence the pages that hold a key.
  const int stride = static_cast<int>(PagesFor(rows_.keys));
  rows_.map.page_table_stride = stride;
  rows_.map.page_table = Append({});
  for (size_t begin = 0; batch.rows() > 0 && begin + stride <= batch.page_table.size();
       begin += batch.page_table_stride) {
    Append(batch.page_table.subspan(begin, stride));
  }
  if (staging_.empty()) return;
  backend_.CopyIn(device_.data(), staging_.data(), staging_.size() * sizeof(int32_t));
  in_flight_ = true;
}

}  // namespace baleen::model
