// Register blocking: the third rung of the matmul ladder.
//
// In the second, each multiplication reads two numbers from shared memory, and those reads are the limit. Here a thread
// makes 8 x 8 results (4 x 4 in double): it reads 8 + 8 numbers for 64 multiplications. While a tile is used, the next
// one is on its way from memory into registers, and goes into the other of two buffers: one barrier for each tile.
#pragma once

#include "common.cuh"

namespace blackbelt {

template <typename T>
struct RegisterTile {
  using W = Wide<T>;
  static constexpr int N = 16 / sizeof(W);  // numbers of one 16-byte read from shared memory
  static constexpr int PER_THREAD = 2 * N;  // rows and columns of one thread
  static constexpr int SIDE = 16 * PER_THREAD;  // 16 x 16 threads: 128 x 128 results, 64 x 64 in double
  static constexpr int DEPTH = 8;
  static constexpr int THREADS = 256;
  static_assert(SIDE * DEPTH == THREADS * N, "every thread loads N neighbors of each tile");
};

// N neighbors of one row of a matrix; zeros outside of it.
template <int N, typename T>
__device__ inline void load_guarded(Wide<T> (&into)[N], const T* matrix, Index row, Index column, Index rows,
                                    Index columns, bool aligned) {
  if (aligned && row < rows && column + N <= columns) {
    const auto vector = load<N>(matrix + row * columns + column);
    for (int i = 0; i < N; ++i) into[i] = widen(vector.values[i]);
  } else {
    for (int i = 0; i < N; ++i)
      into[i] = row < rows && column + i < columns ? widen(matrix[row * columns + column + i]) : Wide<T>(0);
  }
}

// ``aligned``: every row of a and b starts at a multiple of N numbers.
template <typename T>
__global__ void __launch_bounds__(256)
    matmul_registers(const T* a, const T* b, T* out, Index m, Index n, Index k, bool aligned) {
  using Tile = RegisterTile<T>;
  using W = Wide<T>;
  constexpr int N = Tile::N, PER = Tile::PER_THREAD, SIDE = Tile::SIDE, DEPTH = Tile::DEPTH;
  // a is stored transposed: the 8 rows of a thread become neighbors, read with 16-byte loads. The padding of N spreads
  // the transposed stores over the banks.
  alignas(16) __shared__ W tile_a[2][DEPTH][SIDE + N];
  alignas(16) __shared__ W tile_b[2][DEPTH][SIDE];

  const int thread = threadIdx.x;
  const Index across = (n + SIDE - 1) / SIDE;
  const Index first_row = blockIdx.x / across * SIDE, first_column = blockIdx.x % across * SIDE;
  const int row_a = thread / (DEPTH / N), column_a = thread % (DEPTH / N) * N;  // what this thread loads of a
  const int row_b = thread / (SIDE / N), column_b = thread % (SIDE / N) * N;    // and of b
  const int thread_row = thread / 16 * N, thread_column = thread % 16 * N;

  W next_a[N], next_b[N], sums[PER][PER] = {};
  load_guarded(next_a, a, first_row + row_a, column_a, m, k, aligned);
  load_guarded(next_b, b, row_b, first_column + column_b, k, n, aligned);
  int buffer = 0;
  for (Index start = 0; start < k; start += DEPTH, buffer ^= 1) {
    for (int i = 0; i < N; ++i) tile_a[buffer][column_a + i][row_a] = next_a[i];
    for (int i = 0; i < N; ++i) tile_b[buffer][row_b][column_b + i] = next_b[i];
    // One barrier is enough: who writes this buffer again has passed the barrier of the round between.
    __syncthreads();
    if (start + DEPTH < k) {
      load_guarded(next_a, a, first_row + row_a, start + DEPTH + column_a, m, k, aligned);
      load_guarded(next_b, b, start + DEPTH + row_b, first_column + column_b, k, n, aligned);
    }
#pragma unroll
    for (int inner = 0; inner < DEPTH; ++inner) {
      // Two runs of N, half a tile apart: 16 threads reading side by side meet different banks.
      Vector<W, N> x[2], y[2];
      for (int half = 0; half < 2; ++half) {
        x[half] = load<N>(&tile_a[buffer][inner][half * (SIDE / 2) + thread_row]);
        y[half] = load<N>(&tile_b[buffer][inner][half * (SIDE / 2) + thread_column]);
      }
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int j = 0; j < PER; ++j) sums[i][j] += x[i / N].values[i % N] * y[j / N].values[j % N];
    }
  }
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    const Index row = first_row + i / N * (SIDE / 2) + thread_row + i % N;
#pragma unroll
    for (int j = 0; j < PER; ++j) {
      const Index column = first_column + j / N * (SIDE / 2) + thread_column + j % N;
      if (row < m && column < n) out[row * n + column] = narrow<T>(sums[i][j]);
    }
  }
}

}  // namespace blackbelt
