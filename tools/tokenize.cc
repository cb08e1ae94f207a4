#include "tools/tokenize.h"

#include <iostream>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace baleen::tools {

absl::Status TokenizeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in,
                           std::ostream& out) {
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.empty()) continue;
    const nlohmann::json text = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!text.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": not a JSON string"));
    }
    const absl::StatusOr<std::vector<int32_t>> ids =
        tokenizer.Encode(text.get_ref<const std::string&>());
    if (!ids.ok()) {
      return absl::Status(ids.status().code(),
                          absl::StrCat("line ", number, ": ", ids.status().message()));
    }
    out << "[" << absl::StrJoin(*ids, ", ") << "]" << std::endl;
    if (!out) return absl::DataLossError(absl::StrCat("line ", number, ": cannot write the ids"));
  }
  return absl::OkStatus();
}

int RunTokenize(std::span<const std::string> args) {
  if (args.size() != 2 || args[0] != "--tokenizer") {
    std::cerr << "usage: baleenctl " << kTokenizeUsage << "\n";
    return 2;
  }
  const auto tokenizer = tokenizer::Tokenizer::Load(args[1]);
  const absl::Status status =
      tokenizer.ok() ? TokenizeLines(**tokenizer, std::cin, std::cout) : tokenizer.status();
  if (!status.ok()) std::cerr << "baleenctl tokenize: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace baleen::tools
