#pragma once

#include <istream>
#include <ostream>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "model/tokenizer/tokenizer.h"

namespace baleen::tools {

// Reads one JSON string a line, writes its ids as one JSON list a line ("[1, 2, 3]"), flushed, so
// that it can be talked to through a pipe. Empty lines give nothing. The first line that is no
// JSON string or cannot be encoded ends it: InvalidArgument with the line's number.
absl::Status TokenizeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in,
                           std::ostream& out);

inline constexpr char kTokenizeUsage[] = "tokenize --tokenizer FILE  < JSON_STRINGS  > ID_LISTS";

// `baleenctl tokenize`: the arguments after the subcommand; stdin to stdout. Returns the exit
// status: 0, 1 with a message on stderr, or 2 for wrong arguments.
int RunTokenize(std::span<const std::string> args);

}  // namespace baleen::tools
