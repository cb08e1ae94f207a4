#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/checkpoint/safetensors.h"

namespace baleen::fuzz {

// Parses `bytes` as a safetensors file and aborts when an accepted header breaks a promise of
// ParseSafetensorsHeader.
inline bool TryHeader(std::span<const std::byte> bytes) {
  const auto tensors = model::ParseSafetensorsHeader(bytes, "input");
  if (!tensors.ok()) {
    if (tensors.status().message().empty()) std::abort();
    return false;
  }
  uint64_t end = 8;
  for (const model::TensorEntry& tensor : *tensors) {
    uint64_t size = model::FileDTypeBytes(tensor.dtype);
    for (const int64_t n : tensor.shape) size *= static_cast<uint64_t>(n);
    if (tensor.begin < end || tensor.end > bytes.size()) std::abort();
    if (tensor.end - tensor.begin != size) std::abort();
    end = tensor.end;
  }
  return true;
}

}  // namespace baleen::fuzz
