#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint/tensor_source.h"
#include "model/config.h"
#include "model/shard.h"
#include "model/weights.h"

namespace baleen::model {

// What a load did.
struct LoadReport {
  int tensors = 0;            // read, scales included
  uint64_t bytes_read = 0;    // of the checkpoint: this shard's tensors and no other
  uint64_t bytes_stored = 0;  // in the backend's memory
};

// Reads the weights of `shard` from `directory` into `backend`'s memory, in one allocation.
//
// Every tensor's presence, shape, dtype and scales are checked before the first is stored. fp8
// matrices become f32 where backend.weight_storage() is kDequantized, else they keep the file's
// bytes and scales; kv_b is split into w_uk and w_uv. Nothing is read or allocated for tensors that
// the shard does not hold. Progress goes to stderr (progress.h).
//
// What bounds it: files not yet in the page cache, their disk, which is kept busy by reading ahead;
// those that are, copying them into pinned memory by a few threads, which the device's copies
// (upload.h) overlap. Pages of the files stay cached: other processes of the machine read many of
// the same tensors, and so does a restart.
//
// NotFound: a tensor or its file is missing. InvalidArgument: malformed or unexpected content.
// ResourceExhausted: too little memory of the backend, or of the host for staging. All name file,
// tensor and field, or the bytes wanted.
absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(kernels::Backend& backend,
                                                          const std::string& directory,
                                                          const ModelConfig& config,
                                                          const Shard& shard,
                                                          LoadReport* report = nullptr);

// The same from any source.
absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(kernels::Backend& backend,
                                                          TensorSource& source,
                                                          const ModelConfig& config,
                                                          const Shard& shard,
                                                          LoadReport* report = nullptr);

}  // namespace baleen::model
