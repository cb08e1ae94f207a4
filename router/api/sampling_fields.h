#pragma once

#include "absl/status/status.h"
#include "router/api/client_request.h"
#include "router/api/field_reader.h"
#include "router/model_info.h"

namespace baleen::router {

// The sampling fields that chat, completions and /generate share, into `request->sampling`,
// `max_new_tokens` and the stop strings. Errors stay in `fields`. `least_new_tokens` is 0 where a
// client may ask for none (OutputOptions::prompt_only).
void ReadSampling(FieldReader& fields, ClientRequest* request, int64_t least_new_tokens = 1);

// stream and stream_options.
void ReadStreamOptions(FieldReader& fields, ClientRequest* request);

// Checks ranges (not a number is out of every range), whatever wire the values came over, and fills
// in the checkpoint's defaults and a seed. InvalidArgument names the field.
absl::Status CompleteSampling(const ModelInfo& model, ClientRequest* request);

// At most so many; a longer list is refused. Stop strings also have a bound for all together
// (chat/stop_strings.h).
inline constexpr size_t kMaxStopStrings = 64;
inline constexpr size_t kMaxStopStringBytes = 1024;
inline constexpr int kMaxStopTokenIds = 256;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxTopLogprobs = 20;

}  // namespace baleen::router
