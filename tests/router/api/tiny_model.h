#pragma once

#include "common/check.h"
#include "router/model_info.h"

namespace baleen::router {

// The tiny checkpoint's text side, loaded once.
inline const ModelInfo& TinyModel() {
  static const ModelInfo* const model = [] {
    auto loaded = ModelInfo::Load(BALEEN_SOURCE_DIR "/models/tiny-dsv32", "tiny");
    BALEEN_CHECK_MSG(loaded.ok(), loaded.status().ToString().c_str());
    return new ModelInfo(*std::move(loaded));
  }();
  return *model;
}

}  // namespace baleen::router
