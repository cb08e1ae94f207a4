#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "tests/model/tiny_model.h"

namespace baleen::testing {

// models/tiny-dsv32/golden: results of an independent implementation in fp32.
class Goldens {
 public:
  static const Goldens& Get() {
    static const auto* goldens = new Goldens;
    return *goldens;
  }

  std::vector<int32_t> Ids(const std::string& prompt, const char* field) const {
    return json_["prompts"][prompt][field].get<std::vector<int32_t>>();
  }

  template <typename T>
  std::vector<T> Tensor(const std::string& name) const {
    const model::TensorEntry* entry = file_->Find(name);
    BALEEN_CHECK_MSG(entry != nullptr, name.c_str());
    std::vector<T> values((entry->end - entry->begin) / sizeof(T));
    std::memcpy(values.data(), file_->Data(*entry), entry->end - entry->begin);
    return values;
  }

 private:
  Goldens() {
    std::ifstream in(kTinyDirectory + "/golden/golden.json");
    json_ = nlohmann::json::parse(in);
    file_ = ValueOrDie(model::SafetensorsFile::Open(kTinyDirectory + "/golden/golden.safetensors"));
  }

  nlohmann::json json_;
  std::unique_ptr<model::SafetensorsFile> file_;
};

// Infinite when one of the values is no number.
inline float MaxAbsDifference(std::span<const float> a, std::span<const float> b) {
  BALEEN_CHECK(a.size() == b.size());
  float most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    if (std::isnan(difference)) return std::numeric_limits<float>::infinity();
    most = std::max(most, difference);
  }
  return most;
}

}  // namespace baleen::testing
