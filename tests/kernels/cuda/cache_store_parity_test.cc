#include "kernels/cuda/parity.h"

namespace baleen::kernels {
namespace {

using testing::SetSpecialRows;
using testing::TestCache;
using testing::TestMatrix;

constexpr DType kBf16 = DType::kBf16;

class CacheStoreParity : public testing::GpuTest {
 protected:
  // The rows that the op is to store, on the device.
  RowMap DeviceRows(const TestCache& cache, int sequences) {
    return Upload(cache.rows(), sequences);
  }
  // Byte for byte, what was not stored included: the pools are full of 0xFF.
  void ExpectSamePool(const LayerCache& device, const TestCache& want) {
    const std::vector<std::byte> pool = Download(device.pool, want.bytes().size());
    for (size_t i = 0; i < pool.size(); ++i) {
      ASSERT_EQ(pool[i], want.bytes()[i])
          << "byte " << i % device.page_bytes << " of page " << i / device.page_bytes;
    }
  }
};

// Rows in no order, from several sequences; first and last tokens of pages.
std::vector<std::pair<int, int>> ScatteredRows() {
  return {{2, 63}, {0, 0}, {1, 64}, {0, 129}, {0, 63}, {1, 69}, {2, 1}, {0, 64}, {1, 0}, {2, 62}};
}

Matrix Columns(Matrix m, int first, int cols) {
  m.data = static_cast<std::byte*>(m.data) + first * sizeof(uint16_t);
  m.cols = cols;
  return m;
}

TEST_F(CacheStoreParity, LatentsOfAWiderMatrixGiveTheBytesOfTheCpu) {
  for (int layer : {0, 1, 2}) {
    TestCache cache(Numerics::kFp8, {130, 70, 64}, layer);
    cache.SetRows(ScatteredRows());
    const int rows = cache.rows().rows;
    TestMatrix kv = TestMatrix::Random(rows, 576, 1 + layer, kBf16);
    SetSpecialRows(kv, /*nan=*/true);
    const LayerCache device = Upload(cache);  // before the CPU writes
    const Matrix kv_device = Upload(kv);
    gpu_->StoreLatent(
        {Columns(kv_device, 0, 512), Columns(kv_device, 512, 64), device, DeviceRows(cache, 3)});
    cpu_->StoreLatent(
        {Columns(kv.view(), 0, 512), Columns(kv.view(), 512, 64), cache.cache(), cache.rows()});
    ExpectSamePool(device, cache);
  }
}

TEST_F(CacheStoreParity, LatentsAtEveryAlignmentAndNumberOfRows) {
  for (int padding : {0, 4, 8}) {
    for (int rows : {1, 2, 5, 131}) {
      TestCache cache(Numerics::kFp8, {300});
      cache.SetRows(0, 100, 100 + rows);
      TestMatrix latent = TestMatrix::Random(rows, 512, rows, kBf16, padding);
      SetSpecialRows(latent, /*nan=*/true);
      const TestMatrix rope = TestMatrix::Random(rows, 64, 9, kBf16, padding);
      const LayerCache device = Upload(cache);
      gpu_->StoreLatent({Upload(latent), Upload(rope), device, DeviceRows(cache, 1)});
      cpu_->StoreLatent({latent.view(), rope.view(), cache.cache(), cache.rows()});
      ExpectSamePool(device, cache);
    }
  }
}

TEST_F(CacheStoreParity, IndexKeysGiveTheBytesOfTheCpu) {
  for (int padding : {0, 4, 64}) {
    TestCache cache(Numerics::kFp8, {130, 70, 64}, /*layer=*/padding == 0 ? 0 : 2);
    cache.SetRows(ScatteredRows());
    const int rows = cache.rows().rows;
    TestMatrix keys = TestMatrix::Random(rows, 128, 3, kBf16, padding);
    SetSpecialRows(keys, /*nan=*/true);
    const LayerCache device = Upload(cache);
    gpu_->StoreIndexKeys({Upload(keys), device, DeviceRows(cache, 3)});
    cpu_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
    ExpectSamePool(device, cache);
  }
}

TEST_F(CacheStoreParity, IndexKeysOfAnyNumberOfRows) {
  for (int rows : {1, 2, 7, 8, 9, 200}) {
    TestCache cache(Numerics::kFp8, {300});
    cache.SetRows(0, 50, 50 + rows);
    const TestMatrix keys = TestMatrix::Random(rows, 128, rows, kBf16);
    const LayerCache device = Upload(cache);
    gpu_->StoreIndexKeys({Upload(keys), device, DeviceRows(cache, 1)});
    cpu_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
    ExpectSamePool(device, cache);
  }
}

// Both parts of a layer; what one op stored the other leaves alone. A second step adds to it.
TEST_F(CacheStoreParity, TheOpsOfTwoStepsShareAPage) {
  TestCache cache(Numerics::kFp8, {90, 40});
  const LayerCache device = Upload(cache);
  for (const auto& [begin, end] : {std::pair{0, 61}, {61, 90}}) {
    cache.SetRows(0, begin, end);
    const TestMatrix latent = TestMatrix::Random(end - begin, 512, begin + 1, kBf16);
    const TestMatrix rope = TestMatrix::Random(end - begin, 64, begin + 2, kBf16);
    const TestMatrix keys = TestMatrix::Random(end - begin, 128, begin + 3, kBf16);
    const RowMap rows = DeviceRows(cache, 2);
    gpu_->StoreLatent({Upload(latent), Upload(rope), device, rows});
    gpu_->StoreIndexKeys({Upload(keys), device, rows});
    cpu_->StoreLatent({latent.view(), rope.view(), cache.cache(), cache.rows()});
    cpu_->StoreIndexKeys({keys.view(), cache.cache(), cache.rows()});
  }
  ExpectSamePool(device, cache);
}

TEST_F(CacheStoreParity, NoRowsWriteNothing) {
  TestCache cache(Numerics::kFp8, {64});
  cache.SetRows(std::vector<std::pair<int, int>>{});
  const LayerCache device = Upload(cache);
  const TestMatrix latent(0, 512, kBf16), rope(0, 64, kBf16), keys(0, 128, kBf16);
  gpu_->StoreLatent({latent.view(), rope.view(), device, cache.rows()});
  gpu_->StoreIndexKeys({keys.view(), device, cache.rows()});
  ExpectSamePool(device, cache);
}

using CacheStoreParityDeath = CacheStoreParity;

TEST_F(CacheStoreParityDeath, RefusesWhatItCannotServe) {
  TestCache exact(Numerics::kExact, {64});
  exact.SetRows(0, 0, 1);
  EXPECT_DEATH(
      gpu_->StoreIndexKeys({TestMatrix(1, 128, kBf16).view(), exact.cache(), exact.rows()}),
      "computes in fp8");
  TestCache narrow(Numerics::kFp8, {64}, /*layer=*/0, /*kv_lora=*/128);
  narrow.SetRows(0, 0, 1);
  EXPECT_DEATH(gpu_->StoreLatent({TestMatrix(1, 128, kBf16).view(), TestMatrix(1, 64, kBf16).view(),
                                  narrow.cache(), narrow.rows()}),
               "512 latents");
}

}  // namespace
}  // namespace baleen::kernels
