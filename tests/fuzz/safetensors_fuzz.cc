// libFuzzer target of the header parser: build with the `fuzz` preset, run
//   build/fuzz/bin/safetensors_fuzz -max_total_time=30
#include "tests/fuzz/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  baleen::fuzz::TryHeader(std::as_bytes(std::span(data, size)));
  return 0;
}
