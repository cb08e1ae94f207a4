#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/expert_window.h"
#include "kernels/cuda/nccl_window.h"
#include "kernels/cuda/peer_memory.h"
#include "kernels/gpu_facts.h"

namespace baleen::kernels {
namespace {

// What the driver says at start-up; afterwards errors end the process (check.h).
absl::Status FromCuda(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = absl::StrCat("cuda: ", what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                            : absl::FailedPreconditionError(text);
}

// -1 where the driver does not say.
int InstalledGpus() {
  std::error_code error;
  const std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", error);
  return error ? -1 : static_cast<int>(std::distance(gpus, {}));
}

GpuFacts Facts() {
  GpuFacts facts = {.installed = InstalledGpus()};
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) facts.visible_devices = visible;
  BALEEN_CUDA_CHECK(cudaRuntimeGetVersion(&facts.runtime_version));
  BALEEN_CUDA_CHECK(cudaDriverGetVersion(&facts.driver_version));  // 0, no error, without a driver
  const cudaError_t counted = cudaGetDeviceCount(&facts.visible);
  if (counted == cudaSuccess) return facts;
  facts.visible = 0;
  if (counted != cudaErrorNoDevice) facts.error = cudaGetErrorString(counted);
  return facts;
}

absl::Status CheckDevice(int device) {
  BALEEN_RETURN_IF_ERROR(CheckGpuFacts(Facts(), device));
  cudaDeviceProp properties;
  BALEEN_RETURN_IF_ERROR(FromCuda(cudaGetDeviceProperties(&properties, device), "properties"));
  return CheckCapability(device, properties.name, properties.major, properties.minor);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device) {
  BALEEN_RETURN_IF_ERROR(CheckDevice(device));
  BALEEN_RETURN_IF_ERROR(FromCuda(cudaSetDevice(device), "choosing the device"));
  cudaStream_t stream = nullptr;
  BALEEN_RETURN_IF_ERROR(
      FromCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  return std::make_unique<cuda::CudaBackend>(device, stream);
}

namespace cuda {
namespace {

constexpr size_t kCounterBytes = 64 << 10;  // at the start of the scratch, zero between ops

// False when there was too little memory; other errors end the process.
bool Allocated(cudaError_t error) {
  if (error != cudaErrorMemoryAllocation) {
    BALEEN_CUDA_CHECK(error);
    return true;
  }
  cudaGetLastError();  // not sticky; taken note of here
  return false;
}

// A captured graph, replayed on the stream it was captured from.
class GraphRecording final : public Backend::Recording {
 public:
  GraphRecording(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~GraphRecording() override { BALEEN_CUDA_CHECK(cudaGraphExecDestroy(graph_)); }
  void Replay() override { BALEEN_CUDA_CHECK(cudaGraphLaunch(graph_, stream_)); }

 private:
  const cudaGraphExec_t graph_;
  const cudaStream_t stream_;
};

}  // namespace

CudaBackend::CudaBackend(int device, cudaStream_t stream) : device_(device), stream_(stream) {
  for (cudaEvent_t& event : events_)
    BALEEN_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

CudaBackend::~CudaBackend() {
  for (cudaEvent_t event : events_) BALEEN_CUDA_CHECK(cudaEventDestroy(event));
  BALEEN_CUDA_CHECK(cudaStreamDestroy(stream_));
}

void CudaBackend::Embed(const EmbedParams& p) { LaunchEmbed(p, stream_); }
void CudaBackend::AddRmsNorm(const AddRmsNormParams& p) { LaunchAddRmsNorm(p, stream_); }
void CudaBackend::Quantize(const QuantizeParams& p) { LaunchQuantize(p, stream_); }
void CudaBackend::Linear(const LinearParams& p) { LaunchLinear(p, workspace_, stream_); }
void CudaBackend::Rope(const RopeParams& p) { LaunchRope(p, stream_); }
void CudaBackend::LayerNorm(const LayerNormParams& p) { LaunchLayerNorm(p, stream_); }
void CudaBackend::Hadamard(const HadamardParams& p) { LaunchHadamard(p, stream_); }
void CudaBackend::StoreLatent(const StoreLatentParams& p) { LaunchStoreLatent(p, stream_); }
void CudaBackend::StoreIndexKeys(const StoreIndexKeysParams& p) {
  LaunchStoreIndexKeys(p, stream_);
}
void CudaBackend::ScaleIndexWeights(const ScaleIndexWeightsParams& p) {
  LaunchScaleIndexWeights(p, stream_);
}
void CudaBackend::IndexerLogits(const IndexerLogitsParams& p) { LaunchIndexerLogits(p, stream_); }
void CudaBackend::TopK(const TopKParams& p) { LaunchTopK(p, stream_); }
void CudaBackend::HeadLinear(const HeadLinearParams& p) {
  LaunchHeadLinear(p, workspace_, stream_);
}
void CudaBackend::SparseAttention(const SparseAttentionParams& p) {
  LaunchSparseAttention(p, limits_, stream_);
}
void CudaBackend::Gate(const GateParams& p) { LaunchGate(p, stream_); }
void CudaBackend::SiluMul(const SiluMulParams& p) { LaunchSiluMul(p, stream_); }
void CudaBackend::Experts(const ExpertsParams& p) { LaunchExperts(p, workspace_, stream_); }
void CudaBackend::Combine(const CombineParams& p) { LaunchCombine(p, stream_); }
void CudaBackend::GatherRows(const GatherRowsParams& p) { LaunchGatherRows(p, stream_); }
void CudaBackend::Concat(const ConcatParams& p) { LaunchConcat(p, stream_); }
void CudaBackend::Sample(const SampleParams& p) { LaunchSample(p, stream_); }
void CudaBackend::AcceptDrafts(const AcceptDraftsParams& p) { LaunchAcceptDrafts(p, stream_); }
void CudaBackend::DraftRows(const DraftRowsParams& p) { LaunchDraftRows(p, stream_); }
void CudaBackend::FollowRows(const FollowRowsParams& p) { LaunchFollowRows(p, stream_); }

size_t CudaBackend::ScratchBytes(const StepLimits& limits) const {
  return kCounterBytes + std::max(LinearBytes(limits), ExpertsBytes(limits));
}

void CudaBackend::UseScratch(const StepLimits& limits, void* memory, size_t bytes) {
  BALEEN_CHECK(bytes >= ScratchBytes(limits));
  limits_ = limits;
  BALEEN_CUDA_CHECK(cudaMemsetAsync(memory, 0, kCounterBytes, stream_));
  auto* at = static_cast<std::byte*>(memory);
  workspace_ = {.counters = reinterpret_cast<int32_t*>(at),
                .counter_count = kCounterBytes / sizeof(int32_t),
                .data = at + kCounterBytes,
                .bytes = bytes - kCounterBytes};
}

Backend::Memory CudaBackend::memory() const {
  Memory memory;
  BALEEN_CUDA_CHECK(cudaSetDevice(device_));
  BALEEN_CUDA_CHECK(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

// cudaMalloc aligns to 256 bytes. Another thread than the creator's may call this first.
void* CudaBackend::Allocate(size_t bytes) {
  BALEEN_CUDA_CHECK(cudaSetDevice(device_));
  void* p = nullptr;
  const bool allocated = Allocated(cudaMalloc(&p, std::max<size_t>(bytes, 1)));
  return allocated ? p : nullptr;
}

void CudaBackend::Free(void* p) { BALEEN_CUDA_CHECK(cudaFree(p)); }

void CudaBackend::CopyIn(void* dst, const void* host, size_t bytes) {
  BALEEN_CUDA_CHECK(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaBackend::CopyOut(void* host, const void* src, size_t bytes) {
  BALEEN_CUDA_CHECK(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream_));
}

void CudaBackend::CopyWithin(void* dst, const void* src, size_t bytes) {
  BALEEN_CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream_));
}

std::unique_ptr<Backend::Recording> CudaBackend::Record(absl::FunctionRef<void()> issue) {
  cudaGraph_t graph = nullptr;
  BALEEN_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  issue();
  BALEEN_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
  cudaGraphExec_t executable = nullptr;
  BALEEN_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  BALEEN_CUDA_CHECK(cudaGraphDestroy(graph));
  BALEEN_CUDA_CHECK(cudaGraphUpload(executable, stream_));
  return std::make_unique<GraphRecording>(executable, stream_);
}

bool CudaBackend::PinHost(void* host, size_t bytes) {
  BALEEN_CUDA_CHECK(cudaSetDevice(device_));
  if (cudaHostRegister(host, bytes, cudaHostRegisterDefault) == cudaSuccess) return true;
  cudaGetLastError();  // not sticky; the caller does without
  return false;
}

void CudaBackend::UnpinHost(void* host) {
  BALEEN_CUDA_CHECK(cudaSetDevice(device_));
  BALEEN_CUDA_CHECK(cudaHostUnregister(host));
}

std::unique_ptr<PeerMemory> CudaBackend::MakePeerMemory() { return MakeCudaPeerMemory(device_); }

absl::StatusOr<std::unique_ptr<ExpertWindow>> CudaBackend::MakeExpertWindow(
    const ExpertWindowOptions& options) {
  switch (options.wire) {
    case WindowWire::kPeerMemory:
      return MakePeerWindow(device_, stream_, options);
    case WindowWire::kNccl:
      return MakeNcclWindow(device_, stream_, options);
  }
  return absl::InvalidArgumentError("expert exchange: no such wire");
}

size_t CudaBackend::ExpertWindowBytes(const ExpertWindowOptions& options) const {
  return WindowLayout(options).bytes;
}

void CudaBackend::Synchronize() { BALEEN_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

uint64_t CudaBackend::Mark() {
  BALEEN_CUDA_CHECK(cudaEventRecord(events_[++marks_ % kMarks], stream_));
  return marks_;
}

void CudaBackend::WaitFor(uint64_t mark) {
  BALEEN_CUDA_CHECK(cudaEventSynchronize(events_[mark % kMarks]));
}

void* CudaBackend::AllocateHost(size_t bytes) {
  BALEEN_CUDA_CHECK(cudaSetDevice(device_));
  void* p = nullptr;
  const bool allocated = Allocated(cudaMallocHost(&p, std::max<size_t>(bytes, 1)));
  return allocated ? p : nullptr;
}

void CudaBackend::MakeCurrent() { BALEEN_CUDA_CHECK(cudaSetDevice(device_)); }

void CudaBackend::FreeHost(void* p) { BALEEN_CUDA_CHECK(cudaFreeHost(p)); }

}  // namespace cuda
}  // namespace baleen::kernels
