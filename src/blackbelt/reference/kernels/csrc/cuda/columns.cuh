// Sums over rows, one for each column, without atomics: partial sums of blocks first, then the sum of those.
//
// Atomic additions would come in another order every time, and the last bits of the result with them.
#pragma once

#include "common.cuh"

namespace blackbelt {

// A block is 32 threads wide (a warp reads 32 neighboring vectors of one row: coalesced) and 8 rows high.
constexpr int COLUMN_ROWS = 8;
constexpr int COLUMN_THREADS = WARP * COLUMN_ROWS;

struct ColumnPlace {
  Index column;  // the first of N
  Index first_row, last_row;
  Index group;  // of rows; one row of the partial sums
};

// Blocks lie in one dimension of the grid (the others end at 65535): tiles of columns first, then groups of rows.
template <int N>
__device__ inline ColumnPlace column_place(Index rows, Index columns, Index per_group) {
  const Index across = (columns + WARP * N - 1) / (WARP * N);
  const Index group = blockIdx.x / across, tile = blockIdx.x % across;
  const Index last = (group + 1) * per_group;
  return {(tile * WARP + threadIdx.x) * N, group * per_group + threadIdx.y, last < rows ? last : rows, group};
}

// Add up the sums of the block's 8 warps in shared memory; every thread of the block has to come here.
template <int N, typename W>
__device__ inline void store_partial_sums(const W (&sums)[N], W* partial, Index columns, const ColumnPlace& place) {
  __shared__ W parts[COLUMN_ROWS][N][WARP];  // lane last: the lanes of a warp are in different banks
  for (int i = 0; i < N; ++i) parts[threadIdx.y][i][threadIdx.x] = sums[i];
  __syncthreads();
  if (threadIdx.y != 0 || place.column >= columns) return;
  for (int i = 0; i < N; ++i) {
    W sum = 0;
    for (int row = 0; row < COLUMN_ROWS; ++row) sum += parts[row][i][threadIdx.x];
    partial[place.group * columns + place.column + i] = sum;
  }
}

// The second kernel: add the partial sums (groups, C) and round once.
template <typename T>
__global__ void __launch_bounds__(COLUMN_THREADS)
    sum_partials(const Wide<T>* partial, T* out, Index groups, Index columns) {
  __shared__ Wide<T> parts[COLUMN_ROWS][WARP];
  const Index column = Index(blockIdx.x) * WARP + threadIdx.x;
  Wide<T> sum = 0;
  if (column < columns)
    for (Index group = threadIdx.y; group < groups; group += COLUMN_ROWS) sum += partial[group * columns + column];
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int row = 1; row < COLUMN_ROWS; ++row) sum += parts[row][threadIdx.x];
  out[column] = narrow<T>(sum);
}

}  // namespace blackbelt
