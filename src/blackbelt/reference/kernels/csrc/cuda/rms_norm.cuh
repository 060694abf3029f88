// RMSNorm: out = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps) of every row; and its backward.
#pragma once

#include "columns.cuh"

namespace blackbelt {

template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP < 256 ? 256 : GROUP)
    rms_norm(const T* input, const T* weight, double eps, T* out, Wide<T>* rstd, Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    const T* x = input + row * columns;
    LongSum<W> squares;
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      const auto vector = load<N>(x + c);
      for (int i = 0; i < N; ++i) squares.add(widen(vector.values[i]) * widen(vector.values[i]));
    }
    const W scale = reciprocal_root(sum_over_group<GROUP>(squares.value()) / W(columns) + W(eps));
    if (threadIdx.x == 0) rstd[row] = scale;
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {  // from the cache
      auto vector = load<N>(x + c);
      const auto w = load<N>(weight + c);
      for (int i = 0; i < N; ++i) vector.values[i] = narrow<T>(widen(vector.values[i]) * scale * widen(w.values[i]));
      store<N>(out + row * columns + c, vector);
    }
  }
}

// With n = x * rstd and g = grad * weight: grad_input = rstd * (g - n * mean(g * n)), grad_weight = sum(grad * n).
//
// Where a row fits into registers, one pass makes both: a group walks over many rows, keeps the sums of its columns in
// registers, and leaves them as one row of the partial sums.
template <typename T, int N, int GROUP, int ITEMS>
__global__ void __launch_bounds__(256)
    rms_norm_backward_in_registers(const T* grad, const T* input, const T* weight, const Wide<T>* rstd, T* grad_input,
                                   Wide<T>* partial, Index rows, Index columns) {
  using W = Wide<T>;
  W sums[ITEMS][N] = {};
  const Index group = Index(blockIdx.x) * blockDim.y + threadIdx.y;
  for (Index row = group; row < rows; row += Index(gridDim.x) * blockDim.y) {
    const W scale = rstd[row];
    Vector<T, N> gs[ITEMS], xs[ITEMS];  // not widened: half the registers for half precision
    W dot = 0;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const Index c = Index(item * GROUP + threadIdx.x) * N;
      if (c >= columns) break;
      gs[item] = load<N>(grad + row * columns + c);
      xs[item] = load<N>(input + row * columns + c);
      const auto w = load<N>(weight + c);
      for (int i = 0; i < N; ++i) {
        const W along = widen(gs[item].values[i]) * (widen(xs[item].values[i]) * scale);
        sums[item][i] += along;
        dot += along * widen(w.values[i]);
      }
    }
    const W mean = sum_over_group<GROUP>(dot) / W(columns);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const Index c = Index(item * GROUP + threadIdx.x) * N;
      if (c >= columns) break;
      const auto w = load<N>(weight + c);
      for (int i = 0; i < N; ++i) {
        const W n = widen(xs[item].values[i]) * scale, g = widen(gs[item].values[i]) * widen(w.values[i]);
        gs[item].values[i] = narrow<T>(scale * (g - n * mean));
      }
      store<N>(grad_input + row * columns + c, gs[item]);
    }
  }
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    const Index c = Index(item * GROUP + threadIdx.x) * N;
    if (c >= columns) break;
    for (int i = 0; i < N; ++i) partial[group * columns + c + i] = sums[item][i];
  }
}

// Longer rows: the two gradients are two kernels, because one goes along the rows and the other down the columns.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP)
    rms_norm_backward_input(const T* grad, const T* input, const T* weight, const Wide<T>* rstd, T* grad_input,
                            Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
    const W scale = rstd[row];
    LongSum<W> dot;
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      const auto g = load<N>(grad + row * columns + c), x = load<N>(input + row * columns + c);
      const auto w = load<N>(weight + c);
      for (int i = 0; i < N; ++i) dot.add(widen(g.values[i]) * widen(w.values[i]) * (widen(x.values[i]) * scale));
    }
    const W mean = sum_over_group<GROUP>(dot.value()) / W(columns);
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      auto g = load<N>(grad + row * columns + c);
      const auto x = load<N>(input + row * columns + c), w = load<N>(weight + c);
      for (int i = 0; i < N; ++i) {
        const W n = widen(x.values[i]) * scale;
        g.values[i] = narrow<T>(scale * (widen(g.values[i]) * widen(w.values[i]) - n * mean));
      }
      store<N>(grad_input + row * columns + c, g);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(COLUMN_THREADS)
    rms_norm_backward_weight(const T* grad, const T* input, const Wide<T>* rstd, Wide<T>* partial, Index rows,
                             Index columns, Index per_group) {
  const auto place = column_place<N>(rows, columns, per_group);
  Wide<T> sums[N] = {};
  if (place.column < columns) {
    for (Index row = place.first_row; row < place.last_row; row += COLUMN_ROWS) {
      const auto g = load<N>(grad + row * columns + place.column), x = load<N>(input + row * columns + place.column);
      for (int i = 0; i < N; ++i) sums[i] += widen(g.values[i]) * (widen(x.values[i]) * rstd[row]);
    }
  }
  store_partial_sums<N>(sums, partial, columns, place);
}

}  // namespace blackbelt
