#pragma once

#include <vector>

#include "kernels/testing.h"

// What the tests of Sample share: rows with their own edits, and the four results.
namespace baleen::kernels::testing {

struct TestRow {
  SamplingRow row;
  std::vector<LogitEdit> edits;
};

// Rows and edits as SampleParams has them.
struct PackedRows {
  explicit PackedRows(const std::vector<TestRow>& all) {
    for (const TestRow& one : all) {
      rows.push_back(one.row);
      rows.back().first_edit = static_cast<int32_t>(edits.size());
      rows.back().edits = static_cast<int32_t>(one.edits.size());
      edits.insert(edits.end(), one.edits.begin(), one.edits.end());
    }
  }

  std::vector<SamplingRow> rows;
  std::vector<LogitEdit> edits;
};

struct Sampled {
  explicit Sampled(int rows)
      : tokens(rows, kUnwritten),
        logprobs(rows, NAN),
        top_tokens(size_t(rows) * kMaxTopLogprobs, kUnwritten),
        top_logprobs(size_t(rows) * kMaxTopLogprobs, NAN) {}

  // Of one row, as far as there are any.
  std::vector<int32_t> Top(int r) const {
    std::vector<int32_t> top;
    for (int i = 0; i < kMaxTopLogprobs && top_tokens[size_t(r) * kMaxTopLogprobs + i] >= 0; ++i) {
      top.push_back(top_tokens[size_t(r) * kMaxTopLogprobs + i]);
    }
    return top;
  }

  static constexpr int32_t kUnwritten = -99;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
};

// `logits` is [rows, limit], and after the op as SampleParams promises.
inline Sampled SampleRows(Backend& cpu, TestMatrix& logits, const std::vector<TestRow>& rows,
                          const std::vector<int32_t>& missing = {}) {
  const PackedRows packed(rows);
  Sampled out(logits.rows());
  cpu.Sample({logits.view(), logits.cols(), missing.data(), static_cast<int>(missing.size()),
              packed.rows.data(), packed.edits.data(), out.tokens.data(), out.logprobs.data(),
              out.top_tokens.data(), out.top_logprobs.data()});
  return out;
}

}  // namespace baleen::kernels::testing
