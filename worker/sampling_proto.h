#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/sampling_params.h"

namespace baleen::v1 {
class SamplingParams;
}

namespace baleen::worker {

// The only place where the wire's sampling parameters become the engine's. InvalidArgument names
// the field; the router has checked before, so an error here is a version mismatch.
absl::StatusOr<model::SamplingParams> FromProto(const v1::SamplingParams& proto, int token_limit);

// The same of a serialised message, as it travels through the prefill pipeline.
absl::StatusOr<model::SamplingParams> ParseSampling(const std::string& bytes, int token_limit);

}  // namespace baleen::worker
