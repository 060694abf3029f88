// Matrix product out (M, N) = a (M, K) @ b (K, N), row-major: the first two rungs of the ladder.
#pragma once

#include "common.cuh"

namespace blackbelt {

// Naive: a thread for each number of the result. Every thread reads its whole row of a and column of b from memory;
// neighbors in a warp have neighboring columns, so that reading b and writing out are coalesced, and a is broadcast.
template <typename T>
__global__ void __launch_bounds__(256) matmul_naive(const T* a, const T* b, T* out, Index m, Index n, Index k) {
  for (Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x; i < m * n; i += Index(gridDim.x) * blockDim.x) {
    const Index row = i / n, column = i % n;
    Wide<T> sum = 0;
    for (Index inner = 0; inner < k; ++inner) sum += widen(a[row * k + inner]) * widen(b[inner * n + column]);
    out[i] = narrow<T>(sum);
  }
}

// Tiles: a block of 32 x 32 threads loads a tile of a and one of b into shared memory and uses each number 32 times:
// 32 times fewer bytes from memory. What lies outside the matrices is loaded as zero, which adds nothing.
constexpr int TILE = 32;

template <typename T>
__global__ void __launch_bounds__(TILE* TILE) matmul_tiles(const T* a, const T* b, T* out, Index m, Index n, Index k) {
  using W = Wide<T>;
  __shared__ W tile_a[TILE][TILE];  // read along a row by one warp: a broadcast
  __shared__ W tile_b[TILE][TILE];  // read across by one warp: 32 banks
  const Index across = (n + TILE - 1) / TILE;
  const Index row = blockIdx.x / across * TILE + threadIdx.y, column = blockIdx.x % across * TILE + threadIdx.x;
  W sum = 0;
  for (Index start = 0; start < k; start += TILE) {
    const Index along = start + threadIdx.x, down = start + threadIdx.y;
    tile_a[threadIdx.y][threadIdx.x] = row < m && along < k ? widen(a[row * k + along]) : W(0);
    tile_b[threadIdx.y][threadIdx.x] = down < k && column < n ? widen(b[down * n + column]) : W(0);
    __syncthreads();  // the tiles are complete
    for (int inner = 0; inner < TILE; ++inner) sum += tile_a[threadIdx.y][inner] * tile_b[inner][threadIdx.x];
    __syncthreads();  // nobody reads them any more
  }
  if (row < m && column < n) out[row * n + column] = narrow<T>(sum);
}

}  // namespace blackbelt
