// GELU(input + bias), the exact one: x * Phi(x) with Phi(x) = (1 + erf(x / sqrt(2))) / 2; and its backward.
#pragma once

#include "columns.cuh"

namespace blackbelt {

template <typename W>
__device__ inline W normal_cdf(W x) {
  return W(0.5) * (W(1) + erf_of(x * W(0.70710678118654752440)));
}

// Derivative of x * Phi(x): Phi(x) + x * phi(x), phi the density of the normal distribution.
template <typename W>
__device__ inline W gelu_slope(W x) {
  return normal_cdf(x) + x * W(0.39894228040143267794) * exp_of(W(-0.5) * x * x);
}

// A thread keeps to its N columns and walks down the rows: the bias is loaded once, and no index is divided.
template <typename T, int N>
__global__ void __launch_bounds__(COLUMN_THREADS)
    bias_gelu(const T* input, const T* bias, T* out, Index rows, Index columns, Index per_group) {
  using W = Wide<T>;
  const auto place = column_place<N>(rows, columns, per_group);
  if (place.column >= columns) return;  // no barrier follows
  const auto b = load<N>(bias + place.column);
  for (Index row = place.first_row; row < place.last_row; row += COLUMN_ROWS) {
    auto vector = load<N>(input + row * columns + place.column);
    for (int i = 0; i < N; ++i) {
      const W x = widen(vector.values[i]) + widen(b.values[i]);
      vector.values[i] = narrow<T>(x * normal_cdf(x));
    }
    store<N>(out + row * columns + place.column, vector);
  }
}

// The gradient of the bias is a sum over rows: each block leaves one partial sum for each of its columns.
template <typename T, int N>
__global__ void __launch_bounds__(COLUMN_THREADS)
    bias_gelu_backward(const T* grad, const T* input, const T* bias, T* grad_input, Wide<T>* partial, Index rows,
                       Index columns, Index per_group) {
  using W = Wide<T>;
  const auto place = column_place<N>(rows, columns, per_group);
  W sums[N] = {};
  if (place.column < columns) {
    const auto b = load<N>(bias + place.column);
    for (Index row = place.first_row; row < place.last_row; row += COLUMN_ROWS) {
      const auto x = load<N>(input + row * columns + place.column);
      auto g = load<N>(grad + row * columns + place.column);
      for (int i = 0; i < N; ++i) {
        const W slope = widen(g.values[i]) * gelu_slope(widen(x.values[i]) + widen(b.values[i]));
        sums[i] += slope;
        g.values[i] = narrow<T>(slope);
      }
      store<N>(grad_input + row * columns + place.column, g);
    }
  }
  store_partial_sums<N>(sums, partial, columns, place);
}

}  // namespace blackbelt
