#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "model/tokenizer/tokenizer.h"
#include "router/chat/chat_message.h"
#include "router/chat/marker_table.h"

namespace baleen::router {

// What the router knows of the checkpoint: how to read and write its text, and its limits. Never
// changes after Load; safe from any thread.
struct ModelInfo {
  std::string name;       // what clients call it
  std::string directory;  // the checkpoint's
  std::unique_ptr<const tokenizer::Tokenizer> tokenizer;
  chat::ChatStyle chat_style = chat::ChatStyle::kV32;
  std::unique_ptr<const chat::MarkerTable> markers;  // of the tokenizer's added tokens
  int vocab_size = 0;                                // rows of the embedding and the head
  int max_context = 0;                               // tokens, prompt and answer together
  uint32_t bos = 0;
  std::vector<uint32_t> eos;        // config.json's, which the workers know too
  std::vector<uint32_t> extra_eos;  // only generation_config.json's: sent as stop ids
  // generation_config.json's, where a request says nothing.
  float default_temperature = 1.0f;
  float default_top_p = 0.95f;

  // tokenizer_config.json, for clients that encode prompts themselves: JSON, with special tokens
  // written as objects replaced by their text. Empty if the checkpoint has none.
  std::string tokenizer_config;

  bool IsEos(uint32_t token) const;
  // Ids at or above it have no token, though they may have a row.
  int token_limit() const { return tokenizer->vocab_limit(); }

  // Reads config.json, tokenizer.json and, where present, generation_config.json and
  // tokenizer_config.json of `directory`. An empty `name` means the directory's own. Errors name
  // the file and the field.
  static absl::StatusOr<ModelInfo> Load(const std::string& directory, const std::string& name);

  // The fields of a worker's fingerprint that the router can check.
  Fingerprint OwnFingerprint() const {
    return {{"tokenizer", tokenizer->hash()}, {"model", config_hash}};
  }
  std::string config_hash;  // XXH3 (64 bit) of config.json, 16 hexadecimal digits
};

}  // namespace baleen::router
