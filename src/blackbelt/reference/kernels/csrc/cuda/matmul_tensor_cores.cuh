// Tensor cores: the last rung of the matmul ladder. float16 and bfloat16 with sums in float; float through tf32.
//
// A block makes 128 x 128 results with 8 warps, each 64 x 32 of them: 4 x 4 instructions mma.sync for each step. The
// tiles of a and b come by asynchronous copies into a ring of four stages: three are on their way while one is used.
#pragma once

#include "tensor_core_instructions.cuh"

namespace blackbelt {

template <typename T>
struct TensorCoreTile {
  static constexpr int SIDE = 128;
  static constexpr int DEPTH = 64 / sizeof(T);  // 64 bytes of each row of a
  static constexpr int STEP = 32 / sizeof(T);   // depth of one instruction
  static constexpr int CHUNK = 16 / sizeof(T);  // numbers of one copy
  static constexpr int STAGES = 4;
  static constexpr int THREADS = 256;
  static constexpr int BYTES = SIDE * DEPTH * sizeof(T);  // of a tile; a's and b's are equal
  static constexpr int SHARED_BYTES = 2 * STAGES * BYTES;
  static constexpr int GROUP = 8;  // rows of tiles that go together, see below

  // Where a chunk of 16 bytes lies in its tile, in numbers. Shared memory has 32 banks of 4 bytes: eight rows read at
  // once must be in eight different sixteenths of 128 bytes. Straight rows of 64 or 256 bytes would collide; so chunks
  // change places within their row, by exclusive or with the number of the row ("swizzle").
  __device__ static int place_a(int row, int chunk) { return (row * 4 + (chunk ^ (row / 2 % 4))) * CHUNK; }
  __device__ static int place_b(int row, int chunk) {
    // ldmatrix reads 8 rows at one chunk; for tf32 a warp reads 4 rows at two chunks.
    const int change = sizeof(T) == 2 ? row % 8 : row % 4 * 2;
    return (row * (SIDE / CHUNK) + (chunk ^ change)) * CHUNK;
  }
};

// One chunk into shared memory, zeros outside the matrix. ALIGNED: rows start at multiples of 16 bytes, so that a chunk
// is either all inside or all outside. Otherwise its numbers are looked at one by one, and the copy is not asynchronous.
template <bool ALIGNED, typename T>
__device__ inline void copy_chunk(T* to, const T* matrix, Index row, Index column, Index rows, Index columns) {
  constexpr int CHUNK = TensorCoreTile<T>::CHUNK;
  if constexpr (ALIGNED) {
    const bool valid = row < rows && column < columns;
    copy_async(to, valid ? matrix + row * columns + column : matrix, valid);
  } else {
    Vector<T, CHUNK> chunk;
    for (int i = 0; i < CHUNK; ++i)
      chunk.values[i] = row < rows && column + i < columns ? matrix[row * columns + column + i] : narrow<T>(0.0f);
    store<CHUNK>(to, chunk);
  }
}

// The numbers of a (16, depth) as the instruction wants them: ldmatrix takes four matrices of 8 rows of 16 bytes.
template <typename T>
__device__ inline void load_a(unsigned (&a)[4], const T* tile, int row, int chunk, int lane) {
  load_matrices(a, tile + TensorCoreTile<T>::place_a(row + lane % 16, chunk + lane / 16));
  if constexpr (sizeof(T) == 4)
    for (auto& bits : a) bits = to_tf32(bits);
}

// And of b (depth, 16), for two instructions. Its rows go across, the instruction wants them down: a transposing
// ldmatrix, which there is for 16 bits only; numbers of 32 bits are read one by one.
template <typename T>
__device__ inline void load_b(unsigned (&b)[2][2], const T* tile, int row, int column, int lane) {
  using Tile = TensorCoreTile<T>;
  if constexpr (sizeof(T) == 2) {
    unsigned registers[4];
    load_matrices_transposed(registers, tile + Tile::place_b(row + lane % 16, column / Tile::CHUNK + lane / 16));
    for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = registers[i];
  } else {
    for (int i = 0; i < 4; ++i) {
      const int k = row + lane % 4 + i % 2 * 4, n = column + i / 2 * 8 + lane / 4;
      b[i / 2][i % 2] = to_tf32(__float_as_uint(tile[Tile::place_b(k, n / Tile::CHUNK) + n % Tile::CHUNK]));
    }
  }
}

template <typename T, bool ALIGNED>
__global__ void __launch_bounds__(256, sizeof(T) == 2 ? 2 : 1)  // two blocks on a multiprocessor; rounding to tf32 takes registers
    matmul_tensor_cores(const T* a, const T* b, T* out, Index m, Index n, Index k) {
  using Tile = TensorCoreTile<T>;
  constexpr int SIDE = Tile::SIDE, DEPTH = Tile::DEPTH, CHUNK = Tile::CHUNK, STAGES = Tile::STAGES;
  T* tiles_a = reinterpret_cast<T*>(dynamic_shared_memory());
  T* tiles_b = tiles_a + STAGES * SIDE * DEPTH;

  // Blocks that run at the same time should share what they read, through the L2 cache: not one long row of tiles of
  // the result, but groups of 8 rows, walked column by column.
  const Index down = (m + SIDE - 1) / SIDE, across = (n + SIDE - 1) / SIDE;
  const Index group = blockIdx.x / (Tile::GROUP * across), first = group * Tile::GROUP;
  const Index height = down - first < Tile::GROUP ? down - first : Tile::GROUP;
  const Index within = blockIdx.x - first * across;
  const Index first_row = (first + within % height) * SIDE, first_column = within / height * SIDE;

  const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  const Index steps = (k + DEPTH - 1) / DEPTH;

  auto copy_tiles = [&](Index step) {
    const int stage = int(step % STAGES);
    for (int i = thread; i < Tile::BYTES / 16; i += Tile::THREADS) {
      const int row = i / 4, chunk = i % 4;  // of a: four chunks in a row
      copy_chunk<ALIGNED>(tiles_a + stage * SIDE * DEPTH + Tile::place_a(row, chunk), a, first_row + row,
                          step * DEPTH + chunk * CHUNK, m, k);
    }
    for (int i = thread; i < Tile::BYTES / 16; i += Tile::THREADS) {
      const int row = i / (SIDE / CHUNK), chunk = i % (SIDE / CHUNK);
      copy_chunk<ALIGNED>(tiles_b + stage * SIDE * DEPTH + Tile::place_b(row, chunk), b, step * DEPTH + row,
                          first_column + chunk * CHUNK, k, n);
    }
  };

  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) copy_tiles(step);
    commit_copies();  // an empty group too: the count below stays right
  }
  float sums[4][4][4] = {};
  for (Index step = 0; step < steps; ++step) {
    wait_for_copies<STAGES - 2>();  // the oldest group of this thread has come,
    __syncthreads();                // and those of all threads; and nobody reads the stage that is filled next
    if (step + STAGES - 1 < steps) copy_tiles(step + STAGES - 1);
    commit_copies();
    const T* tile_a = tiles_a + step % STAGES * (SIDE * DEPTH);
    const T* tile_b = tiles_b + step % STAGES * (SIDE * DEPTH);
#pragma unroll
    for (int inner = 0; inner < DEPTH; inner += Tile::STEP) {
      unsigned x[4][4], y[4][2];
      for (int i = 0; i < 4; ++i) load_a(x[i], tile_a, warp_row + i * 16, inner / CHUNK, lane);
      for (int j = 0; j < 4; j += 2) {
        unsigned pair[2][2];
        load_b(pair, tile_b, inner, warp_column + j * 8, lane);
        for (int i = 0; i < 4; ++i) y[j + i / 2][i % 2] = pair[i / 2][i % 2];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sums[i][j], x[i], y[j]);
    }
  }
  wait_for_copies<0>();  // none is left open when the block ends

  // Of each 16 x 8 results a lane has two neighbors in row lane / 4 and two eight rows below.
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Index row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
        const Index column = first_column + warp_column + j * 8 + lane % 4 * 2;
        if (row >= m) continue;
        T* to = out + row * n + column;
        const Vector<T, 2> pair = {narrow<T>(sums[i][j][2 * half]), narrow<T>(sums[i][j][2 * half + 1])};
        if (ALIGNED && column + 1 < n) {
          store<2>(to, pair);
        } else {
          if (column < n) to[0] = pair.values[0];
          if (column + 1 < n) to[1] = pair.values[1];
        }
      }
}

}  // namespace blackbelt
