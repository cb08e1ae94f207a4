#include "kernels/cuda/nccl_window.h"

#include <pthread.h>

#include <cstring>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/expert_window.h"
#include "kernels/cuda/nccl_library.h"

namespace baleen::kernels::cuda {
namespace {

constexpr auto kLook = std::chrono::milliseconds(50);    // how often the watch looks
constexpr auto kSettle = std::chrono::microseconds(20);  // and who waits for NCCL's own threads

int64_t Milliseconds(Duration d) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(d).count();
}

class NcclWindow final : public ExpertWindow {
 public:
  NcclWindow(int device, cudaStream_t stream, const ExpertWindowOptions& options,
             const NcclLibrary& nccl)
      : device_(device), stream_(stream), options_(options), layout_(options), nccl_(nccl) {}

  ~NcclWindow() override {
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(stream_));
    {
      MutexLock lock(mu_);
      leaving_ = true;
    }
    changed_.NotifyAll();
    if (watch_.joinable()) watch_.join();
    BALEEN_CUDA_CHECK(cudaFree(window_));
    BALEEN_CUDA_CHECK(cudaFree(count_));
    BALEEN_CUDA_CHECK(cudaFreeHost(seen_));
  }

  absl::Status Prepare() {
    if (cudaMalloc(&window_, layout_.bytes) != cudaSuccess ||
        cudaMalloc(&count_, sizeof(uint32_t)) != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(absl::StrCat("the expert exchange wants ", layout_.bytes,
                                                       " bytes of the device's memory"));
    }
    BALEEN_CUDA_CHECK(cudaHostAlloc(&seen_, sizeof(uint32_t), cudaHostAllocMapped));
    std::memset(seen_, 0, sizeof(uint32_t));
    BALEEN_CUDA_CHECK(cudaMemset(count_, 0, sizeof(uint32_t)));
    // Ids of nobody, should a call fail before anything has come.
    BALEEN_CUDA_CHECK(cudaMemset(base() + layout_.ids, 0xFF, layout_.scales - layout_.ids));
    BALEEN_CUDA_CHECK(cudaDeviceSynchronize());
    const WindowShape shape = ShapeOf(options_);
    exported_.assign(reinterpret_cast<const char*>(&shape), sizeof(shape));
    if (options_.rank > 0) return absl::OkStatus();
    ncclUniqueId id;
    BALEEN_RETURN_IF_ERROR(FromNccl(nccl_, nccl_.get_unique_id(&id), "an id for the ranks"));
    exported_.append(id.internal, sizeof(id.internal));
    return absl::OkStatus();
  }

  const std::string& exported() const override { return exported_; }

  absl::Status Connect(std::span<const std::string> exported) override {
    BALEEN_CHECK(exported.size() == size_t(options_.ranks) && !watch_.joinable());
    BALEEN_ASSIGN_OR_RETURN(const ncclUniqueId id, CheckPeers(exported));
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // threads of NCCL's own wait for the other ranks
    const ncclResult_t begun =
        nccl_.comm_init_rank_config(&created_, options_.ranks, id, options_.rank, &config);
    BALEEN_RETURN_IF_ERROR(FromNccl(nccl_, begun, "connecting the ranks"));
    {
      MutexLock lock(mu_);
      comm_ = created_;
    }
    watch_ = std::thread([this] { Watch(); });
    return Settle();
  }

  Received Dispatch(const Matrix& x, const Quantized& xq, const int32_t* ids) override {
    BALEEN_CHECK((xq.data != nullptr) == options_.fp8 && x.cols == options_.dim);
    BALEEN_CHECK(x.rows <= options_.max_rows && (options_.fp8 || x.stride == x.cols));
    rows_ = x.rows;
    if (rows_ > 0) {
      LaunchMark(marks(), stream_);
      Issue([&](ncclComm_t comm) {
        const auto gather = [&](const void* own, size_t part, size_t row_bytes) {
          nccl_.all_gather(own, base() + part, size_t(rows_) * row_bytes, ncclUint8, comm, stream_);
        };
        const size_t dim = size_t(options_.dim);
        gather(ids, layout_.ids, size_t(options_.topk) * sizeof(int32_t));
        if (options_.fp8) {
          gather(xq.data, layout_.x, dim);
          gather(xq.scales, layout_.scales, dim / 128 * sizeof(float));
        } else {
          gather(x.data, layout_.x, dim * DTypeBytes(options_.activations));
        }
      });
      LaunchMark(marks(), stream_);
    }
    return layout_.ReceivedAt(base(), options_, rows_);
  }

  Matrix Collect(const Matrix& expert_out) override {
    BALEEN_CHECK(expert_out.cols == options_.dim && expert_out.stride == expert_out.cols);
    BALEEN_CHECK(expert_out.rows == options_.ranks * rows_ * options_.topk);
    const Matrix results = layout_.ResultsAt(base(), options_, rows_);
    if (rows_ > 0) {
      const size_t out_bytes = size_t(options_.dim) * DTypeBytes(options_.activations);
      LaunchClearOthers({.out = static_cast<std::byte*>(expert_out.data),
                         .ids = reinterpret_cast<const int32_t*>(base() + layout_.ids),
                         .pairs = expert_out.rows,
                         .out_bytes = int(out_bytes),
                         .experts_per_rank = options_.experts / options_.ranks,
                         .rank = options_.rank,
                         .marks = marks()},
                        stream_);
      Issue([&](ncclComm_t comm) {
        nccl_.reduce_scatter(expert_out.data, results.data,
                             size_t(results.rows) * out_bytes / sizeof(uint32_t), ncclUint32,
                             ncclSum, comm, stream_);
      });
      LaunchMark(marks(), stream_);
    }
    return results;
  }

  absl::Status status() const override {
    MutexLock lock(mu_);
    return failure_;
  }

  void Abort() override {
    MutexLock lock(mu_);
    Fail(absl::CancelledError("the expert exchange was ended"));
  }

 private:
  std::byte* base() const { return static_cast<std::byte*>(window_); }
  WindowMarks marks() const {
    return {static_cast<uint32_t*>(count_), static_cast<volatile uint32_t*>(seen_)};
  }

  // Rank 0's id.
  absl::StatusOr<ncclUniqueId> CheckPeers(std::span<const std::string> exported) const {
    ncclUniqueId id = {};
    for (int rank = 0; rank < options_.ranks; ++rank) {
      absl::string_view rest;
      BALEEN_RETURN_IF_ERROR(
          CheckWindowPeer(ShapeOf(options_), exported[size_t(rank)], rank, &rest));
      if (rest.size() != (rank == 0 ? sizeof(id.internal) : 0))
        return absl::InvalidArgumentError(
            absl::StrCat("rank ", rank, " sends ", rest.size(), " bytes for NCCL"));
      if (rank == 0) std::memcpy(id.internal, rest.data(), sizeof(id.internal));
    }
    return id;
  }

  // Has NCCL issue a group of calls on the stream; nothing once the exchange has failed. An error
  // of one of the calls is the group's. status() has what went wrong.
  void Issue(absl::FunctionRef<void(ncclComm_t)> calls) {
    {
      MutexLock lock(mu_);
      if (!failure_.ok()) return;
      nccl_.group_start();
      calls(comm_);
      const ncclResult_t begun = nccl_.group_end();
      if (absl::Status s = FromNccl(nccl_, begun, "exchanging rows"); !s.ok()) return Fail(s);
    }
    (void)Settle();
  }

  // Waits until NCCL's own threads have done what was asked of them. Usually they only launch, but
  // a collective's first use connects the ranks for it.
  absl::Status Settle() {
    const TimePoint end = SteadyClock().Now() + options_.connect_deadline;
    while (true) {
      {
        MutexLock lock(mu_);
        if (!failure_.ok()) return failure_;
        const ncclResult_t state = State();
        if (state == ncclSuccess) return absl::OkStatus();
        if (SteadyClock().Now() > end)
          Fail(absl::DeadlineExceededError(
              absl::StrCat("expert exchange: NCCL did not connect the ranks within ",
                           Milliseconds(options_.connect_deadline), " ms")));
      }
      std::this_thread::sleep_for(kSettle);
    }
  }

  // What NCCL says of itself; an error is the exchange's.
  ncclResult_t State() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl_.comm_get_async_error(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    if (absl::Status s = FromNccl(nccl_, state, "between the ranks"); !s.ok()) Fail(s);
    return state;
  }

  void Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (failure_.ok()) failure_ = why;
    changed_.NotifyAll();
  }

  // The thread `watch_`.
  void Watch() {
    pthread_setname_np(pthread_self(), "nccl watch");
    ncclComm_t comm = nullptr;
    {
      MutexLock lock(mu_);
      while (!leaving_ && failure_.ok()) {
        changed_.WaitFor(mu_, kLook);
        if (failure_.ok()) Look();
      }
      comm = std::exchange(comm_, nullptr);
    }
    // Ends what waits on the device, and then waits for recordings of calls to be destroyed. Also
    // the way out when all is well: it waits for no other rank.
    nccl_.comm_abort(comm);
  }

  // Is the device inside of a call for longer than it may be?
  void Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const ncclResult_t state = State();
    const uint32_t seen = *static_cast<volatile uint32_t*>(seen_);
    const TimePoint now = SteadyClock().Now();
    if (seen != seen_before_ || seen % 2 == 0 || state != ncclSuccess) {
      seen_before_ = seen;
      since_ = now;
    } else if (now - since_ >= options_.deadline) {
      Fail(absl::DeadlineExceededError(absl::StrCat("expert exchange: a rank did not come within ",
                                                    Milliseconds(options_.deadline), " ms")));
    }
  }

  const int device_;
  const cudaStream_t stream_;
  const ExpertWindowOptions options_;
  const WindowLayout layout_;
  const NcclLibrary nccl_;
  void* window_ = nullptr;
  void* count_ = nullptr;  // of marks
  void* seen_ = nullptr;   // mapped host memory
  std::string exported_;
  int rows_ = 0;                  // of the last Dispatch
  ncclComm_t created_ = nullptr;  // where NCCL's thread stores it once more when it is connected

  mutable Mutex mu_;
  CondVar changed_;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  // Not nullptr from Connect on while failure_ is ok; then the watch takes it.
  ncclComm_t comm_ ABSL_GUARDED_BY(mu_) = nullptr;
  uint32_t seen_before_ ABSL_GUARDED_BY(mu_) = 0;
  TimePoint since_ ABSL_GUARDED_BY(mu_);
  std::thread watch_;  // from Connect on
};

}  // namespace

absl::StatusOr<std::unique_ptr<ExpertWindow>> MakeNcclWindow(int device, cudaStream_t stream,
                                                             const ExpertWindowOptions& options) {
  BALEEN_RETURN_IF_ERROR(CheckWindowOptions(options));
  BALEEN_ASSIGN_OR_RETURN(const NcclLibrary nccl, LoadNccl());
  BALEEN_CUDA_CHECK(cudaSetDevice(device));
  auto window = std::make_unique<NcclWindow>(device, stream, options, nccl);
  BALEEN_RETURN_IF_ERROR(window->Prepare());
  return window;
}

}  // namespace baleen::kernels::cuda
