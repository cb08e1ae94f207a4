#pragma once

#include "kernels/tensor.h"

namespace baleen::model {

// How rows reach the processes that hold their experts and how the results come back. All ranks of
// a group call Dispatch and Collect in the same order, once for every MoE layer of every forward,
// also with zero rows.
//
// The interface stands in model because the MoE layer calls it. Implementations: InProcessExchange
// here (one process); in decode_worker TransportExchange (by messages), HostStagedExchange (the
// same for rows on a device) and PeerExchange (the devices among themselves).
//
// Failure: a call returns no error. When a rank does not come within the implementation's deadline,
// or the group has broken, the calls end all the same, and their results mean nothing (no rows,
// zeros, or what lay there before). So the caller of the forward pass asks the implementation
// before it uses any result (the mesh's status, PeerExchange::Check): the error names the rank,
// where one is known, and the group ends.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  // Rows whose experts this process computes, from every rank; valid until the next Dispatch.
  struct Received {
    kernels::Matrix x;      // [rows, dim] activations
    kernels::Quantized xq;  // the same in fp8 (kFp8), or data == nullptr
    // [rows, topk] global expert ids; ids not of this process may occur
    const int32_t* ids = nullptr;
    int rows = 0;
  };

  // Sends this rank's rows to the owners of their experts and returns what arrived. `ids` is
  // [x.rows, topk]. Over messages it blocks until all ranks have sent or the deadline is over.
  // Where the devices do it, it returns at once: the backend's later operations wait, and `rows`
  // does not depend on what comes.
  virtual Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq,
                            const int32_t* ids, int topk) = 0;

  // Returns `expert_out` [received rows * topk, dim] to where the rows came from; the result is
  // [own rows * topk, dim], row r * topk + j being expert ids[r, j] of own row r. Valid until the
  // next Dispatch.
  virtual kernels::Matrix Collect(const kernels::Matrix& expert_out) = 0;

  // Nothing happens on the host, so that the calls may be recorded (Backend::Record).
  virtual bool recordable() const { return false; }
  // Every rank must bring the same number of rows to a call.
  virtual bool same_rows() const { return false; }
};

}  // namespace baleen::model
