// Tokenizer on one core: bytes per second of encoding and decoding, and the time of loading a
// vocabulary of DeepSeek-V3's size (128,815 tokens).
//
//   tokenizer_bench CHECKPOINT_DIR [--benchmark_...]
//
// The text is that of CHECKPOINT_DIR/golden/recall.json (English notes, about 300 KB), with the
// checkpoint's tokenizer ("Tiny") and with the synthetic full-size one ("Full").
#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/testing/synthetic_tokenizer.h"

namespace baleen {
namespace {

using tokenizer::Tokenizer;

void Encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t tokens = 0;
  for (auto _ : state) tokens = tokenizer.Encode(text)->size();
  state.SetBytesProcessed(static_cast<int64_t>(text.size()) * state.iterations());
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(tokens);
}

void Decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = *tokenizer.Encode(text);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Decode(ids, /*skip_special=*/true));
  state.SetBytesProcessed(static_cast<int64_t>(text.size()) * state.iterations());
}

void Load(benchmark::State& state, const std::string& json) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::Parse(json, "bench"));
}

std::string RecallText(const std::string& checkpoint) {
  const auto golden = nlohmann::json::parse(std::ifstream(checkpoint + "/golden/recall.json"));
  std::string text;
  for (const auto& entry : golden) {
    for (const auto& message : entry["messages"]) {
      text += message["content"].get<std::string>() + "\n";
    }
  }
  return text;
}

std::string RandomWord(size_t bytes) {
  std::mt19937 rng(1);
  std::string word(bytes, ' ');
  for (char& c : word) c = static_cast<char>('a' + rng() % 26);
  return word;
}

void RegisterTexts(const std::string& name, const Tokenizer& tokenizer, const std::string& text) {
  const std::string small = text.substr(0, 2000);
  benchmark::RegisterBenchmark(("Encode" + name + "/text").c_str(),
                               [&tokenizer, text](auto& state) { Encode(state, tokenizer, text); });
  benchmark::RegisterBenchmark(
      ("Encode" + name + "/text_2KB").c_str(),
      [&tokenizer, small](auto& state) { Encode(state, tokenizer, small); });
  for (const int kilobytes : {1, 32, 1024}) {
    benchmark::RegisterBenchmark(
        ("Encode" + name + "/one_word_KB:" + std::to_string(kilobytes)).c_str(),
        [&tokenizer, word = RandomWord(static_cast<size_t>(kilobytes) << 10)](auto& state) {
          Encode(state, tokenizer, word);
        });
  }
  benchmark::RegisterBenchmark(("Decode" + name + "/text").c_str(),
                               [&tokenizer, text](auto& state) { Decode(state, tokenizer, text); });
}

int Run(const std::string& checkpoint) {
  const auto tiny = Tokenizer::Load(checkpoint + "/tokenizer.json");
  if (!tiny.ok()) {
    std::fprintf(stderr, "%s\n", tiny.status().ToString().c_str());
    return 1;
  }
  const std::string pairs = testing::FullSizeTokenizerJson(/*merges_as_pairs=*/true).dump();
  const std::string strings = testing::FullSizeTokenizerJson(/*merges_as_pairs=*/false).dump();
  const auto full = Tokenizer::Parse(strings, "synthetic");
  const std::string text = RecallText(checkpoint);
  RegisterTexts("Tiny", **tiny, text);
  RegisterTexts("Full", **full, text);
  for (const auto& [name, json] :
       {std::pair("LoadFull/pairs", &pairs), {"LoadFull/strings", &strings}}) {
    benchmark::RegisterBenchmark(name, [json = json](auto& state) {
      Load(state, *json);
    })->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace baleen

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenizer_bench CHECKPOINT_DIR [--benchmark_...]\n");
    return 2;
  }
  return baleen::Run(argv[1]);
}
