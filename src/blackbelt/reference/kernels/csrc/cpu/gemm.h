// Matrix multiplication that is bound by arithmetic: packing, cache blocking, a register-blocked micro-kernel.
// The order of the loops is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008).
#pragma once

#include "rows.h"

namespace blackbelt {

// The micro-kernel keeps kRows × kPanel results in registers: of the 32 of AVX-512 28 hold results, two a row of B and
// one a broadcast element of A; of the 16 of AVX2 and NEON's 32 narrower ones 12 do.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRows = 14;
#else
constexpr int kRows = 6;
#endif
constexpr int kVectors = 2;
template <typename W>
constexpr int kPanel = kVectors * at::vec::Vectorized<W>::size();

constexpr int64_t kDepth = 256;            // of a block of A and B: a panel of B, kDepth × kPanel, fits the L1 cache
constexpr int64_t kHeight = 12 * kRows;    // of a block of A, which fits the L2 cache
constexpr int64_t kWidth = 2048;           // of a block of B, which fits the L3 cache

// c[i][:] += Σ_k a[k][i]·b[k][:] for kRows rows. a and b are packed: read in order, from the first byte to the last.
template <typename W>
inline void micro_kernel(int64_t depth, const W* a, const W* b, W* c, int64_t stride) {
  using V = at::vec::Vectorized<W>;
  V sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      sums[i][j] = V(0);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    const V first = V::loadu(b), second = V::loadu(b + V::size());
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const V scalar(a[i]);
      sums[i][0] = at::vec::fmadd(scalar, first, sums[i][0]);
      sums[i][1] = at::vec::fmadd(scalar, second, sums[i][1]);
    }
    a += kRows;
    b += kPanel<W>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      W* const to = c + i * stride + j * V::size();
      (V::loadu(to) + sums[i][j]).store(to);
    }
  }
}

// The same in steps of few k: a long sum is one of short ones, and its error that of these.
template <typename W>
inline void multiply(int64_t depth, const W* a, const W* b, W* c, int64_t stride) {
  constexpr int64_t kShort = 64;
  for (int64_t k = 0; k < depth; k += kShort) {
    micro_kernel(std::min(kShort, depth - k), a + k * kRows, b + k * kPanel<W>, c, stride);
  }
}

// Block of A, `height` rows from `a`, as panels of kRows rows, depth after depth; rows past the end are 0.
template <typename W, typename T>
void pack_a(int64_t height, int64_t depth, const T* a, int64_t stride, W* packed) {
  for (int64_t top = 0; top < height; top += kRows) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < kRows; ++i) {
        *packed++ = top + i < height ? static_cast<W>(a[(top + i) * stride + k]) : W(0);
      }
    }
  }
}

// Block of B as panels of kPanel columns, depth after depth; columns past the end are 0.
template <typename W, typename T>
void pack_b(int64_t depth, int64_t width, const T* b, int64_t stride, W* packed) {
  const int64_t panels = (width + kPanel<W> - 1) / kPanel<W>;
  at::parallel_for(0, panels, 4, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t left = panel * kPanel<W>, count = std::min<int64_t>(kPanel<W>, width - left);
      W* to = packed + left * depth;
      for (int64_t k = 0; k < depth; ++k) {
        const T* from = b + k * stride + left;
        for (int64_t j = 0; j < kPanel<W>; ++j) {
          *to++ = j < count ? static_cast<W>(from[j]) : W(0);
        }
      }
    }
  });
}

// C += A·B in W, with A (m, k) and B (k, n) of T; each with the stride of its rows.
template <typename W, typename T>
void gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b, int64_t b_stride, W* c, int64_t c_stride) {
  const auto rounded = [](int64_t size, int64_t to) { return (size + to - 1) / to * to; };
  std::vector<W> block_b(static_cast<size_t>(rounded(std::min(n, kWidth), kPanel<W>) * std::min(k, kDepth)));
  for (int64_t left = 0; left < n; left += kWidth) {
    const int64_t width = std::min(kWidth, n - left);
    for (int64_t deep = 0; deep < k; deep += kDepth) {
      const int64_t depth = std::min(kDepth, k - deep);
      pack_b<W>(depth, width, b + deep * b_stride + left, b_stride, block_b.data());
      at::parallel_for(0, (m + kHeight - 1) / kHeight, 1, [&](int64_t first, int64_t last) {
        std::vector<W> block_a(static_cast<size_t>(kHeight * depth));
        W corner[kRows * kPanel<W>];
        for (int64_t top = first * kHeight; top < std::min(m, last * kHeight); top += kHeight) {
          const int64_t height = std::min(kHeight, m - top);
          pack_a<W>(height, depth, a + top * a_stride + deep, a_stride, block_a.data());
          for (int64_t column = 0; column < width; column += kPanel<W>) {
            for (int64_t row = 0; row < height; row += kRows) {
              W* const to = c + (top + row) * c_stride + left + column;
              const W* const of_a = block_a.data() + row * depth;
              const W* const of_b = block_b.data() + column * depth;
              const int64_t here = std::min<int64_t>(kRows, height - row), wide = std::min<int64_t>(kPanel<W>, width - column);
              if (here == kRows && wide == kPanel<W>) {
                multiply(depth, of_a, of_b, to, c_stride);
                continue;
              }
              std::fill_n(corner, kRows * kPanel<W>, W(0));  // an edge of C: through a buffer of full size
              multiply(depth, of_a, of_b, corner, kPanel<W>);
              for (int64_t i = 0; i < here; ++i) {
                for (int64_t j = 0; j < wide; ++j) {
                  to[i * c_stride + j] += corner[i * kPanel<W> + j];
                }
              }
            }
          }
        }
      });
    }
  }
}

}  // namespace blackbelt
