#include "kernels/cuda/expert_window.h"

#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/peer_memory.h"

namespace baleen::kernels::cuda {
namespace {

constexpr size_t kPartAlignment = 256;

// Where this window is. On the wire as it lies here, after the shape.
struct Place {
  uint64_t process;  // within which a device's pointers are good: ThisProcess()
  uint64_t base;
  // followed by what PeerMemory::Export says of it
};
static_assert(std::is_trivially_copyable_v<WindowShape> && std::is_trivially_copyable_v<Place>);

// Not the pid: containers number their processes each for themselves.
uint64_t ThisProcess() {
  static const uint64_t id = RandomId();
  return id;
}

template <typename T>
absl::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// Lets this device reach memory of another one that this same process has.
absl::Status ReachDeviceOf(const std::byte* p, int device) {
  cudaPointerAttributes where;
  BALEEN_CUDA_CHECK(cudaPointerGetAttributes(&where, p));
  if (where.device == device) return absl::OkStatus();
  const cudaError_t error = cudaDeviceEnablePeerAccess(where.device, 0);
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();
  if (error == cudaErrorPeerAccessAlreadyEnabled) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("cuda: device ", device, " reaching device ",
                                                    where.device, ": ", cudaGetErrorString(error)));
}

class PeerWindow final : public ExpertWindow {
 public:
  PeerWindow(int device, cudaStream_t stream, const ExpertWindowOptions& options)
      : device_(device),
        stream_(stream),
        options_(options),
        layout_(options),
        peer_memory_(MakeCudaPeerMemory(device)) {
    BALEEN_CUDA_CHECK(cudaStreamCreateWithFlags(&side_stream_, cudaStreamNonBlocking));
  }

  ~PeerWindow() override {
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(stream_));
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(side_stream_));
    BALEEN_CUDA_CHECK(cudaStreamDestroy(side_stream_));
    peers_.clear();
    BALEEN_CUDA_CHECK(cudaFree(window_));
    BALEEN_CUDA_CHECK(cudaFree(counters_));
    BALEEN_CUDA_CHECK(cudaFreeHost(failure_));
  }

  absl::Status Allocate() {
    if (cudaMalloc(&window_, layout_.bytes) != cudaSuccess ||
        cudaMalloc(&counters_, kCounterBytes) != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(absl::StrCat("the expert exchange wants ", layout_.bytes,
                                                       " bytes of the device's memory"));
    }
    void* failure = nullptr;
    BALEEN_CUDA_CHECK(cudaMallocHost(&failure, sizeof(int32_t)));
    failure_ = static_cast<int32_t*>(failure);
    BALEEN_CUDA_CHECK(cudaMemset(window_, 0, layout_.ids));  // the flags
    BALEEN_CUDA_CHECK(cudaMemset(counters_, 0, kCounterBytes));
    BALEEN_CUDA_CHECK(cudaDeviceSynchronize());  // before a peer writes there
    BALEEN_ASSIGN_OR_RETURN(const std::string handle, peer_memory_->Export(base(), layout_.bytes));
    const Place place = {ThisProcess(), reinterpret_cast<uint64_t>(base())};
    exported_ = absl::StrCat(BytesOf(ShapeOf(options_)), BytesOf(place), handle);
    return absl::OkStatus();
  }

  const std::string& exported() const override { return exported_; }

  absl::Status Connect(std::span<const std::string> exported) override {
    BALEEN_CHECK(exported.size() == size_t(options_.ranks) && peers_.empty());
    for (int rank = 0; rank < options_.ranks; ++rank) {
      BALEEN_ASSIGN_OR_RETURN(call_.window[rank], Reach(exported[size_t(rank)], rank));
    }
    call_.rank = options_.rank;
    call_.ranks = options_.ranks;
    call_.experts_per_rank = options_.experts / options_.ranks;
    call_.topk = options_.topk;
    call_.x_bytes = options_.dim * (options_.fp8 ? 1 : int(DTypeBytes(options_.activations)));
    call_.scale_bytes = options_.fp8 ? options_.dim / 128 * int(sizeof(float)) : 0;
    call_.out_bytes = options_.dim * int(DTypeBytes(options_.activations));
    call_.ids = layout_.ids;
    call_.scales = layout_.scales;
    call_.x = layout_.x;
    call_.results = layout_.results;
    call_.gone = layout_.gone;
    call_.failure = static_cast<int32_t*>(counters_) + 4;
    call_.deadline_ns =
        uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(options_.deadline).count());
    LoadWindowAbort();
    MutexLock lock(mu_);
    connected_ = call_;
    if (aborted_) LaunchWindowAbort(*connected_, side_stream_);
    return absl::OkStatus();
  }

  Received Dispatch(const Matrix& x, const Quantized& xq, const int32_t* ids) override {
    BALEEN_CHECK((xq.data != nullptr) == options_.fp8 && x.cols == options_.dim);
    BALEEN_CHECK(x.rows <= options_.max_rows && (options_.fp8 || x.stride == x.cols));
    call_.rows = x.rows;
    LaunchWindowDispatch(CallOf(0, layout_.dispatched),
                         options_.fp8 ? static_cast<const void*>(xq.data) : x.data, xq.scales, ids,
                         stream_);
    return layout_.ReceivedAt(base(), options_, x.rows);
  }

  Matrix Collect(const Matrix& expert_out) override {
    BALEEN_CHECK(expert_out.cols == options_.dim && expert_out.stride == expert_out.cols);
    BALEEN_CHECK(expert_out.rows == options_.ranks * call_.rows * options_.topk);
    LaunchWindowCollect(CallOf(1, layout_.collected), expert_out.data, stream_);
    return layout_.ResultsAt(base(), options_, call_.rows);
  }

  absl::Status status() const override {
    MutexLock lock(mu_);
    if (!connected_) return aborted_ ? Aborted() : absl::OkStatus();
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    BALEEN_CUDA_CHECK(cudaMemcpyAsync(failure_, connected_->failure, sizeof(*failure_),
                                      cudaMemcpyDeviceToHost, side_stream_));
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(side_stream_));
    if (*failure_ == 0) return absl::OkStatus();
    if (*failure_ == kWindowAborted) return Aborted();
    return absl::UnavailableError(
        absl::StrCat("expert exchange: rank ", *failure_ - 1, " did not come within ",
                     connected_->deadline_ns / 1'000'000, " ms, or gave up"));
  }

  void Abort() override {
    MutexLock lock(mu_);
    if (std::exchange(aborted_, true) || !connected_) return;
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    LaunchWindowAbort(*connected_, side_stream_);
  }

 private:
  static constexpr size_t kCounterBytes = 5 * sizeof(uint32_t);  // two a kind of call; failure

  static absl::Status Aborted() { return absl::CancelledError("the expert exchange was ended"); }

  std::byte* base() const { return static_cast<std::byte*>(window_); }

  WindowCall CallOf(int kind, size_t flags) const {
    WindowCall call = call_;
    call.flags = flags;
    call.finished = static_cast<uint32_t*>(counters_) + 2 * kind;
    call.calls = call.finished + 1;
    return call;
  }

  // Where this process finds that rank's window.
  absl::StatusOr<std::byte*> Reach(const std::string& exported, int rank) {
    absl::string_view rest;
    BALEEN_RETURN_IF_ERROR(CheckWindowPeer(ShapeOf(options_), exported, rank, &rest));
    Place place = {};
    if (rest.size() < sizeof(place))
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " does not say where it is"));
    std::memcpy(&place, rest.data(), sizeof(place));
    if (place.process == ThisProcess()) {
      auto* const there = reinterpret_cast<std::byte*>(place.base);
      BALEEN_RETURN_IF_ERROR(ReachDeviceOf(there, device_));
      return there;
    }
    const auto mapping = peer_memory_->Import(rest.substr(sizeof(place)));
    if (!mapping.ok())
      return absl::Status(
          mapping.status().code(),
          absl::StrCat("the expert exchange of rank ", rank, ": ", mapping.status().message()));
    peers_.push_back(*mapping);
    return (*mapping)->base;
  }

  const int device_;
  const cudaStream_t stream_;
  const ExpertWindowOptions options_;
  const WindowLayout layout_;
  const std::unique_ptr<PeerMemory> peer_memory_;
  void* window_ = nullptr;
  void* counters_ = nullptr;
  std::string exported_;
  std::vector<std::shared_ptr<const PeerMemory::Mapping>> peers_;
  WindowCall call_ = {};  // complete but for the kind; rows are those of the last Dispatch

  // Beside the step thread's work.
  mutable Mutex mu_;
  cudaStream_t side_stream_ = nullptr;
  int32_t* failure_ ABSL_PT_GUARDED_BY(mu_) = nullptr;        // pinned
  std::optional<WindowCall> connected_ ABSL_GUARDED_BY(mu_);  // call_, once complete
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

absl::Status CheckWindowOptions(const ExpertWindowOptions& o) {
  if (o.ranks < 1 || o.ranks > kMaxWindowRanks || o.rank < 0 || o.rank >= o.ranks)
    return absl::InvalidArgumentError(absl::StrCat("expert exchange: rank ", o.rank, " of ",
                                                   o.ranks, ", at most ", kMaxWindowRanks,
                                                   " ranks"));
  if (o.experts <= 0 || o.experts % o.ranks != 0)
    return absl::InvalidArgumentError(absl::StrCat(
        "expert exchange: ", o.experts, " experts cannot be divided among ", o.ranks, " ranks"));
  if (o.dim <= 0 || o.dim % 128 != 0 || o.topk <= 0 || o.max_rows <= 0)
    return absl::InvalidArgumentError(
        absl::StrCat("expert exchange: dim ", o.dim, ", topk ", o.topk, ", rows ", o.max_rows));
  return absl::OkStatus();
}

WindowShape ShapeOf(const ExpertWindowOptions& o) {
  return {.wire = int32_t(o.wire),
          .rank = o.rank,
          .ranks = o.ranks,
          .experts = o.experts,
          .topk = o.topk,
          .dim = o.dim,
          .max_rows = o.max_rows,
          .activations = int32_t(o.activations),
          .fp8 = o.fp8,
          .unused = 0};
}

absl::Status CheckWindowPeer(const WindowShape& own, absl::string_view exported, int rank,
                             absl::string_view* rest) {
  WindowShape peer = {};
  if (exported.size() < sizeof(peer))
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " has no expert exchange"));
  std::memcpy(&peer, exported.data(), sizeof(peer));
  *rest = exported.substr(sizeof(peer));
  const auto differ = [&](const char* name, int32_t here, int32_t there) {
    return absl::InvalidArgumentError(absl::StrCat("the expert exchange of rank ", rank, ": ", name,
                                                   " is ", there, ", of rank ", own.rank, " it is ",
                                                   here));
  };
  if (peer.wire != own.wire) return differ("expert_exchange", own.wire, peer.wire);
  if (peer.rank != rank) return differ("rank", rank, peer.rank);
  if (peer.ranks != own.ranks) return differ("ranks", own.ranks, peer.ranks);
  if (peer.experts != own.experts) return differ("experts", own.experts, peer.experts);
  if (peer.topk != own.topk) return differ("topk", own.topk, peer.topk);
  if (peer.dim != own.dim) return differ("dim", own.dim, peer.dim);
  if (peer.max_rows != own.max_rows)
    return differ("rows of a step (max_sequences)", own.max_rows, peer.max_rows);
  if (peer.activations != own.activations || peer.fp8 != own.fp8)
    return differ("fp8", own.fp8, peer.fp8);
  return absl::OkStatus();
}

WindowLayout::WindowLayout(const ExpertWindowOptions& o) {
  size_t at = 0;
  const auto part = [&at](size_t part_bytes) {
    const size_t begin = at;
    at += (part_bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    return begin;
  };
  const size_t rows = size_t(o.ranks) * size_t(o.max_rows);
  const size_t dim = size_t(o.dim), activation = DTypeBytes(o.activations);
  dispatched = part(size_t(o.ranks) * kFlagBytes);
  collected = part(size_t(o.ranks) * kFlagBytes);
  gone = part(size_t(o.ranks) * kFlagBytes);
  ids = part(rows * size_t(o.topk) * sizeof(int32_t));
  scales = part(o.fp8 ? rows * (dim / 128) * sizeof(float) : 0);
  x = part(rows * dim * (o.fp8 ? 1 : activation));
  results = part(size_t(o.max_rows) * size_t(o.topk) * dim * activation);
  bytes = at;
}

ExpertWindow::Received WindowLayout::ReceivedAt(std::byte* base, const ExpertWindowOptions& o,
                                                int own_rows) const {
  const int rows = own_rows * o.ranks;
  ExpertWindow::Received received = {.ids = reinterpret_cast<const int32_t*>(base + ids),
                                     .rows = rows};
  received.x = {.data = o.fp8 ? nullptr : base + x,
                .dtype = o.activations,
                .rows = rows,
                .cols = o.dim,
                .stride = o.dim};
  if (o.fp8)
    received.xq = {reinterpret_cast<uint8_t*>(base + x), reinterpret_cast<float*>(base + scales),
                   rows, o.dim};
  return received;
}

Matrix WindowLayout::ResultsAt(std::byte* base, const ExpertWindowOptions& o, int own_rows) const {
  return {.data = base + results,
          .dtype = o.activations,
          .rows = own_rows * o.topk,
          .cols = o.dim,
          .stride = o.dim};
}

absl::StatusOr<std::unique_ptr<ExpertWindow>> MakePeerWindow(int device, cudaStream_t stream,
                                                             const ExpertWindowOptions& options) {
  BALEEN_RETURN_IF_ERROR(CheckWindowOptions(options));
  BALEEN_CUDA_CHECK(cudaSetDevice(device));
  auto window = std::make_unique<PeerWindow>(device, stream, options);
  BALEEN_RETURN_IF_ERROR(window->Allocate());
  return window;
}

}  // namespace baleen::kernels::cuda
