// Time to first token and between tokens of the engine in one process, without a cluster: what
// bench/cluster_bench.py takes away from the cluster's. No prefix cache. Prompts come on stdin, the
// ids of one a line; each is answered by a line of milliseconds: first token, mean gap between
// tokens.
//
//   engine_bench MODEL_DIR MAX_TOKENS DRAFTS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/local_model.h"
#include "spdlog/spdlog.h"

namespace baleen::engine {
namespace {

using SteadyTime = std::chrono::steady_clock;

double Milliseconds(SteadyTime::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

// One request alone; prints its two figures. False when the engine refuses it.
bool RunOne(LocalModel& model, std::vector<int32_t> prompt, int max_tokens) {
  const auto begin = SteadyTime::now();
  const auto id = model.engine().Submit(
      std::move(prompt), {.max_new_tokens = max_tokens, .temperature = 0, .ignore_eos = true});
  if (!id.ok()) {
    std::fprintf(stderr, "engine_bench: %s\n", id.status().ToString().c_str());
    return false;
  }
  SteadyTime::time_point first{}, last{};
  int tokens = 0;
  const auto emitted = [&](uint64_t, int32_t) {
    last = SteadyTime::now();
    if (tokens++ == 0) first = last;
  };
  while (model.engine().Step(emitted)) {
  }
  model.engine().Take(*id);
  std::printf("%.4f %.4f\n", Milliseconds(first - begin),
              tokens > 1 ? Milliseconds(last - first) / (tokens - 1) : 0);
  std::fflush(stdout);  // whoever asks waits for the line before it goes on
  return true;
}

int Run(char** argv) {
  spdlog::set_level(spdlog::level::warn);  // stdout is for figures
  auto model = LocalModel::Create(
      {.directory = argv[1], .drafts = std::atoi(argv[3]), .prefix_cache = false});
  if (!model.ok()) {
    std::fprintf(stderr, "engine_bench: %s\n", model.status().ToString().c_str());
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream ids(line);
    std::vector<int32_t> prompt;
    for (int32_t id; ids >> id;) prompt.push_back(id);
    if (!RunOne(**model, std::move(prompt), std::atoi(argv[2]))) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace baleen::engine

int main(int argc, char** argv) {
  if (argc == 4) return baleen::engine::Run(argv);
  std::fprintf(stderr, "usage: engine_bench MODEL_DIR MAX_TOKENS DRAFTS\n");
  return 2;
}
