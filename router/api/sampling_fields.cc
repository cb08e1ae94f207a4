#include "router/api/sampling_fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/chat/stop_strings.h"

namespace baleen::router {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

std::optional<int32_t> ReadInt32(FieldReader& fields, absl::string_view name, int64_t least) {
  const auto value = fields.Int(name);
  if (!value) return std::nullopt;
  if (*value < least || *value > kMaxInt) {
    fields.Fail(name, absl::StrCat("must be an integer of at least ", least));
    return std::nullopt;
  }
  return static_cast<int32_t>(*value);
}

void ReadStop(FieldReader& fields, std::vector<std::string>* stop) {
  const Json* value = fields.Any("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    stop->push_back(value->get<std::string>());
    return;
  }
  if (!value->is_array()) return fields.Fail("stop", "must be a string or a list of strings");
  if (value->size() > kMaxStopStrings)
    return fields.Fail("stop", absl::StrCat("has more than ", kMaxStopStrings, " strings"));
  for (const Json& s : *value) {
    if (!s.is_string()) return fields.Fail("stop", "must be a string or a list of strings");
    stop->push_back(s.get<std::string>());
  }
}

void ReadStopTokenIds(FieldReader& fields, v1::SamplingParams* sampling) {
  const Json* ids = fields.Array("stop_token_ids");
  if (ids == nullptr) return;
  for (const Json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > uint64_t(kMaxInt))
      return fields.Fail("stop_token_ids", "must be a list of token ids");
    sampling->add_stop_token_ids(id.get<uint32_t>());
  }
}

void ReadLogitBias(FieldReader& fields, v1::SamplingParams* sampling) {
  const Json* bias = fields.Object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id))
      return fields.Fail("logit_bias", absl::StrCat("\"", key, "\" is not a token id"));
    if (!value.is_number()) return fields.Fail("logit_bias", "values must be numbers");
    (*sampling->mutable_logit_bias())[id] = value.get<float>();
  }
}

void ReadMaxNewTokens(FieldReader& fields, int64_t least, ClientRequest* request) {
  for (absl::string_view name : {"max_tokens", "max_completion_tokens", "max_new_tokens"})
    if (const auto n = ReadInt32(fields, name, least)) {
      request->max_new_tokens = std::max(*n, 1);
      request->output.prompt_only = *n == 0;
    }
}

// Several choices of one prompt are not offered.
void RefuseMany(FieldReader& fields, absl::string_view name) {
  if (const auto n = fields.Int(name); n && *n != 1)
    fields.Fail(name, "only 1 is supported", "unsupported_value");
}

absl::Status CheckRange(absl::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for not-a-number
  return BadParam(name, absl::StrCat("must be between ", low, " and ", high));
}

absl::Status CheckPenalties(const v1::SamplingParams& s) {
  if (s.has_presence_penalty())
    if (auto e = CheckRange("presence_penalty", s.presence_penalty(), -2, 2); !e.ok()) return e;
  if (s.has_frequency_penalty())
    if (auto e = CheckRange("frequency_penalty", s.frequency_penalty(), -2, 2); !e.ok()) return e;
  if (s.has_repetition_penalty())
    if (auto e = CheckRange("repetition_penalty", s.repetition_penalty(), 0.01, 10); !e.ok())
      return e;
  return absl::OkStatus();
}

absl::Status CheckIds(const v1::SamplingParams& s, int vocab_size) {
  if (s.stop_token_ids_size() > kMaxStopTokenIds)
    return BadParam("stop_token_ids", absl::StrCat("has more than ", kMaxStopTokenIds, " ids"));
  for (uint32_t id : s.stop_token_ids())
    if (id >= static_cast<uint32_t>(vocab_size))
      return BadParam("stop_token_ids", absl::StrCat(id, " is not a token id"));
  if (s.logit_bias_size() > kMaxLogitBias)
    return BadParam("logit_bias", absl::StrCat("has more than ", kMaxLogitBias, " entries"));
  for (const auto& [id, bias] : s.logit_bias()) {
    if (id >= static_cast<uint32_t>(vocab_size))
      return BadParam("logit_bias", absl::StrCat(id, " is not a token id"));
    if (auto e = CheckRange("logit_bias", bias, -100, 100); !e.ok()) return e;
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const v1::SamplingParams& s, int vocab_size) {
  if (auto e = CheckRange("temperature", s.temperature(), 0, 100); !e.ok()) return e;
  if (!(s.top_p() > 0 && s.top_p() <= 1)) return BadParam("top_p", "must be above 0, at most 1");
  if (s.has_min_p())
    if (auto e = CheckRange("min_p", s.min_p(), 0, 1); !e.ok()) return e;
  if (s.has_top_k() && s.top_k() < 0) return BadParam("top_k", "must not be negative");
  if (s.has_top_logprobs() && (s.top_logprobs() < 0 || s.top_logprobs() > kMaxTopLogprobs))
    return BadParam("top_logprobs", absl::StrCat("must be between 0 and ", kMaxTopLogprobs));
  if (s.has_min_new_tokens() && s.min_new_tokens() < 0)
    return BadParam("min_tokens", "must not be negative");
  if (auto e = CheckPenalties(s); !e.ok()) return e;
  return CheckIds(s, vocab_size);
}

absl::Status CheckStop(const std::vector<std::string>& stop) {
  if (stop.size() > kMaxStopStrings)
    return BadParam("stop", absl::StrCat("has more than ", kMaxStopStrings, " strings"));
  size_t total = 0;
  for (const std::string& s : stop) {
    total += s.size();
    if (s.empty()) return BadParam("stop", "must not contain the empty string");
    if (s.size() > kMaxStopStringBytes)
      return BadParam("stop", absl::StrCat("a string is over ", kMaxStopStringBytes, " bytes"));
  }
  if (total > chat::StopStrings::kMaxTotalBytes)
    return BadParam("stop",
                    absl::StrCat("over ", chat::StopStrings::kMaxTotalBytes, " bytes in total"));
  return absl::OkStatus();
}

}  // namespace

ClientRequest::ClientRequest() : sampling(std::make_shared<v1::SamplingParams>()) {}

void ReadSampling(FieldReader& fields, ClientRequest* request, int64_t least_new_tokens) {
  v1::SamplingParams& s = *request->sampling;
  ReadMaxNewTokens(fields, least_new_tokens, request);
  for (absl::string_view name : {"min_tokens", "min_new_tokens"})
    if (const auto n = ReadInt32(fields, name, 0)) s.set_min_new_tokens(*n);
  if (const auto v = fields.Number("temperature")) s.set_temperature(static_cast<float>(*v));
  if (const auto v = fields.Number("top_p")) s.set_top_p(static_cast<float>(*v));
  if (const auto v = ReadInt32(fields, "top_k", -1)) s.set_top_k(std::max(*v, 0));  // -1: all
  if (const auto v = fields.Number("min_p")) s.set_min_p(static_cast<float>(*v));
  if (const auto v = fields.Number("presence_penalty"))
    s.set_presence_penalty(static_cast<float>(*v));
  if (const auto v = fields.Number("frequency_penalty"))
    s.set_frequency_penalty(static_cast<float>(*v));
  if (const auto v = fields.Number("repetition_penalty"))
    s.set_repetition_penalty(static_cast<float>(*v));
  if (const auto v = fields.Int("seed")) s.set_seed(static_cast<uint64_t>(*v));
  if (const auto v = fields.Bool("ignore_eos")) s.set_ignore_eos(*v);
  if (const auto v = fields.Bool("skip_special_tokens")) request->output.skip_special = *v;
  for (absl::string_view name : {"include_stop_str_in_output", "no_stop_trim"})
    if (const auto v = fields.Bool(name)) request->output.keep_stop = *v;
  ReadStop(fields, &request->output.stop);
  ReadStopTokenIds(fields, &s);
  ReadLogitBias(fields, &s);
  RefuseMany(fields, "n");
  RefuseMany(fields, "best_of");
}

void ReadStreamOptions(FieldReader& fields, ClientRequest* request) {
  request->stream = fields.Bool("stream").value_or(false);
  const Json* options = fields.Object("stream_options");
  if (options == nullptr) return;
  FieldReader inner(*options, "stream_options.");
  request->include_usage = inner.Bool("include_usage").value_or(false);
  request->continuous_usage = inner.Bool("continuous_usage_stats").value_or(false);
  if (!inner.status().ok()) fields.Fail("stream_options", inner.status().message());
}

absl::Status CompleteSampling(const ModelInfo& model, ClientRequest* request) {
  v1::SamplingParams& s = *request->sampling;
  if (!s.has_temperature()) s.set_temperature(model.default_temperature);
  if (!s.has_top_p()) s.set_top_p(model.default_top_p);
  if (!s.has_seed()) s.set_seed(RandomId());
  if (!s.ignore_eos())
    for (uint32_t id : model.extra_eos) s.add_stop_token_ids(id);
  if (auto e = CheckSampling(s, model.token_limit()); !e.ok()) return e;
  const int most = request->output.prompt_only ? 0 : request->max_new_tokens;
  if (request->max_new_tokens > 0 && s.min_new_tokens() > most)
    return BadParam("min_tokens", "must not be more than max_tokens");
  return CheckStop(request->output.stop);
}

}  // namespace baleen::router
