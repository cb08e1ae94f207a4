#pragma once

#include <cstdint>

// The vector primitives of the CPU backend. Each is compiled for several instruction sets and
// chosen at run time (Highway), so that one generic x86-64 binary uses what the machine has.
//
// Batch invariance: every result depends on its own operands only, never on how many rows or
// columns stand beside it, and sums run in a fixed order. So a token's numbers do not change with
// the batch, chunk, rank or number of threads it is computed with. (They may differ between
// machines with different instruction sets.)
//
// Nothing here needs alignment. Outputs may be an input where the same index is read and written.
namespace baleen::kernels::simd {

// c[i, j] = a[i] . b[j], i < m, j < n, over k elements (y = x W^T). c is overwritten.
void MultiplyTransposed(const float* a, int64_t lda, int m, const float* b, int64_t ldb, int n,
                        int k, float* c, int64_t ldc);
// The same with the rows of b anywhere in memory.
void MultiplyTransposed(const float* a, int64_t lda, int m, const float* const* b, int n, int k,
                        float* c, int64_t ldc);

// c[i, j] += sum_s a[i, s] * b[s][j], i < m, j < n, s < k in ascending order.
void MultiplyAccumulate(const float* a, int64_t lda, int m, const float* const* b, int k, int n,
                        float* c, int64_t ldc);

// The indexer's keys of one page, [count, dim], as columns: out is [dim, kPageTokens], zero beyond
// count.
void TransposeKeys(const float* keys, int count, int dim, float* out);
// scores[s] = sum_h weights[h] * max(0, q[h] . key s), s < kPageTokens. q is [heads, dim], keys as
// TransposeKeys leaves them. A product is summed over the dimensions in order, then the heads.
void ScoreKeys(const float* q, int heads, int dim, const float* keys, const float* weights,
               float* scores);

void Bf16ToF32(const uint16_t* x, int64_t n, float* out);
void F32ToBf16(const float* x, int64_t n, uint16_t* out);
void RoundToBf16(float* x, int64_t n);
// out = e4m3(q) * scale
void DecodeE4m3(const uint8_t* q, int64_t n, float scale, float* out);
// One group: q = e4m3(x / s), returns s = QuantScale(max |x|).   (4.1)
float QuantizeGroup(const float* x, int n, uint8_t* q);

float SumOfSquares(const float* x, int64_t n);
float Sum(const float* x, int64_t n);
float Max(const float* x, int64_t n);                               // -inf when n == 0
void Add(const float* x, const float* y, int64_t n, float* out);    // out = x + y
void Scale(float factor, float* x, int64_t n);                      // x *= factor
void AddScaled(const float* x, float factor, int64_t n, float* y);  // y += factor * x
void MultiplyScaled(const float* x, const float* weight, float factor, int64_t n,
                    float* out);  // out = x * factor * weight
// x = exp(x - max); returns the sum. -inf gives 0.
float ExpAndSum(float max, float* x, int64_t n);
void SiluMul(const float* gate, const float* up, int64_t n, float* out);
// In place, one group of 128 elements.
void Hadamard128(float* x);
// (a, b) -> (a cos - b sin, a sin + b cos) for `pairs` pairs, in place: (x[2j], x[2j+1]) when
// interleaved, else (x[j], x[j + pairs]).
void Rotate(float* x, int pairs, bool interleaved, const float* cos, const float* sin);

// Positions of the k largest of n > k values, ascending; of equal ones the lower position, NaN
// last. scratch: 2 n elements.
void SelectLargest(const float* x, int n, int k, uint32_t* scratch, int32_t* out);

}  // namespace baleen::kernels::simd
