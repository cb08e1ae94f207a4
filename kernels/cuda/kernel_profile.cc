#include "kernels/cuda/kernel_profile.h"

#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/mutex.h"
#include "common/status_macros.h"

namespace baleen::kernels::cuda {
namespace {

constexpr size_t kBufferBytes = 8 << 20;  // of records; CUPTI asks for as many as it fills
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

absl::Status FromCupti(CUptiResult result, absl::string_view what) {
  if (result == CUPTI_SUCCESS) return absl::OkStatus();
  const char* text = nullptr;
  cuptiGetResultString(result, &text);
  return absl::UnavailableError(
      absl::StrCat("cupti: ", what, ": ", text != nullptr ? text : "unknown error"));
}

const char* CopyName(uint8_t kind) {
  if (kind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD) return "copy in";
  return kind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "copy out" : "copy";
}

// CUPTI's callbacks carry no pointer of ours, so the records go to one object of the process. They
// come from threads of CUPTI.
class Records {
 public:
  static Records& Get() {
    static auto* records = new Records;
    return *records;
  }

  void Add(const CUpti_Activity* record) {
    if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      AddTime(CopyName(copy->copyKind), false, copy->end - copy->start);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      AddTime("set", false, set->end - set->start);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      AddTime(ReadableKernelName(kernel->name), true, kernel->end - kernel->start);
    }
  }

  // What was added since the last call, the largest first.
  std::vector<KernelTotal> Take() {
    MutexLock lock(mu_);
    std::vector<KernelTotal> totals;
    for (auto& [name, total] : totals_) totals.push_back(std::move(total));
    totals_.clear();
    std::sort(totals.begin(), totals.end(), [](const KernelTotal& a, const KernelTotal& b) {
      return a.microseconds > b.microseconds;
    });
    return totals;
  }

 private:
  void AddTime(const std::string& name, bool launch, uint64_t nanoseconds) {
    MutexLock lock(mu_);
    KernelTotal& total = totals_[name];
    total.name = name;
    total.launch = launch;
    ++total.count;
    total.microseconds += 1e-3 * double(nanoseconds);
  }

  Mutex mu_;
  std::map<std::string, KernelTotal> totals_ ABSL_GUARDED_BY(mu_);
};

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = *buffer != nullptr ? kBufferBytes : 0;
  *max_records = 0;  // as many as fit
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid_bytes, &record) == CUPTI_SUCCESS) {
    Records::Get().Add(record);
  }
  std::free(buffer);
}

absl::Status Enable() {
  BALEEN_RETURN_IF_ERROR(
      FromCupti(cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer), "taking records"));
  for (const CUpti_ActivityKind kind : kKinds) {
    BALEEN_RETURN_IF_ERROR(FromCupti(cuptiActivityEnable(kind), "recording"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<KernelTotal>> ProfileKernels(absl::FunctionRef<void()> run) {
  BALEEN_RETURN_IF_ERROR(Enable());
  Records::Get().Take();
  run();
  const CUptiResult flushed = cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  for (const CUpti_ActivityKind kind : kKinds) cuptiActivityDisable(kind);
  BALEEN_RETURN_IF_ERROR(FromCupti(flushed, "flushing the records"));
  return Records::Get().Take();
}

std::string ReadableKernelName(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> demangled(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  if (status != 0) return mangled;
  const std::string whole = absl::StrReplaceAll(demangled.get(), {{"(anonymous namespace)::", ""},
                                                                  {"baleen::kernels::cuda::", ""},
                                                                  {"baleen::kernels::", ""},
                                                                  {"baleen::", ""}});
  // The arguments begin at the first bracket outside the template's.
  std::string name;
  int depth = 0;
  for (const char c : whole) {
    depth += c == '<' ? 1 : c == '>' ? -1 : 0;
    if (c == '(' && depth == 0) break;
    if (c == ' ' && depth == 0) {
      name.clear();  // a return type
    } else {
      name += c;
    }
  }
  return name;
}

}  // namespace baleen::kernels::cuda
