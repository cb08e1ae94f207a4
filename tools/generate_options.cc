#include "tools/generate_options.h"

#include <functional>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "kernels/backend.h"

namespace baleen::tools {
namespace {

absl::Status Bad(absl::string_view name, absl::string_view value, absl::string_view want) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": \"", value, "\" is not ", want));
}

absl::Status Parse(const std::string& text, int* out, absl::string_view name) {
  return absl::SimpleAtoi(text, out) ? absl::OkStatus() : Bad(name, text, "a whole number");
}
absl::Status Parse(const std::string& text, uint64_t* out, absl::string_view name) {
  return absl::SimpleAtoi(text, out) ? absl::OkStatus() : Bad(name, text, "a number from 0");
}
absl::Status Parse(const std::string& text, float* out, absl::string_view name) {
  return absl::SimpleAtof(text, out) ? absl::OkStatus() : Bad(name, text, "a number");
}
absl::Status Parse(const std::string& text, std::string* out, absl::string_view) {
  *out = text;
  return absl::OkStatus();
}
absl::Status Parse(const std::string& text, std::vector<int32_t>* out, absl::string_view name) {
  for (absl::string_view piece : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(piece, &id) || id < 0) return Bad(name, text, "a list like 1,2,3");
    out->push_back(id);
  }
  return absl::OkStatus();
}
absl::Status Parse(const std::string& text, Numerics* out, absl::string_view name) {
  if (text != "exact" && text != "fp8") return Bad(name, text, "exact or fp8");
  *out = text == "exact" ? Numerics::kExact : Numerics::kFp8;
  return absl::OkStatus();
}
template <typename T>
absl::Status Parse(const std::string& text, std::optional<T>* out, absl::string_view name) {
  return Parse(text, &out->emplace(), name);
}

using Setter = std::function<absl::Status(GenerateOptions&, const std::string& value)>;

template <typename Field>
std::pair<const std::string, Setter> Into(const char* name, Field field) {
  return {name, [name, field](GenerateOptions& options, const std::string& value) {
            return Parse(value, field(options), name);
          }};
}

const std::map<std::string, Setter>& Valued() {
  using O = GenerateOptions;
  static const auto* setters = new std::map<std::string, Setter>{
      Into("--model", [](O& o) { return &o.model; }),
      Into("--prompt", [](O& o) { return &o.prompt; }),
      Into("--prompt-ids", [](O& o) { return &o.prompt_ids; }),
      Into("--chat", [](O& o) { return &o.chat_file; }),
      Into("--max-tokens", [](O& o) { return &o.sampling.max_new_tokens; }),
      Into("--temperature", [](O& o) { return &o.sampling.temperature; }),
      Into("--top-p", [](O& o) { return &o.sampling.top_p; }),
      Into("--top-k", [](O& o) { return &o.sampling.top_k; }),
      Into("--seed", [](O& o) { return &o.sampling.seed; }),
      Into("--top-logprobs", [](O& o) { return &o.sampling.top_logprobs; }),
      Into("--drafts", [](O& o) { return &o.drafts; }),
      Into("--device", [](O& o) { return &o.device; }),
      Into("--mode", [](O& o) { return &o.numerics; }),
      Into("--chunk", [](O& o) { return &o.chunk_tokens; }),
      Into("--threads", [](O& o) { return &o.threads; }),
  };
  return *setters;
}

bool* Switch(GenerateOptions& options, const std::string& name) {
  if (name == "--json") return &options.json;
  if (name == "--ignore-eos") return &options.sampling.ignore_eos;
  return nullptr;
}

absl::Status Check(const GenerateOptions& o) {
  if (o.model.empty()) return absl::InvalidArgumentError("--model is missing");
  const int prompts = o.prompt.has_value() + o.prompt_ids.has_value() + o.chat_file.has_value();
  if (prompts != 1) {
    return absl::InvalidArgumentError("give one of --prompt, --prompt-ids and --chat");
  }
  if (!kernels::GpuOf(o.device).ok()) return Bad("--device", o.device, "cpu, cuda or cuda:N");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerateOptions> ParseGenerateOptions(std::span<const std::string> args) {
  GenerateOptions options;
  for (size_t i = 0; i < args.size(); ++i) {
    if (bool* flag = Switch(options, args[i]); flag != nullptr) {
      *flag = true;
      continue;
    }
    const size_t equals = args[i].find('=');
    const std::string name = args[i].substr(0, equals);
    const auto setter = Valued().find(name);
    if (setter == Valued().end()) {
      return absl::InvalidArgumentError(absl::StrCat("unknown argument ", name));
    }
    const bool inside = equals != std::string::npos;
    if (!inside && i + 1 == args.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": its value is missing"));
    }
    const std::string value = inside ? args[i].substr(equals + 1) : args[++i];
    BALEEN_RETURN_IF_ERROR(setter->second(options, value));
  }
  BALEEN_RETURN_IF_ERROR(Check(options));
  return options;
}

}  // namespace baleen::tools
