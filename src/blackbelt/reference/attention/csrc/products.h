// Products of small matrices with free strides, and powers of 2: what a tile of attention is made of.
//
// A tile of scores is kept transposed, keys down and queries across, a query to a lane. So maxima and sums over the keys
// need no lane to know of another, keys and values are read where they lie, and of all operands only the queries (and
// in the backward the gradient of the result) are packed.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

namespace blackbelt {

using V = at::vec::Vectorized<float>;
constexpr int64_t kLanes = V::size();

// Room of a thread, taken from PyTorch's allocator: what measures memory there sees it.
class Room {
 public:
  explicit Room(int64_t size) : tensor_(at::empty({size}, at::kFloat)), data_(tensor_.mutable_data_ptr<float>()) {}
  float* data() const { return data_; }

 private:
  at::Tensor tensor_;
  float* data_;
};

// The micro-kernel keeps kRows × kPanel sums in registers: 28 of the 32 of AVX-512, 12 of the 16 of AVX2.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRows = 14;
#else
constexpr int kRows = 6;
#endif
constexpr int64_t kPanel = 2 * kLanes;
constexpr int64_t kKeys = 16 * kRows;     // of a tile
constexpr int64_t kQueries = 3 * kPanel;  // of a tile: with kKeys, 86 KB that stay in the L2 cache

// One head of a tensor (length, size), the elements of a row side by side.
template <typename T>
struct Head {
  T* data;
  int64_t stride;

  Head(T* tensor, const at::Tensor& of, int64_t batch, int64_t head)
      : data(tensor + batch * of.stride(0) + head * of.stride(1)), stride(of.stride(2)) {}
  T* operator[](int64_t row) const { return data + row * stride; }
};

// c[i][:] = Σ_k a[i·a_row + k·a_depth]·b[k][:] for Rows rows and one panel of columns; added to c where Adds.
template <int Rows, bool Adds>
inline void micro_kernel(
    int64_t depth, const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  V sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    sums[i][0] = sums[i][1] = V(0);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const V first = V::loadu(b), second = V::loadu(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V scalar(a[i * a_row]);
      sums[i][0] = at::vec::fmadd(scalar, first, sums[i][0]);
      sums[i][1] = at::vec::fmadd(scalar, second, sums[i][1]);
    }
    a += a_depth;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < 2; ++j) {
      float* const to = c + i * c_stride + j * kLanes;
      (Adds ? V::loadu(to) + sums[i][j] : sums[i][j]).store(to);
    }
  }
}

// The same for whole matrices: any number of rows, a multiple of kPanel columns. Each tile is summed from zero and then
// added, so that a long sum is one of short ones, and its error that of these.
template <bool Adds>
inline void product(
    int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, int64_t a_depth, const float* b,
    int64_t b_stride, float* c, int64_t c_stride) {
  using Kernel = decltype(&micro_kernel<1, Adds>);
  static constexpr auto kernels = []<int... I>(std::integer_sequence<int, I...>) {
    return std::array<Kernel, kRows>{&micro_kernel<I + 1, Adds>...};  // by the number of rows
  }(std::make_integer_sequence<int, kRows>{});
  for (int64_t left = 0; left < columns; left += kPanel) {
    for (int64_t top = 0; top < rows; top += kRows) {
      kernels[std::min<int64_t>(kRows, rows - top) - 1](
          depth, a + top * a_row, a_row, a_depth, b + left, b_stride, c + top * c_stride + left, c_stride);
    }
  }
}

// 2^x, to 1e-7 of it; 0 below 2^-149; NaN for NaN.
inline V power_of_2(V x) {
#if defined(CPU_CAPABILITY_AVX512)
  x = at::vec::clamp_min(x, V(-150.f));
  const V whole = x.round(), rest = x - whole;  // between -1/2 and 1/2, where the Taylor series of 2^x is short
  V power(1.5403530e-4f);
  for (const float coefficient : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.f}) {
    power = at::vec::fmadd(power, rest, V(coefficient));
  }
  return _mm512_scalef_ps(power, whole);
#else
  return at::vec::clamp_min(x, V(-150.f)).exp2();
#endif
}

// Rows of a head as panels, one query a lane: packed[panel][d][lane] = factor·row[d]; lanes past the end are 0.
inline void pack(const Head<const float>& head, int64_t first, int64_t rows, int64_t size, float factor, float* packed) {
  std::fill_n(packed, kQueries * size, 0.f);
  for (int64_t i = 0; i < rows; ++i) {
    float* const to = packed + i / kPanel * kPanel * size + i % kPanel;
    for (int64_t d = 0; d < size; ++d) {
      to[d * kPanel] = factor * head[first + i][d];
    }
  }
}

// Tile of scores: keys [first, first + count) against the packed queries.
inline void scores(
    const Head<const float>& key, int64_t first, int64_t count, int64_t size, int64_t queries, const float* packed, float* tile) {
  for (int64_t left = 0; left < queries; left += kPanel) {
    product<false>(count, kPanel, size, key[first], key.stride, 1, packed + left * size, kPanel, tile + left, kQueries);
  }
}

// −inf where key `first + j` comes after query `row + i`; j down, i across.
inline void hide_future(float* tile, int64_t first, int64_t count, int64_t row, int64_t queries) {
  for (int64_t j = std::max<int64_t>(0, row + 1 - first); j < count; ++j) {
    std::fill_n(tile + j * kQueries, std::min(queries, first + j - row), -std::numeric_limits<float>::infinity());
  }
}

// body(item) for every item, each thread taking the next one when it is free: under a causal mask they differ in size.
template <typename Body>
inline void share_out(int64_t items, Body body) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), items);
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t item = next++; item < items; item = next++) {
      body(item);
    }
  });
}

}  // namespace blackbelt
