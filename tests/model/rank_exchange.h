#pragma once

#include <barrier>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "model/expert_exchange.h"

namespace baleen::testing {

// The exchanges of `size` ranks that run on threads of one process, in kExact. Every rank receives
// every row, as if each row had an expert everywhere; results come from the rank that owns the
// expert.
class RankExchanges {
 public:
  RankExchanges(int size, int experts)
      : experts_per_rank_(experts / size), sent_(size), barrier_(size) {
    for (int r = 0; r < size; ++r) ranks_.emplace_back(*this, r);
  }

  model::ExpertExchange& rank(int r) { return ranks_[r]; }

 private:
  struct Sent {
    kernels::Matrix x;
    std::vector<int32_t> ids;
    kernels::Matrix expert_out;
  };

  class Rank final : public model::ExpertExchange {
   public:
    Rank(RankExchanges& all, int index) : all_(all), index_(index) {}

    Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq, const int32_t* ids,
                      int topk) override {
      BALEEN_CHECK(x.dtype == DType::kF32 && xq.data == nullptr);
      topk_ = topk;
      all_.sent_[index_] = {x, {ids, ids + size_t(x.rows) * topk}, {}};
      all_.barrier_.arrive_and_wait();
      x_.clear();
      ids_.clear();
      for (const Sent& sent : all_.sent_) {
        if (&sent == &all_.sent_[index_]) own_begin_ = static_cast<int>(ids_.size());
        for (int r = 0; r < sent.x.rows; ++r) {
          x_.insert(x_.end(), sent.x.row<float>(r), sent.x.row<float>(r) + sent.x.cols);
        }
        ids_.insert(ids_.end(), sent.ids.begin(), sent.ids.end());
      }
      all_.barrier_.arrive_and_wait();
      const int rows = static_cast<int>(ids_.size()) / topk;
      return {.x = Dense(x_, rows, x.cols), .ids = ids_.data(), .rows = rows};
    }

    kernels::Matrix Collect(const kernels::Matrix& expert_out) override {
      all_.sent_[index_].expert_out = expert_out;
      all_.barrier_.arrive_and_wait();
      const Sent& own = all_.sent_[index_];
      out_.assign(own.ids.size() * expert_out.cols, 0.0f);
      for (size_t pair = 0; pair < own.ids.size(); ++pair) {
        const Sent& owner = all_.sent_[own.ids[pair] / all_.experts_per_rank_];
        std::memcpy(out_.data() + pair * expert_out.cols,
                    owner.expert_out.row<float>(own_begin_ + static_cast<int64_t>(pair)),
                    expert_out.cols * sizeof(float));
      }
      all_.barrier_.arrive_and_wait();
      return Dense(out_, static_cast<int>(own.ids.size()), expert_out.cols);
    }

   private:
    static kernels::Matrix Dense(std::vector<float>& values, int rows, int cols) {
      return {.data = values.data(), .rows = rows, .cols = cols, .stride = cols};
    }

    RankExchanges& all_;
    const int index_;
    int topk_ = 0;
    int own_begin_ = 0;  // of this rank's pairs in what every rank received
    std::vector<float> x_, out_;
    std::vector<int32_t> ids_;
  };

  const int experts_per_rank_;
  std::vector<Sent> sent_;
  std::vector<Rank> ranks_;
  std::barrier<> barrier_;
};

}  // namespace baleen::testing
