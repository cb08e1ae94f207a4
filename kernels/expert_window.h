#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/dtype.h"
#include "kernels/tensor.h"

namespace baleen::kernels {

// How rows get from device to device.
enum class WindowWire : uint8_t {
  kPeerMemory,  // each writes what is wanted into the others' memory: within a machine
  kNccl,        // collectives of NCCL over all of it: also between machines
};

struct ExpertWindowOptions {
  WindowWire wire = WindowWire::kPeerMemory;
  int rank = 0;
  int ranks = 1;
  int experts = 0;   // routed experts of the model; rank r holds an equal, consecutive share
  int topk = 0;      // experts of a row
  int dim = 0;       // of an activation row
  int max_rows = 0;  // of one rank's call
  DType activations = DType::kBf16;
  bool fp8 = true;                                       // rows travel quantised, 1x128
  Duration deadline;                                     // for the other ranks to join a call
  Duration connect_deadline = std::chrono::seconds(30);  // for all ranks to connect over kNccl
};

// One rank's end of an expert exchange that the devices do among themselves: every rank has a
// window of memory that the others' rows and outputs come into. Nothing happens on the host, so
// calls can be recorded.
//
//   Dispatch  row r of this rank goes to row rank * rows + r of (at least) each window whose rank
//             holds one of its experts; its ids go to all of them.
//   Collect   the output of (received row, j) goes to row r * topk + j of its source's window.
//
// A call ends on the device when every rank has done its part. All ranks make the same calls with
// the *same* number of rows. A window needs no second buffer: a rank writes the rows of the next
// call only when it has this call's outputs, which its peers sent after they had read its rows; and
// outputs only after the next rows of their source, which it sent after it had read the outputs
// before.
//
// When a peer does not come in time or Abort was called, the device waits no more: calls end with
// memory that means nothing, and status() names the reason. A rank that went on without a peer
// sends nothing more, so that the others miss it and take none of what it makes of that memory.
// Recordings of its calls must end before the window does.
//
// Threads: the step thread; Abort and status from any.
class ExpertWindow {
 public:
  struct Received {
    Matrix x;                      // [ranks * rows, dim], or data == nullptr with fp8
    Quantized xq;                  // the same in fp8, or data == nullptr
    const int32_t* ids = nullptr;  // [ranks * rows, topk]
    int rows = 0;                  // ranks * rows
  };

  virtual ~ExpertWindow() = default;

  // What the other ranks need to reach this window: opaque bytes.
  virtual const std::string& exported() const = 0;
  // Once, before the first call, with every rank's, by rank. InvalidArgument: a rank has other
  // options, by name; FailedPrecondition: its memory cannot be reached; else as status().
  virtual absl::Status Connect(std::span<const std::string> exported) = 0;

  // x [rows, dim], xq with fp8; ids [rows, topk]. Results are valid until the next call of the
  // kind.
  virtual Received Dispatch(const Matrix& x, const Quantized& xq, const int32_t* ids) = 0;
  // expert_out [ranks * rows * topk, dim] activations, of the last Dispatch, which may be
  // overwritten; the result is [rows * topk, dim] of the own rows. Pairs of an id that no rank
  // holds mean nothing.
  virtual Matrix Collect(const Matrix& expert_out) = 0;

  // Unavailable, naming the rank, once one did not come; DeadlineExceeded where the wire cannot
  // tell which; Unavailable, with its words, once the wire broke; Cancelled after Abort.
  virtual absl::Status status() const = 0;
  virtual void Abort() = 0;
};

}  // namespace baleen::kernels
