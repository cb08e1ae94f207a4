#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include "kernels/cuda/check.h"

namespace baleen::kernels::cuda::indexer {

inline constexpr int kTileRowBytes = 128;

// Bytes [z, y, kTileRowBytes] in device memory.
struct TileTensor {
  const void* data;  // 16-byte aligned, as are the strides
  uint64_t y;
  uint64_t z;
  uint64_t y_stride;  // bytes
  uint64_t z_stride;
};

// How the copy engine fetches boxes of box_z x box_y rows: as an operand of wgmma wants them,
// 128-byte swizzled. Boxes may reach beyond the tensor: what is not there becomes zero.
inline CUtensorMap MakeTileMap(const TileTensor& tensor, uint32_t box_y, uint32_t box_z) {
  // From the driver by name, so that nothing links against it.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    BALEEN_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                       cudaEnableDefault, &found));
    BALEEN_CHECK_MSG(found == cudaDriverEntryPointSuccess, "cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  const cuuint64_t size[] = {kTileRowBytes, tensor.y, tensor.z};
  const cuuint64_t strides[] = {tensor.y_stride, tensor.z_stride};
  const cuuint32_t box[] = {kTileRowBytes, box_y, box_z};
  const cuuint32_t steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<void*>(tensor.data), size, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  BALEEN_CHECK_MSG(result == CUDA_SUCCESS, "a tensor map's data or strides are misaligned");
  return map;
}

}  // namespace baleen::kernels::cuda::indexer
