// Softmax of every row, and its backward.
#pragma once

#include "online.cuh"

namespace blackbelt {

// Where a row fits into the registers of its group, it is read once and written once: the least any softmax can move.
// ITEMS vectors of N numbers for each thread; GROUP * N * ITEMS >= columns.
template <typename T, int N, int GROUP, int ITEMS>
__global__ void __launch_bounds__(GROUP < 256 ? 256 : GROUP)
    softmax_in_registers(const T* input, T* out, Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    W x[ITEMS][N];
    W largest = -infinity<W>();
#pragma unroll  // constant indices only: an array indexed by a variable would lie in (slow) local memory
    for (int item = 0; item < ITEMS; ++item) {
      const Index c = Index(item * GROUP + threadIdx.x) * N;
      if (c < columns) {
        const auto vector = load<N>(input + row * columns + c);
        for (int i = 0; i < N; ++i) x[item][i] = widen(vector.values[i]);
      } else {
        for (int i = 0; i < N; ++i) x[item][i] = -infinity<W>();  // adds nothing
      }
      for (int i = 0; i < N; ++i) largest = larger(largest, x[item][i]);
    }
    Online<W> seen = {largest, W(0)};
#pragma unroll
    for (int item = 0; item < ITEMS; ++item)
      for (int i = 0; i < N; ++i) seen.total += term(x[item][i], largest);
    seen = over_group<GROUP, MergeOnline>(seen, nothing_seen<W>());
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const Index c = Index(item * GROUP + threadIdx.x) * N;
      if (c >= columns) break;
      Vector<T, N> vector;
      for (int i = 0; i < N; ++i) vector.values[i] = narrow<T>(exp_of(x[item][i] - seen.largest) / seen.total);
      store<N>(out + row * columns + c, vector);
    }
  }
}

// A longer row is read twice: online, then once more to write. 2^20 columns are only more rounds of the loop.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP) softmax_in_two_passes(const T* input, T* out, Index rows, Index columns) {
  for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* x = input + row * columns;
    const auto seen = online_over_row<GROUP, N>(x, columns);
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      auto vector = load<N>(x + c);
      for (int i = 0; i < N; ++i)
        vector.values[i] = narrow<T>(exp_of(widen(vector.values[i]) - seen.largest) / seen.total);
      store<N>(out + row * columns + c, vector);
    }
  }
}

// grad_input = (grad - sum(grad * out)) * out. The second pass finds a row that was just read in the cache.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP < 256 ? 256 : GROUP)
    softmax_backward(const T* grad, const T* out, T* grad_input, Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    const T* g = grad + row * columns;
    const T* y = out + row * columns;
    LongSum<W> dots;
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      const auto gs = load<N>(g + c), ys = load<N>(y + c);
      for (int i = 0; i < N; ++i) dots.add(widen(gs.values[i]) * widen(ys.values[i]));
    }
    const W dot = sum_over_group<GROUP>(dots.value());
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      const auto gs = load<N>(g + c), ys = load<N>(y + c);
      Vector<T, N> result;
      for (int i = 0; i < N; ++i)
        result.values[i] = narrow<T>((widen(gs.values[i]) - dot) * widen(ys.values[i]));
      store<N>(grad_input + row * columns + c, result);
    }
  }
}

}  // namespace blackbelt
