// Loading a checkpoint's weights onto a GPU, beside a plain copy of as many bytes out of pinned
// memory in the same run.
//
//   cuda_load_bench CHECKPOINT [--stages N]     all of it, or the middle one of N pipeline stages
//   cuda_load_bench FOLDER --random CONFIG_DIR --layers N
//                                               writes the first N layers of CONFIG_DIR's model,
//                                               made up, into FOLDER and loads those
//
// A load is everything from opening the files to the last byte in the device's memory. The first
// finds no byte of the files in the page cache (they are dropped from it), the others all of them.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/backend.h"
#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/loader.h"
#include "model/checkpoint/random_tensors.h"
#include "model/config.h"
#include "model/host_array.h"
#include "tools/arguments.h"

namespace baleen {
namespace {

using kernels::Backend;

constexpr size_t kPinnedBytes = size_t{256} << 20;  // of the plain copy: more than a CPU's cache
constexpr uint64_t kFileBytes = uint64_t{4} << 30;
constexpr int kRounds = 3;

double SecondsOf(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + long(values.size() / 2), values.end());
  return values[values.size() / 2];
}

absl::Status WriteRandom(const model::ModelConfig& config, const std::string& folder) {
  std::filesystem::create_directories(folder);
  model::RandomTensors tensors(config, WholeModel(config, /*mtp=*/false), /*seed=*/1);
  return model::WriteCheckpoint(tensors, tensors.names(), folder, kFileBytes);
}

void DropFromPageCache(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const int fd = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    BALEEN_CHECK(fd >= 0 && fdatasync(fd) == 0);
    BALEEN_CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    close(fd);
  }
}

// Seconds for `bytes` bytes.
double PlainCopy(Backend& backend, size_t bytes) {
  const model::DeviceBlock block(backend, bytes);
  model::HostArray<std::byte> pinned(backend, kPinnedBytes);
  BALEEN_CHECK_MSG(block.data() != nullptr, "no memory for the plain copy");
  pinned.Assign(kPinnedBytes, std::byte{0x5A});
  std::vector<double> seconds;
  for (int round = 0; round < kRounds; ++round) {
    seconds.push_back(SecondsOf([&] {
      for (size_t at = 0; at < bytes; at += kPinnedBytes)
        backend.CopyIn(block.data() + at, pinned.data(), std::min(kPinnedBytes, bytes - at));
      backend.Synchronize();
    }));
  }
  return Median(seconds);
}

class Bench {
 public:
  Bench(Backend& backend, std::string folder, const model::ModelConfig& config,
        const model::Shard& shard)
      : backend_(backend), folder_(std::move(folder)), config_(config), shard_(shard) {}

  absl::Status Run() {
    DropFromPageCache(folder_);
    BALEEN_RETURN_IF_ERROR(Load());
    const double cold = seconds_;
    std::vector<double> warm;
    for (int round = 0; round < kRounds; ++round) {
      BALEEN_RETURN_IF_ERROR(Load());
      warm.push_back(seconds_);
    }
    const double copy = PlainCopy(backend_, report_.bytes_stored);
    std::printf("%d tensors, %.2f GB read, %.2f GB stored\n", report_.tensors,
                double(report_.bytes_read) * 1e-9, double(report_.bytes_stored) * 1e-9);
    Print("plain copy, pinned", copy, copy);
    Print("load, not in page cache", cold, copy);
    Print("load, in page cache", Median(warm), copy);
    return absl::OkStatus();
  }

 private:
  absl::Status Load() {
    absl::StatusOr<std::unique_ptr<model::ModelWeights>> weights;
    seconds_ = SecondsOf(
        [&] { weights = model::LoadWeights(backend_, folder_, config_, shard_, &report_); });
    return weights.status();
  }

  void Print(const char* what, double seconds, double copy) const {
    std::printf("%-24s %8.3f s %7.2f GB/s  %.2f of the plain copy\n", what, seconds,
                double(report_.bytes_stored) * 1e-9 / seconds, copy / seconds);
  }

  Backend& backend_;
  const std::string folder_;
  const model::ModelConfig config_;
  const model::Shard shard_;
  double seconds_ = 0;
  model::LoadReport report_;
};

absl::Status Main(const std::vector<std::string>& args) {
  BALEEN_ASSIGN_OR_RETURN(const tools::Arguments arguments,
                          tools::ParseArguments(args, {"stages", "random", "layers"}));
  int stages = 1, layers = 0;
  const bool random = arguments.Has("random");
  if (arguments.words.size() != 1 || random != arguments.Has("layers") ||
      !absl::SimpleAtoi(arguments.Get("stages", "1"), &stages) || stages < 1 ||
      !absl::SimpleAtoi(arguments.Get("layers", "1"), &layers) || layers < 1) {
    return absl::InvalidArgumentError(
        "cuda_load_bench CHECKPOINT [--stages N], or FOLDER --random CONFIG_DIR --layers N");
  }
  const std::string& folder = arguments.words[0];
  BALEEN_ASSIGN_OR_RETURN(model::ModelConfig config,
                          model::LoadModelConfig(random ? arguments.Get("random") : folder));
  if (random) {
    config.num_hidden_layers = std::min(config.num_hidden_layers, layers);
    BALEEN_RETURN_IF_ERROR(WriteRandom(config, folder));
  }
  if (stages > config.num_hidden_layers) return absl::InvalidArgumentError("--stages: too many");
  BALEEN_ASSIGN_OR_RETURN(const auto backend, kernels::MakeCudaBackend(/*device=*/0));
  return Bench(*backend, folder, config, PipelineStage(config, /*mtp=*/false, stages / 2, stages))
      .Run();
}

}  // namespace
}  // namespace baleen

int main(int argc, char** argv) {
  const absl::Status status = baleen::Main({argv + 1, argv + argc});
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
