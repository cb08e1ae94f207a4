#include "worker/handoff_payload.h"

#include <algorithm>

#include "common/wire.h"
#include "xxhash.h"

namespace baleen::worker {
namespace {

void Put(ByteWriter& out, const model::TokenLogprobs& t) {
  out.Put(t.token);
  out.Put(t.logprob);
  out.PutVector(std::span<const int32_t>(t.top_tokens));
  out.PutVector(std::span<const float>(t.top_logprobs));
}

model::TokenLogprobs Get(ByteReader& in) {
  model::TokenLogprobs t;
  t.token = in.Get<int32_t>();
  t.logprob = in.Get<float>();
  t.top_tokens = in.GetVector<int32_t>();
  t.top_logprobs = in.GetVector<float>();
  return t;
}

}  // namespace

uint64_t PromptHash(std::span<const int32_t> prompt) {
  return std::max<uint64_t>(XXH3_64bits(prompt.data(), prompt.size_bytes()), 1);
}

std::string Encode(const HandoffLogprobs& logprobs) {
  if (!logprobs.first && logprobs.prompt.empty()) return "";
  ByteWriter out;
  out.Put(static_cast<uint8_t>(logprobs.first.has_value()));
  if (logprobs.first) Put(out, *logprobs.first);
  out.Put(static_cast<uint32_t>(logprobs.prompt.size()));
  for (const auto& t : logprobs.prompt) Put(out, t);
  return std::string(reinterpret_cast<const char*>(out.bytes().data()), out.bytes().size());
}

absl::StatusOr<HandoffLogprobs> DecodeHandoffLogprobs(const std::string& bytes) {
  HandoffLogprobs logprobs;
  if (bytes.empty()) return logprobs;
  ByteReader in(std::as_bytes(std::span(bytes)));
  if (in.Get<uint8_t>() != 0) logprobs.first = Get(in);
  const auto count = in.Get<uint32_t>();
  for (uint32_t i = 0; i < count && in.ok(); ++i) logprobs.prompt.push_back(Get(in));
  const auto uneven = [](const model::TokenLogprobs& t) {
    return t.top_tokens.size() != t.top_logprobs.size();
  };
  if (!in.Done() || (logprobs.first && uneven(*logprobs.first)) ||
      std::any_of(logprobs.prompt.begin(), logprobs.prompt.end(), uneven))
    return absl::InvalidArgumentError("hand-off logprobs: malformed");
  return logprobs;
}

}  // namespace baleen::worker
