#include "kernels/cuda/peer_memory.h"

#include <cuda.h>

#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/peer_copy.h"

namespace baleen::kernels::cuda {
namespace {

struct Exported {
  cudaIpcMemHandle_t handle;  // of the whole allocation
  uint64_t offset;            // in it
  uint64_t bytes;
};

// What failed without harm to the device; the error is not left for the next call to find.
absl::Status Refused(cudaError_t error, const char* what) {
  cudaGetLastError();
  return absl::FailedPreconditionError(
      absl::StrCat("cuda: ", what, ": ", cudaGetErrorString(error)));
}

// Where the allocation begins that `p` lies in; nullptr: it is not the memory of a device. A handle
// is always one of a whole allocation, whatever pointer it was asked for with.
const std::byte* AllocationOf(const std::byte* p) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  BALEEN_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 12000,
                                                     cudaEnableDefault, &found));
  BALEEN_CHECK(found == cudaDriverEntryPointSuccess);
  CUdeviceptr base = 0;
  size_t bytes = 0;
  const auto range = reinterpret_cast<CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr)>(function);
  if (range(&base, &bytes, reinterpret_cast<CUdeviceptr>(p)) != CUDA_SUCCESS) return nullptr;
  return reinterpret_cast<const std::byte*>(base);
}

class CudaPeerMemory final : public PeerMemory {
 public:
  explicit CudaPeerMemory(int device) : device_(device) {
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    BALEEN_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~CudaPeerMemory() override {
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    BALEEN_CUDA_CHECK(cudaStreamSynchronize(stream_));
    for (cudaEvent_t event : running_) idle_.push_back(event);
    for (cudaEvent_t event : idle_) BALEEN_CUDA_CHECK(cudaEventDestroy(event));
    BALEEN_CUDA_CHECK(cudaStreamDestroy(stream_));
  }

  absl::StatusOr<std::string> Export(const std::byte* base, size_t bytes) override {
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    const std::byte* const allocation = AllocationOf(base);
    if (allocation == nullptr)
      return absl::FailedPreconditionError("cuda: sharing memory that is not a device's");
    Exported exported = {.handle = {}, .offset = uint64_t(base - allocation), .bytes = bytes};
    const cudaError_t error =
        cudaIpcGetMemHandle(&exported.handle, const_cast<std::byte*>(allocation));
    if (error != cudaSuccess) return Refused(error, "sharing memory with other processes");
    return std::string(reinterpret_cast<const char*>(&exported), sizeof(exported));
  }

  absl::StatusOr<std::shared_ptr<const Mapping>> Import(absl::string_view bytes) override {
    Exported exported;
    if (bytes.size() != sizeof(exported))
      return absl::InvalidArgumentError("cuda: not a handle of memory");
    std::memcpy(&exported, bytes.data(), sizeof(exported));
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    void* allocation = nullptr;
    const cudaError_t error =
        cudaIpcOpenMemHandle(&allocation, exported.handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) return Refused(error, "mapping a peer's memory");
    return std::shared_ptr<const Mapping>(
        new Mapping{static_cast<std::byte*>(allocation) + exported.offset, size_t(exported.bytes)},
        [device = device_, allocation](const Mapping* mapping) {
          BALEEN_CUDA_CHECK(cudaSetDevice(device));
          BALEEN_CUDA_CHECK(cudaIpcCloseMemHandle(allocation));
          delete mapping;
        });
  }

  uint64_t Copy(std::span<const Piece> pieces) override {
    BALEEN_CUDA_CHECK(cudaSetDevice(device_));
    LaunchPeerCopy(pieces, stream_);
    cudaEvent_t event = nullptr;
    if (idle_.empty()) {
      BALEEN_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    } else {
      event = idle_.back();
      idle_.pop_back();
    }
    BALEEN_CUDA_CHECK(cudaEventRecord(event, stream_));
    running_.push_back(event);
    return finished_ + running_.size();
  }

  uint64_t Finished() override {
    while (!running_.empty()) {
      const cudaError_t state = cudaEventQuery(running_.front());
      if (state == cudaErrorNotReady) break;
      BALEEN_CUDA_CHECK(state);
      idle_.push_back(running_.front());
      running_.pop_front();
      ++finished_;
    }
    return finished_;
  }

  void MakeCurrent() override { BALEEN_CUDA_CHECK(cudaSetDevice(device_)); }
  Kind kind() const override { return Kind::kCuda; }
  const char* name() const override { return "cuda_ipc"; }

 private:
  const int device_;
  cudaStream_t stream_ = nullptr;
  std::deque<cudaEvent_t> running_;  // after each copy that has not ended
  std::vector<cudaEvent_t> idle_;
  uint64_t finished_ = 0;
};

}  // namespace

std::unique_ptr<PeerMemory> MakeCudaPeerMemory(int device) {
  return std::make_unique<CudaPeerMemory>(device);
}

}  // namespace baleen::kernels::cuda
