#include <cmath>
#include <cstring>

#include "kernels/test_cache.h"

namespace baleen::kernels {
namespace {

using testing::TestCache;
using testing::TestMatrix;

class CacheStore : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend(2);
};

TEST_F(CacheStore, ExactKeepsEveryBit) {
  TestCache cache(Numerics::kExact, {130, 70});
  cache.SetRows({{0, 0}, {0, 63}, {0, 64}, {0, 129}, {1, 69}});
  const TestMatrix latent = TestMatrix::Random(5, 512, 1), rope = TestMatrix::Random(5, 64, 2);
  const TestMatrix keys = TestMatrix::Random(5, 128, 3);
  backend_->StoreLatent({latent.view(), rope.view(), cache.cache(), cache.rows()});
  backend_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
  const RowMap rows = cache.rows();
  for (int r = 0; r < 5; ++r) {
    const int s = rows.sequences[r], p = rows.positions[r];
    for (int d = 0; d < 576; ++d) {
      ASSERT_EQ(cache.Latent(s, p, d), d < 512 ? latent.At(r, d) : rope.At(r, d - 512));
    }
    for (int d = 0; d < 128; ++d) ASSERT_EQ(cache.Key(s, p, d), keys.At(r, d));
  }
  EXPECT_TRUE(std::isnan(cache.Latent(0, 1, 0))) << "other tokens stay untouched";
  EXPECT_TRUE(std::isnan(cache.Key(1, 68, 127)));
}

TEST_F(CacheStore, Fp8RoundTripIsTheQuantizedValue) {
  TestCache cache(Numerics::kFp8, {200});
  cache.SetRows({{0, 5}, {0, 191}});
  const TestMatrix latent = TestMatrix::Random(2, 512, 1, DType::kBf16);
  const TestMatrix rope = TestMatrix::Random(2, 64, 2, DType::kBf16);
  const TestMatrix keys = TestMatrix::Random(2, 128, 3, DType::kBf16);
  backend_->StoreLatent({latent.view(), rope.view(), cache.cache(), cache.rows()});
  backend_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
  testing::TestQuantized latent_q(2, 512), keys_q(2, 128);
  backend_->Quantize({latent.view(), latent_q.view()});
  backend_->Quantize({keys.view(), keys_q.view()});
  for (int r = 0; r < 2; ++r) {
    const int p = r == 0 ? 5 : 191;
    for (int d = 0; d < 512; ++d) ASSERT_EQ(cache.Latent(0, p, d), latent_q.At(r, d));
    for (int d = 0; d < 64; ++d) ASSERT_EQ(cache.Latent(0, p, 512 + d), rope.At(r, d));
    for (int d = 0; d < 128; ++d) ASSERT_EQ(cache.Key(0, p, d), keys_q.At(r, d));
  }
}

// Addresses as section 5.2 and 5.3 give them, in bytes of the pool.
TEST_F(CacheStore, Fp8BytesLieWhereTheLayoutSays) {
  TestCache cache(Numerics::kFp8, {64}, /*layer=*/2);
  cache.SetRows({{0, 10}});
  TestMatrix latent(1, 512, DType::kBf16), rope(1, 64, DType::kBf16), keys(1, 128, DType::kBf16);
  for (int d = 0; d < 512; ++d) latent.Set(0, d, d / 128 == 2 ? 448.0f * 4 : 448.0f);
  for (int d = 0; d < 64; ++d) rope.Set(0, d, 1.0f);
  for (int d = 0; d < 128; ++d) keys.Set(0, d, 224.0f);
  backend_->StoreLatent({latent.view(), rope.view(), cache.cache(), cache.rows()});
  backend_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
  const std::byte* layer = cache.bytes().data() + 2 * 50432;  // one page only
  const std::byte* row = layer + 10 * 656;
  EXPECT_EQ(TestCache::Load<uint8_t>(row + 511), 0x7E);
  EXPECT_EQ(TestCache::Load<float>(row + 512 + 4), 1.0f);
  EXPECT_EQ(TestCache::Load<float>(row + 512 + 8), 4.0f);
  EXPECT_EQ(TestCache::Load<uint16_t>(row + 528 + 126), 0x3F80);
  const std::byte* index = layer + 64 * 656;
  EXPECT_EQ(TestCache::Load<uint8_t>(index + 10 * 128), 0x7E);
  EXPECT_EQ(TestCache::Load<float>(index + 8192 + 10 * 4), 0.5f);
  size_t written = 0;
  for (std::byte b : cache.bytes()) written += b != std::byte{0xFF};
  EXPECT_EQ(written, 656u + 132u);
}

TEST_F(CacheStore, NoRowsWritesNothing) {
  TestCache cache(Numerics::kExact, {64});
  cache.SetRows(std::vector<std::pair<int, int>>{});
  backend_->StoreLatent(
      {TestMatrix(0, 512).view(), TestMatrix(0, 64).view(), cache.cache(), cache.rows()});
  backend_->StoreIndexKeys({TestMatrix(0, 128).view(), cache.cache(), cache.rows()});
  for (std::byte b : cache.bytes()) ASSERT_EQ(b, std::byte{0xFF});
}

}  // namespace
}  // namespace baleen::kernels
