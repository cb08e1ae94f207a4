#include "model/checkpoint/loader.h"

#include <limits>
#include <set>
#include <string>

#include "model/checkpoint/random_tensors.h"
#include "model/checkpoint/upload.h"
#include "tests/model/memory_backend.h"
#include "tests/model/staged_backend.h"
#include "tests/model/test_checkpoint.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::MemoryBackend;
using ::baleen::testing::StagedBackend;
using ::baleen::testing::StatusIs;
using ::baleen::testing::TempFolder;
using ::baleen::testing::TestTensors;
using kernels::Weight;
using kernels::WeightStorage;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kLayer = "model.layers.1.";

class LoaderTest : public ::testing::Test {
 protected:
  // The status of loading the whole model after writing `tensors_`.
  absl::Status Load() {
    testing::WriteCheckpoint(folder_, tensors_);
    auto weights =
        LoadWeights(backend_, folder_.path(), config_, WholeModel(config_, true), &report_);
    if (!weights.ok()) return weights.status();
    weights_ = *std::move(weights);
    return absl::OkStatus();
  }

  // Element (r, c) of fp8 tensor `name` in f32.
  float Fp8(const std::string& name, int64_t r, int64_t c) const {
    const auto& t = tensors_.at(name);
    const auto& s = tensors_.at(name + "_scale_inv");
    float scale;
    std::memcpy(&scale, s.bytes.data() + 4 * (r / 128 * s.shape[1] + c / 128), 4);
    return kernels::E4m3ToF32(static_cast<uint8_t>(t.bytes[r * t.shape[1] + c])) * scale;
  }

  void ExpectFp8(const Weight& w, int first_row, const std::string& name) const {
    const auto& shape = tensors_.at(name).shape;
    ASSERT_EQ(w.dtype, DType::kF32);
    ASSERT_EQ(w.in, shape[1]);
    EXPECT_TRUE(w.fp8_input);
    for (int64_t r = 0; r < shape[0]; ++r) {
      for (int64_t c = 0; c < shape[1]; ++c) {
        const float got = static_cast<const float*>(w.data)[(first_row + r) * w.in + c];
        ASSERT_EQ(got, Fp8(name, r, c)) << name << " at " << r << ", " << c;
      }
    }
  }

  MemoryBackend backend_;
  ModelConfig config_ = testing::PartialBlockConfig();
  TempFolder folder_;
  TestTensors tensors_ = testing::RandomCheckpoint(config_);
  std::unique_ptr<ModelWeights> weights_;
  LoadReport report_;
};

TEST_F(LoaderTest, DequantisesMatricesWithPartialBlocks) {
  BALEEN_ASSERT_OK(Load());
  const LayerWeights& dense = weights_->layers[0];
  ExpectFp8(dense.attention.q_b, 0, "model.layers.0.self_attn.q_b_proj.weight");
  ExpectFp8(dense.mlp.gate_up, 0, "model.layers.0.mlp.gate_proj.weight");
  ExpectFp8(dense.mlp.gate_up, 200, "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(dense.mlp.gate_up.out, 400);
  ExpectFp8(weights_->layers[1].moe.down[3], 0, kLayer + "mlp.experts.3.down_proj.weight");
  ExpectFp8(weights_->mtp.layer.indexer.wk, 0, "model.layers.2.self_attn.indexer.wk.weight");
}

TEST_F(LoaderTest, SplitsKvBIntoItsAbsorbedHalves) {
  BALEEN_ASSERT_OK(Load());
  const std::string name = kLayer + "self_attn.kv_b_proj.weight";
  const AttentionWeights& w = weights_->layers[1].attention;
  const auto* uk = static_cast<const float*>(w.w_uk.data);  // [heads, kv_lora, nope]
  const auto* uv = static_cast<const float*>(w.w_uv.data);  // [heads, v, kv_lora]
  for (int h = 0; h < 2; ++h) {
    for (int c = 0; c < 128; ++c) {
      for (int d = 0; d < 48; ++d) {
        ASSERT_EQ(uk[(h * 128 + c) * 48 + d], Fp8(name, h * 88 + d, c));
      }
      for (int d = 0; d < 40; ++d) {
        ASSERT_EQ(uv[(h * 40 + d) * 128 + c], Fp8(name, h * 88 + 48 + d, c));
      }
    }
  }
}

TEST_F(LoaderTest, VectorsAndPlainMatricesBecomeF32) {
  auto& norm = tensors_.at("model.norm.weight");
  norm = {"BF16", norm.shape, std::string(norm.bytes.size() / 2, '\0')};
  const uint16_t value = kernels::F32ToBf16(-1.5f);
  std::memcpy(norm.bytes.data() + 2 * 159, &value, 2);
  auto& enorm = tensors_.at("model.layers.2.enorm.weight");
  enorm = {"F16", enorm.shape, std::string(enorm.bytes.size() / 2, '\x3C')};  // 0x3C3C
  BALEEN_ASSERT_OK(Load());
  EXPECT_EQ(weights_->norm[159], -1.5f);
  EXPECT_EQ(weights_->norm[0], 0.0f);
  EXPECT_EQ(weights_->mtp.embedding_norm[7], 1.05859375f);
  EXPECT_FALSE(weights_->head.fp8_input);
  uint16_t last;
  std::memcpy(&last, tensors_.at("lm_head.weight").bytes.data() + 2 * (10 * 160 - 1), 2);
  EXPECT_EQ(static_cast<const float*>(weights_->head.data)[10 * 160 - 1], kernels::Bf16ToF32(last));
}

TEST_F(LoaderTest, BytesReadAreThoseOfTheShardOnly) {
  BALEEN_ASSERT_OK(Load());
  uint64_t all = 0;
  for (const auto& [name, t] : tensors_) all += t.bytes.size();
  EXPECT_EQ(report_.bytes_read, all);
  EXPECT_EQ(report_.tensors, int(tensors_.size()));

  uint64_t stages = 0;
  for (int s = 0; s < 2; ++s) {
    LoadReport report;
    BALEEN_ASSERT_OK(LoadWeights(backend_, folder_.path(), config_,
                                 PipelineStage(config_, true, s, 2), &report));
    EXPECT_LT(report.bytes_read, all);
    stages += report.bytes_read;
  }
  EXPECT_EQ(stages, all + tensors_.at("model.embed_tokens.weight").bytes.size());

  LoadReport rank;
  BALEEN_ASSERT_OK(
      LoadWeights(backend_, folder_.path(), config_, ExpertRank(config_, true, 0, 2), &rank));
  uint64_t others = 0;
  for (const auto& [name, t] : tensors_) {
    if (name.find(".experts.2.") != name.npos || name.find(".experts.3.") != name.npos) {
      others += t.bytes.size();
    }
  }
  EXPECT_EQ(rank.bytes_read, all - others);
}

TEST_F(LoaderTest, AStageNeedsOnlyItsOwnFiles) {
  TestTensors first;
  for (const auto& [name, t] : tensors_) {
    if (name.starts_with("model.layers.0.") || name.starts_with("model.embed")) first[name] = t;
  }
  testing::WriteFile(folder_ / "model.safetensors", testing::SafetensorsBytes(first));
  BALEEN_EXPECT_OK(
      LoadWeights(backend_, folder_.path(), config_, PipelineStage(config_, true, 0, 2)));
  EXPECT_THAT(LoadWeights(backend_, folder_.path(), config_, PipelineStage(config_, true, 1, 2)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("tensor model.")));
}

TEST_F(LoaderTest, NativeStorageKeepsBytesAndScales) {
  config_.intermediate_size = 256;  // fused fp8 halves must begin on a block
  config_.moe_intermediate_size = 128;
  tensors_ = testing::RandomCheckpoint(config_);
  testing::WriteCheckpoint(folder_, tensors_);
  MemoryBackend native(WeightStorage::kNative);
  const auto weights =
      LoadWeights(native, folder_.path(), config_, WholeModel(config_, true), nullptr);
  BALEEN_ASSERT_OK(weights);
  const Weight& w = (*weights)->layers[1].moe.gate_up[2];
  ASSERT_EQ(w.dtype, DType::kF8E4M3);
  const auto& gate = tensors_.at(kLayer + "mlp.experts.2.gate_proj.weight");
  const auto& up = tensors_.at(kLayer + "mlp.experts.2.up_proj.weight");
  EXPECT_EQ(std::memcmp(w.data, (gate.bytes + up.bytes).data(), 2 * gate.bytes.size()), 0);
  const std::string scales =
      tensors_.at(kLayer + "mlp.experts.2.gate_proj.weight_scale_inv").bytes +
      tensors_.at(kLayer + "mlp.experts.2.up_proj.weight_scale_inv").bytes;
  EXPECT_EQ(std::memcmp(w.scales, scales.data(), scales.size()), 0);
  const auto* uk = static_cast<const uint16_t*>((*weights)->layers[1].attention.w_uk.data);
  EXPECT_EQ((*weights)->layers[1].attention.w_uk.dtype, DType::kBf16);
  EXPECT_EQ(uk[5], kernels::F32ToBf16(Fp8(kLayer + "self_attn.kv_b_proj.weight", 5, 0)));
  EXPECT_EQ((*weights)->embedding.dtype, DType::kBf16);
}

TEST_F(LoaderTest, NativeFusionOffABlockIsRefused) {
  testing::WriteCheckpoint(folder_, tensors_);
  MemoryBackend native(WeightStorage::kNative);
  EXPECT_THAT(LoadWeights(native, folder_.path(), config_, WholeModel(config_, true)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("up_proj")));
}

TEST_F(LoaderTest, TooLittleMemoryIsResourceExhausted) {
  testing::WriteCheckpoint(folder_, tensors_);
  MemoryBackend small(WeightStorage::kDequantized, /*limit=*/1000);
  EXPECT_THAT(
      LoadWeights(small, folder_.path(), config_, WholeModel(config_, true)),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("the weights want "),
                     HasSubstr("bytes of the memory backend's memory, 1000 of 1000 are free"))));
}

TEST_F(LoaderTest, TooLittlePinnedMemoryIsResourceExhausted) {
  testing::WriteCheckpoint(folder_, tensors_);
  StagedBackend small(WeightStorage::kDequantized, /*pinned=*/1000);
  EXPECT_THAT(LoadWeights(small, folder_.path(), config_, WholeModel(config_, true)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("pinned")));
}

// The same bytes as on a backend where each is written in its place, though every copy comes as
// late as it may.
TEST(Loader, ADeviceGetsTheSameBytesByTwoBuffers) {
  const ModelConfig config = testing::GaplessConfig();
  const Shard shard = ExpertRank(config, /*mtp=*/false, 3, 16);
  RandomTensors tensors(config, shard, /*seed=*/5);
  LoadReport report;
  MemoryBackend host(WeightStorage::kNative);
  StagedBackend device(WeightStorage::kNative);
  const auto want = LoadWeights(host, tensors, config, shard);
  const auto got = LoadWeights(device, tensors, config, shard, &report);
  BALEEN_ASSERT_OK(want);
  BALEEN_ASSERT_OK(got);
  ASSERT_EQ((*want)->memory.bytes(), report.bytes_stored);
  ASSERT_EQ((*got)->memory.bytes(), report.bytes_stored);
  ASSERT_GT(report.bytes_stored, 3 * Upload::kBufferBytes);
  EXPECT_EQ(std::memcmp((*got)->memory.data(), (*want)->memory.data(), (*got)->memory.bytes()), 0);
  EXPECT_EQ(device.most_under_way, Upload::kBuffers);
  EXPECT_EQ(device.synchronizes, 1);
  EXPECT_EQ(device.buffers_alive(), 0u);
}

// Remembers what it was asked for.
class AskedTensors final : public TensorSource {
 public:
  explicit AskedTensors(TensorSource& inner) : inner_(inner) {}
  absl::StatusOr<TensorView> Find(absl::string_view name) override {
    asked.insert(std::string(name));
    return inner_.Find(name);
  }
  std::set<std::string> asked;

 private:
  TensorSource& inner_;
};

// Another rank's experts are neither looked up nor given memory.
TEST(Loader, WhatAShardDoesNotHoldIsNeverTouched) {
  const ModelConfig config = testing::PartialBlockConfig();
  RandomTensors all(config, WholeModel(config, true), /*seed=*/5);
  AskedTensors tensors(all);
  MemoryBackend backend;
  LoadReport whole, rank;
  BALEEN_ASSERT_OK(LoadWeights(backend, all, config, WholeModel(config, true), &whole));
  BALEEN_ASSERT_OK(LoadWeights(backend, tensors, config, ExpertRank(config, true, 1, 2), &rank));
  uint64_t experts = 0;
  for (const std::string& name : all.names()) {
    const bool other =
        name.find(".experts.0.") != name.npos || name.find(".experts.1.") != name.npos;
    EXPECT_EQ(tensors.asked.contains(name), !other) << name;
    if (!other || name.ends_with("_scale_inv")) continue;
    experts += all.Find(name)->bytes() * sizeof(float);  // dequantised
  }
  EXPECT_EQ(whole.bytes_stored - rank.bytes_stored, experts);
}

TEST_F(LoaderTest, AMissingTensorOrScaleIsNamed) {
  for (const char* name : {"self_attn.q_a_proj.weight", "self_attn.q_a_proj.weight_scale_inv",
                           "mlp.gate.e_score_correction_bias"}) {
    tensors_ = testing::RandomCheckpoint(config_);
    tensors_.erase(kLayer + name);
    EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(kLayer + name + " ")));
  }
}

TEST_F(LoaderTest, AMissingShardIsNamed) {
  testing::WriteCheckpoint(folder_, tensors_);
  std::filesystem::remove(folder_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(LoadWeights(backend_, folder_.path(), config_, WholeModel(config_, true)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model-00002-of-00002")));
}

TEST_F(LoaderTest, ATruncatedShardIsNamed) {
  testing::WriteCheckpoint(folder_, tensors_);
  const std::string path = folder_ / "model-00001-of-00002.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_THAT(
      LoadWeights(backend_, folder_.path(), config_, WholeModel(config_, true)),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(path), HasSubstr("truncated"))));
}

TEST_F(LoaderTest, WrongShapesAreRefused) {
  const std::string name = kLayer + "self_attn.o_proj.weight";
  std::swap(tensors_.at(name).shape[0], tensors_.at(name).shape[1]);
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr(name), HasSubstr("shape is [80, 160]"),
                                     HasSubstr("[160, 80]"))));
}

TEST_F(LoaderTest, WrongScaleShapesAreRefused) {
  const std::string name = kLayer + "self_attn.o_proj.weight_scale_inv";
  tensors_.at(name) = {"F32", {1, 1}, std::string(4, '\x3F')};
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr(name), HasSubstr("shape"))));
}

TEST_F(LoaderTest, WrongDTypesAreRefused) {
  const auto as = [&](const std::string& name, const char* dtype, int bytes) {
    tensors_ = testing::RandomCheckpoint(config_);
    auto& t = tensors_.at(name);
    t = {dtype, t.shape, std::string(testing::ElementCount(t.shape) * bytes, '\0')};
    EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr(name), HasSubstr("dtype"), HasSubstr(dtype))));
  };
  as(kLayer + "mlp.gate.weight", "F8_E4M3", 1);
  as("model.norm.weight", "I32", 4);
  as(kLayer + "self_attn.q_a_proj.weight", "F8_E5M2", 1);
  as(kLayer + "self_attn.q_a_proj.weight_scale_inv", "BF16", 2);
}

TEST_F(LoaderTest, ExpertsMustBeStoredAsConfigJsonSays) {
  config_.fp8_experts = false;
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr("mlp.experts.0"), HasSubstr("F8_E4M3"),
                                     HasSubstr("no quantization_config"))));
}

TEST_F(LoaderTest, FusedHalvesOfDifferentDTypesAreRefused) {
  const std::string name = kLayer + "mlp.experts.0.up_proj.weight";
  auto& t = tensors_.at(name);
  t = {"BF16", t.shape, std::string(testing::ElementCount(t.shape) * 2, '\0')};
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(name)));
}

TEST_F(LoaderTest, ScalesThatAreNoPositiveNumbersAreRefused) {
  const std::string name = kLayer + "self_attn.kv_a_proj_with_mqa.weight_scale_inv";
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    std::memcpy(tensors_.at(name).bytes.data() + 4, &bad, 4);
    EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr(name), HasSubstr("element 1"))));
  }
}

TEST_F(LoaderTest, LoadsABf16CheckpointWithoutFp8Inputs) {
  const std::string name = kLayer + "self_attn.q_a_proj.weight";
  auto& t = tensors_.at(name);
  t = {"BF16", t.shape, std::string(testing::ElementCount(t.shape) * 2, '\x3F')};
  BALEEN_ASSERT_OK(Load());
  EXPECT_FALSE(weights_->layers[1].attention.q_a.fp8_input);
  EXPECT_EQ(*static_cast<const float*>(weights_->layers[1].attention.q_a.data),
            kernels::Bf16ToF32(0x3F3F));
}

}  // namespace
}  // namespace baleen::model
