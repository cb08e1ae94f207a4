#include "kernels/cuda/expert_window.h"

#include <unistd.h>

#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/peer_memory.h"

namespace baleen::kernels::cuda {
namespace {

constexpr size_t kPartAlignment = 256;

// What must be equal in all windows of a group, and where this one is. On the wire as it lies here.
struct Exported {
  int32_t rank, ranks, experts, topk, dim, max_rows, activations, fp8;
  int64_t process;  // within which a device's pointers are good
  uint64_t base;
  // followed by what PeerMemory::Export says of it
};
static_assert(std::is_trivially_copyable_v<Exported>);

Exported ExportedOf(const ExpertWindowOptions& o, const std::byte* base) {
  return {.rank = o.rank,
          .ranks = o.ranks,
          .experts = o.experts,
          .topk = o.topk,
          .dim = o.dim,
          .max_rows = o.max_rows,
          .activations = int32_t(o.activations),
          .fp8 = o.fp8,
          .process = getpid(),
          .base = reinterpret_cast<uint64_t>(base)};
}

// InvalidArgument unless rank `rank`'s window fits to ours.
absl::Status CheckPeer(const Exported& own, const Exported& peer, int rank) {
  const auto differ = [&](const char* name, int32_t here, int32_t there) {
    return absl::InvalidArgumentError(absl::StrCat("the expert exchange of rank ", rank, ": ", name,
                                                   " is ", there, ", of rank ", own.rank, " it is ",
                                                   here));
  };
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

absl::Status Check(const ExpertWindowOptions& o) {
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

class CudaExpertWindow final : public ExpertWindow {
 public:
  CudaExpertWindow(int device, cudaStream_t stream, const ExpertWindowOptions& options)
      : stream_(stream),
        options_(options),
        layout_(options),
        peer_memory_(MakeCudaPeerMemory(device)) {}

  ~CudaExpertWindow() override {
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(stream_));
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
    BALEEN_CUDA_CHECK(cudaHostAlloc(&failure, sizeof(int32_t), cudaHostAllocMapped));
    failure_ = static_cast<int32_t*>(failure);
    *failure_ = 0;
    BALEEN_CUDA_CHECK(cudaMemset(window_, 0, layout_.ids));  // the flags
    BALEEN_CUDA_CHECK(cudaMemset(counters_, 0, kCounterBytes));
    BALEEN_CUDA_CHECK(cudaDeviceSynchronize());  // before a peer writes there
    BALEEN_ASSIGN_OR_RETURN(const std::string handle, peer_memory_->Export(base(), layout_.bytes));
    const Exported own = ExportedOf(options_, base());
    exported_ =
        absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&own), sizeof(own)), handle);
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
    call_.failure = failure_;
    call_.deadline_ns =
        uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(options_.deadline).count());
    return absl::OkStatus();
  }

  Received Dispatch(const Matrix& x, const Quantized& xq, const int32_t* ids) override {
    BALEEN_CHECK((xq.data != nullptr) == options_.fp8 && x.cols == options_.dim);
    BALEEN_CHECK(x.rows <= options_.max_rows && (options_.fp8 || x.stride == x.cols));
    call_.rows = x.rows;
    LaunchWindowDispatch(CallOf(0, layout_.dispatched),
                         options_.fp8 ? static_cast<const void*>(xq.data) : x.data, xq.scales, ids,
                         stream_);
    const int rows = x.rows * options_.ranks;
    Received received = {.ids = reinterpret_cast<const int32_t*>(base() + layout_.ids),
                         .rows = rows};
    received.x = {.data = options_.fp8 ? nullptr : base() + layout_.x,
                  .dtype = options_.activations,
                  .rows = rows,
                  .cols = options_.dim,
                  .stride = options_.dim};
    if (options_.fp8)
      received.xq = {reinterpret_cast<uint8_t*>(base() + layout_.x),
                     reinterpret_cast<float*>(base() + layout_.scales), rows, options_.dim};
    return received;
  }

  Matrix Collect(const Matrix& expert_out) override {
    BALEEN_CHECK(expert_out.cols == options_.dim && expert_out.stride == expert_out.cols);
    BALEEN_CHECK(expert_out.rows == options_.ranks * call_.rows * options_.topk);
    LaunchWindowCollect(CallOf(1, layout_.collected), expert_out.data, stream_);
    return {.data = base() + layout_.results,
            .dtype = options_.activations,
            .rows = call_.rows * options_.topk,
            .cols = options_.dim,
            .stride = options_.dim};
  }

  absl::Status status() const override {
    const int32_t failure = *static_cast<volatile int32_t*>(failure_);
    if (failure == 0) return absl::OkStatus();
    if (failure == kWindowAborted) return absl::CancelledError("the expert exchange was ended");
    return absl::UnavailableError(absl::StrCat("expert exchange: rank ", failure - 1,
                                               " did not come within ",
                                               call_.deadline_ns / 1'000'000, " ms"));
  }

  void Abort() override {
    int32_t none = 0;
    __atomic_compare_exchange_n(failure_, &none, kWindowAborted, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
  }

 private:
  static constexpr size_t kCounterBytes = 4 * sizeof(uint32_t);  // two for each kind of call

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
    Exported peer = {};
    if (exported.size() < sizeof(peer))
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " has no expert exchange"));
    std::memcpy(&peer, exported.data(), sizeof(peer));
    BALEEN_RETURN_IF_ERROR(CheckPeer(ExportedOf(options_, base()), peer, rank));
    if (peer.process == getpid()) return reinterpret_cast<std::byte*>(peer.base);
    const auto mapping = peer_memory_->Import(absl::string_view(exported).substr(sizeof(peer)));
    if (!mapping.ok())
      return absl::Status(
          mapping.status().code(),
          absl::StrCat("the expert exchange of rank ", rank, ": ", mapping.status().message()));
    peers_.push_back(*mapping);
    return (*mapping)->base;
  }

  const cudaStream_t stream_;
  const ExpertWindowOptions options_;
  const WindowLayout layout_;
  const std::unique_ptr<PeerMemory> peer_memory_;
  void* window_ = nullptr;
  void* counters_ = nullptr;
  int32_t* failure_ = nullptr;  // mapped host memory
  std::string exported_;
  std::vector<std::shared_ptr<const PeerMemory::Mapping>> peers_;
  WindowCall call_ = {};  // complete but for the kind; rows are those of the last Dispatch
};

}  // namespace

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
  ids = part(rows * size_t(o.topk) * sizeof(int32_t));
  scales = part(o.fp8 ? rows * (dim / 128) * sizeof(float) : 0);
  x = part(rows * dim * (o.fp8 ? 1 : activation));
  results = part(size_t(o.max_rows) * size_t(o.topk) * dim * activation);
  bytes = at;
}

size_t ExpertWindowBytes(const ExpertWindowOptions& options) { return WindowLayout(options).bytes; }

absl::StatusOr<std::unique_ptr<ExpertWindow>> MakeExpertWindow(int device, cudaStream_t stream,
                                                               const ExpertWindowOptions& options) {
  BALEEN_RETURN_IF_ERROR(Check(options));
  BALEEN_CUDA_CHECK(cudaSetDevice(device));
  auto window = std::make_unique<CudaExpertWindow>(device, stream, options);
  BALEEN_RETURN_IF_ERROR(window->Allocate());
  return window;
}

}  // namespace baleen::kernels::cuda
