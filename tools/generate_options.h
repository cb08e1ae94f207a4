#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/dtype.h"
#include "model/sampling_params.h"

namespace baleen::tools {

inline constexpr char kGenerateUsage[] =
    R"(usage: baleen_generate --model DIR PROMPT [options]
One process, no cluster: the answer that a cluster must give too.

PROMPT, one of
  --prompt TEXT        as it is; markers such as <｜User｜> become tokens, none is added
  --prompt-ids 1,2,3   token ids; needs no tokenizer.json
  --chat FILE          JSON as for /v1/chat/completions; only what makes the prompt is read

options [default]
  --max-tokens N       [128], at most what the context leaves
  --temperature T      [0: greedy]
  --top-p P  --top-k K [1, 0: all]
  --seed N             [0]
  --ignore-eos         go on after the end of an answer
  --top-logprobs N     0..20; 0: of the chosen token only [none]
  --drafts K           0..3 MTP tokens verified a step [1, or 0 without an MTP module]
  --device cpu|cuda[:N]  [cpu]
  --mode exact|fp8     arithmetic [exact, or fp8 on cuda]
  --chunk N            prefill tokens of a batch [512]
  --threads N          [1]
  --json               one JSON object: ids, text, logprobs, finish_reason, tokens_per_step, seconds
)";

struct GenerateOptions {
  std::string model;  // directory
  std::optional<std::string> prompt;
  std::optional<std::vector<int32_t>> prompt_ids;
  std::optional<std::string> chat_file;
  model::SamplingParams sampling{.max_new_tokens = 128, .temperature = 0};
  std::optional<int> drafts;
  std::string device = "cpu";
  std::optional<Numerics> numerics;  // default: exact on a CPU, fp8 on a GPU
  int chunk_tokens = 512;
  int threads = 1;
  bool json = false;
};

// The arguments after the program's name; "--name value" and "--name=value". InvalidArgument names
// the argument.
absl::StatusOr<GenerateOptions> ParseGenerateOptions(std::span<const std::string> args);

}  // namespace baleen::tools
