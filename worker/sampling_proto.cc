#include "worker/sampling_proto.h"

#include <algorithm>

#include "common/status_macros.h"
#include "proto/sampling.pb.h"

namespace baleen::worker {

absl::StatusOr<model::SamplingParams> FromProto(const v1::SamplingParams& proto, int token_limit) {
  model::SamplingParams p;
  if (proto.has_max_new_tokens()) p.max_new_tokens = proto.max_new_tokens();
  if (proto.has_min_new_tokens()) p.min_new_tokens = proto.min_new_tokens();
  if (proto.has_temperature()) p.temperature = proto.temperature();
  if (proto.has_top_p()) p.top_p = proto.top_p();
  if (proto.has_top_k()) p.top_k = proto.top_k();
  if (proto.has_min_p()) p.min_p = proto.min_p();
  if (proto.has_presence_penalty()) p.presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) p.frequency_penalty = proto.frequency_penalty();
  if (proto.has_repetition_penalty()) p.repetition_penalty = proto.repetition_penalty();
  for (const auto& [token, bias] : proto.logit_bias())
    p.logit_bias.emplace_back(static_cast<int32_t>(token), bias);
  std::sort(p.logit_bias.begin(), p.logit_bias.end());  // a map's order is not the same everywhere
  p.seed = proto.seed();
  p.stop_token_ids.assign(proto.stop_token_ids().begin(), proto.stop_token_ids().end());
  p.ignore_eos = proto.ignore_eos();
  if (proto.has_top_logprobs()) p.top_logprobs = proto.top_logprobs();
  p.prompt_logprobs = proto.prompt_logprobs();
  BALEEN_RETURN_IF_ERROR(model::Validate(p, token_limit));
  return p;
}

absl::StatusOr<model::SamplingParams> ParseSampling(const std::string& bytes, int token_limit) {
  v1::SamplingParams proto;
  if (!proto.ParseFromString(bytes))
    return absl::InvalidArgumentError("sampling: not a SamplingParams message");
  return FromProto(proto, token_limit);
}

}  // namespace baleen::worker
