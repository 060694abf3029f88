// Cross-entropy from logits: a loss and a log-sum-exp for every row; the gradient makes the softmax again from them.
#pragma once

#include "online.cuh"

namespace blackbelt {

// log(total) - (chosen - largest), not lse - chosen: two large numbers would leave a small one full of their errors.
template <typename T>
__device__ inline Wide<T> loss_of(const T* row, Index target, Index columns, const Online<Wide<T>>& seen) {
  BLACKBELT_ASSERT(target >= 0 && target < columns);
  return log_of(seen.total) - (widen(row[target]) - seen.largest);
}

// The log-sum-exp is double: in float, one of 10 would be off by 5e-7, and with it every probability made from it.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP < 256 ? 256 : GROUP)
    cross_entropy(const T* logits, const Index* target, Index ignore_index, Wide<T>* losses, double* lse, Index rows,
                  Index columns) {
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    const T* x = logits + row * columns;
    const auto seen = online_over_row<GROUP, N>(x, columns);
    if (threadIdx.x == 0) {
      losses[row] = target[row] == ignore_index ? Wide<T>(0) : loss_of(x, target[row], columns, seen);
      lse[row] = double(seen.largest) + double(log_of(seen.total));
    }
  }
}

// (softmax - onehot) * grad. exp((x - high) - low) with lse = high + low: what float could not hold is not lost.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(GROUP < 256 ? 256 : GROUP)
    cross_entropy_backward(const Wide<T>* grad, const T* logits, const Index* target, const double* lse,
                           Index ignore_index, T* grad_logits, Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    const Index chosen = target[row];
    const bool ignored = chosen == ignore_index;
    const W high = W(lse[row]), factor = grad[row];
    W low = W(lse[row] - double(high));
    if (low != low) low = 0;  // inf - inf
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      auto vector = load<N>(logits + row * columns + c);
      for (int i = 0; i < N; ++i) {
        const W softmax = exp_of(widen(vector.values[i]) - high - low);
        vector.values[i] = narrow<T>(ignored ? W(0) : (softmax - W(c + i == chosen)) * factor);
      }
      store<N>(grad_logits + row * columns + c, vector);
    }
  }
}

// The losses, and the gradient written over the logits: nothing of their size is allocated.
template <typename T, int N, int GROUP>
__global__ void __launch_bounds__(256, 4)  // 64 registers: left alone, the compiler squeezes into 32 and spills
    cross_entropy_in_place(T* logits, const Index* target, Index ignore_index, const Wide<T>* factor,
                           Wide<T>* losses, Index rows, Index columns) {
  using W = Wide<T>;
  for (Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += Index(gridDim.x) * blockDim.y) {
    T* x = logits + row * columns;
    const Index chosen = target[row];
    const bool ignored = chosen == ignore_index;
    const auto seen = online_over_row<GROUP, N>(x, columns);
    if (threadIdx.x == 0) losses[row] = ignored ? W(0) : loss_of(x, chosen, columns, seen);
    // Thread 0 has to have read its logit before another thread writes the gradient there.
    if constexpr (GROUP > WARP)
      __syncthreads();
    else
      __syncwarp();
    for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) {
      auto vector = load<N>(x + c);
      for (int i = 0; i < N; ++i) {
        const W softmax = exp_of(widen(vector.values[i]) - seen.largest) / seen.total;
        vector.values[i] = narrow<T>(ignored ? W(0) : (softmax - W(c + i == chosen)) * *factor);
      }
      store<N>(x + c, vector);
    }
  }
}

}  // namespace blackbelt
