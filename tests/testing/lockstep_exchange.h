#pragma once

#include <barrier>
#include <memory>
#include <vector>

#include "common/check.h"
#include "model/expert_exchange.h"

namespace baleen::testing {

// An expert exchange between the threads of one test, one thread a rank: every rank sees every row,
// computes its own experts, and each row's owner adds nothing but picks the owner's result.
class LockstepGroup {
 public:
  // Experts [index * experts / ranks, ...) belong to rank index.
  // `same_rows`: every rank must bring as many rows.
  LockstepGroup(int ranks, int experts, int dim, bool same_rows = false)
      : barrier_(ranks), same_rows_(same_rows) {
    for (int r = 0; r < ranks; ++r) ranks_.push_back(std::make_unique<Rank>(*this, r));
    experts_a_rank_ = experts / ranks;
    dim_ = dim;
  }
  model::ExpertExchange* rank(int index) { return ranks_[index].get(); }

 private:
  class Rank : public model::ExpertExchange {
   public:
    Rank(LockstepGroup& group, int index) : group_(group), index_(index) {}

    Received Dispatch(const kernels::Matrix& x, const kernels::Quantized&, const int32_t* ids,
                      int topk) override {
      own_ = x;
      own_ids_ = ids;
      topk_ = topk;
      group_.barrier_.arrive_and_wait();
      all_x_.clear();
      all_ids_.clear();
      first_row_ = 0;
      for (const auto& rank : group_.ranks_) {
        if (rank->index_ == index_) first_row_ = static_cast<int>(all_ids_.size()) / topk;
        const int rows = rank->own_.rows;
        BALEEN_CHECK(!group_.same_rows_ || rows == x.rows);
        for (int r = 0; r < rows; ++r) {
          const float* row = rank->own_.row<float>(r);
          all_x_.insert(all_x_.end(), row, row + group_.dim_);
        }
        all_ids_.insert(all_ids_.end(), rank->own_ids_, rank->own_ids_ + rows * topk);
      }
      group_.barrier_.arrive_and_wait();  // before a rank lets go of its rows
      const int rows = static_cast<int>(all_ids_.size()) / topk;
      return {.x = View(all_x_, rows), .ids = all_ids_.data(), .rows = rows};
    }

    bool same_rows() const override { return group_.same_rows_; }
    kernels::Matrix Collect(const kernels::Matrix& expert_out) override {
      out_ = expert_out;
      group_.barrier_.arrive_and_wait();
      result_.clear();
      for (int i = 0; i < own_.rows * topk_; ++i) {
        const int owner = own_ids_[i] / group_.experts_a_rank_;
        const float* row = group_.ranks_[owner]->out_.row<float>(first_row_ * topk_ + i);
        result_.insert(result_.end(), row, row + group_.dim_);
      }
      group_.barrier_.arrive_and_wait();
      return View(result_, own_.rows * topk_);
    }

   private:
    kernels::Matrix View(std::vector<float>& data, int rows) const {
      return {.data = data.data(), .rows = rows, .cols = group_.dim_, .stride = group_.dim_};
    }
    LockstepGroup& group_;
    const int index_;
    kernels::Matrix own_, out_;
    const int32_t* own_ids_ = nullptr;
    int topk_ = 0, first_row_ = 0;
    std::vector<float> all_x_, result_;
    std::vector<int32_t> all_ids_;
  };

  std::barrier<> barrier_;
  const bool same_rows_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  int experts_a_rank_ = 0;
  int dim_ = 0;
};

}  // namespace baleen::testing
