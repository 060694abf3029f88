// Which kernel runs for which sizes, with how many blocks and threads. On the host; still without PyTorch.
//
// ``launch(kernel, blocks, threads, shared bytes, arguments…)`` starts one: bindings.cu on PyTorch's stream.
#pragma once

#include "bias_gelu.cuh"
#include "cross_entropy.cuh"
#include "matmul.cuh"
#include "matmul_registers.cuh"
#include "matmul_tensor_cores.cuh"
#include "rms_norm.cuh"
#include "softmax.cuh"

namespace blackbelt {

template <int VALUE>
struct Constant {
  static constexpr int value = VALUE;
};

constexpr int ROW_BLOCK = 256;    // threads for one row that is too long for a warp
constexpr int LONG_BLOCK = 1024;  // and for one that is too long for those
constexpr Index MAX_BLOCKS = (Index(1) << 31) - 1;
constexpr Index GROUPS = 512;  // of rows, each with its own partial sums: a few for every multiprocessor of any GPU

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline unsigned blocks(Index count) { return unsigned(count < MAX_BLOCKS ? count : MAX_BLOCKS); }

template <typename... Pointers>
bool aligned(Index bytes, Pointers... pointers) {
  return ((reinterpret_cast<unsigned long long>(pointers) % bytes == 0) && ...);
}

// Call with the width of vectors: 16 bytes where every row starts at a multiple of 16, else one number.
template <typename T, typename F>
void with_width(bool vectors, F function) {
  if (vectors)
    function(Constant<16 / sizeof(T)>{});
  else
    function(Constant<1>{});
}

template <typename T, typename... Pointers>
bool rows_aligned(Index columns, Pointers... pointers) {
  return columns % (16 / sizeof(T)) == 0 && aligned(16, pointers...);
}

// Call with the size of the group of threads for a row: a warp, eight of them in a block, or a block.
template <typename F>
void with_group(Index rows, Index columns, F function) {
  if (columns <= 1024)
    function(Constant<WARP>{}, blocks(ceil_div(rows, 8)), dim3(WARP, 8));
  else
    function(Constant<ROW_BLOCK>{}, blocks(rows), dim3(ROW_BLOCK));
}

template <typename T, typename L>
void launch_softmax(L& launch, const T* input, T* out, Index rows, Index columns) {
  constexpr int NUMBERS = sizeof(T) == 8 ? 8 : 32;  // of each thread, in registers; 16 doubles would not stay there
  with_width<T>(rows_aligned<T>(columns, input, out), [&](auto width) {
    constexpr int N = decltype(width)::value, ITEMS = NUMBERS / N;
    if (columns <= WARP * NUMBERS)
      launch(softmax_in_registers<T, N, WARP, ITEMS>, blocks(ceil_div(rows, 8)), dim3(WARP, 8), 0, input, out, rows,
             columns);
    else if (columns <= ROW_BLOCK * NUMBERS)
      launch(softmax_in_registers<T, N, ROW_BLOCK, ITEMS>, blocks(rows), dim3(ROW_BLOCK), 0, input, out, rows, columns);
    else
      launch(softmax_in_two_passes<T, N, LONG_BLOCK>, blocks(rows), dim3(LONG_BLOCK), 0, input, out, rows, columns);
  });
}

template <typename T, typename L>
void launch_softmax_backward(L& launch, const T* grad, const T* out, T* grad_input, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, grad, out, grad_input), [&](auto width) {
    with_group(rows, columns, [&](auto group, unsigned blocks, dim3 threads) {
      launch(softmax_backward<T, decltype(width)::value, decltype(group)::value>, blocks, threads, 0, grad, out,
             grad_input, rows, columns);
    });
  });
}

template <typename T, typename L>
void launch_cross_entropy(L& launch, const T* logits, const Index* target, Index ignore_index, Wide<T>* losses,
                          double* lse, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, logits), [&](auto width) {
    with_group(rows, columns, [&](auto group, unsigned blocks, dim3 threads) {
      launch(cross_entropy<T, decltype(width)::value, decltype(group)::value>, blocks, threads, 0, logits, target,
             ignore_index, losses, lse, rows, columns);
    });
  });
}

template <typename T, typename L>
void launch_cross_entropy_backward(L& launch, const Wide<T>* grad, const T* logits, const Index* target,
                                   const double* lse, Index ignore_index, T* grad_logits, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, logits, grad_logits), [&](auto width) {
    with_group(rows, columns, [&](auto group, unsigned blocks, dim3 threads) {
      launch(cross_entropy_backward<T, decltype(width)::value, decltype(group)::value>, blocks, threads, 0, grad,
             logits, target, lse, ignore_index, grad_logits, rows, columns);
    });
  });
}

template <typename T, typename L>
void launch_cross_entropy_in_place(L& launch, T* logits, const Index* target, Index ignore_index,
                                   const Wide<T>* factor, Wide<T>* losses, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, logits), [&](auto width) {
    with_group(rows, columns, [&](auto group, unsigned blocks, dim3 threads) {
      launch(cross_entropy_in_place<T, decltype(width)::value, decltype(group)::value>, blocks, threads, 0, logits,
             target, ignore_index, factor, losses, rows, columns);
    });
  });
}

// Rows of one block of the kernels that go down the columns, and how many such groups there are.
inline Index rows_per_group(Index rows) { return ceil_div(ceil_div(rows, GROUPS), COLUMN_ROWS) * COLUMN_ROWS; }
inline Index column_groups(Index rows) { return ceil_div(rows, rows_per_group(rows)); }
inline unsigned column_blocks(Index rows, Index columns, int width) {
  return blocks(column_groups(rows) * ceil_div(columns, WARP * width));
}

template <typename T, typename L>
void launch_bias_gelu(L& launch, const T* input, const T* bias, T* out, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, input, bias, out), [&](auto width) {
    constexpr int N = decltype(width)::value;
    launch(bias_gelu<T, N>, column_blocks(rows, columns, N), dim3(WARP, COLUMN_ROWS), 0, input, bias, out, rows,
           columns, rows_per_group(rows));
  });
}

template <typename T, typename L>
void launch_sum_partials(L& launch, const Wide<T>* partial, T* out, Index groups, Index columns) {
  launch(sum_partials<T>, blocks(ceil_div(columns, WARP)), dim3(WARP, COLUMN_ROWS), 0, partial, out, groups, columns);
}

// ``partial`` has room for column_groups(rows) rows.
template <typename T, typename L>
void launch_bias_gelu_backward(L& launch, const T* grad, const T* input, const T* bias, T* grad_input, T* grad_bias,
                               Wide<T>* partial, Index rows, Index columns) {
  with_width<T>(rows_aligned<T>(columns, grad, input, bias, grad_input), [&](auto width) {
    constexpr int N = decltype(width)::value;
    launch(bias_gelu_backward<T, N>, column_blocks(rows, columns, N), dim3(WARP, COLUMN_ROWS), 0, grad, input, bias,
           grad_input, partial, rows, columns, rows_per_group(rows));
  });
  launch_sum_partials(launch, partial, grad_bias, column_groups(rows), columns);
}

template <typename T, typename L>
void launch_rms_norm(L& launch, const T* input, const T* weight, double eps, T* out, Wide<T>* rstd, Index rows,
                     Index columns) {
  with_width<T>(rows_aligned<T>(columns, input, weight, out), [&](auto width) {
    with_group(rows, columns, [&](auto group, unsigned blocks, dim3 threads) {
      launch(rms_norm<T, decltype(width)::value, decltype(group)::value>, blocks, threads, 0, input, weight, eps, out,
             rstd, rows, columns);
    });
  });
}

// 16 numbers of a row for each thread: those, their gradients and the sums of their columns are 48 registers.
template <typename T>
constexpr int RMS_NUMBERS = 64 / sizeof(Wide<T>);

// Rows of the partial sums of rms_norm_backward.
template <typename T>
Index rms_norm_groups(Index rows, Index columns) {
  if (columns <= WARP * RMS_NUMBERS<T>) return blocks(ceil_div(rows < 4 * GROUPS ? rows : 4 * GROUPS, 8)) * 8;
  if (columns <= ROW_BLOCK * RMS_NUMBERS<T>) return rows < GROUPS ? rows : GROUPS;
  return column_groups(rows);
}

template <typename T, typename L>
void launch_rms_norm_backward(L& launch, const T* grad, const T* input, const T* weight, const Wide<T>* rstd,
                              T* grad_input, T* grad_weight, Wide<T>* partial, Index rows, Index columns) {
  const Index groups = rms_norm_groups<T>(rows, columns);
  with_width<T>(rows_aligned<T>(columns, grad, input, weight, grad_input), [&](auto width) {
    constexpr int N = decltype(width)::value, ITEMS = RMS_NUMBERS<T> / N;
    if (columns <= WARP * RMS_NUMBERS<T>) {
      launch(rms_norm_backward_in_registers<T, N, WARP, ITEMS>, unsigned(groups / 8), dim3(WARP, 8), 0, grad, input,
             weight, rstd, grad_input, partial, rows, columns);
    } else if (columns <= ROW_BLOCK * RMS_NUMBERS<T>) {
      launch(rms_norm_backward_in_registers<T, N, ROW_BLOCK, ITEMS>, unsigned(groups), dim3(ROW_BLOCK), 0, grad, input,
             weight, rstd, grad_input, partial, rows, columns);
    } else {
      launch(rms_norm_backward_input<T, N, ROW_BLOCK>, blocks(rows), dim3(ROW_BLOCK), 0, grad, input, weight, rstd,
             grad_input, rows, columns);
      launch(rms_norm_backward_weight<T, N>, column_blocks(rows, columns, N), dim3(WARP, COLUMN_ROWS), 0, grad, input,
             rstd, partial, rows, columns, rows_per_group(rows));
    }
  });
  launch_sum_partials(launch, partial, grad_weight, groups, columns);
}

enum class Rung { NAIVE, TILES, REGISTERS, TENSOR_CORES };

template <typename T, typename L>
void launch_matmul(L& launch, Rung rung, const T* a, const T* b, T* out, Index m, Index n, Index k) {
  if (rung == Rung::NAIVE) {
    launch(matmul_naive<T>, blocks(ceil_div(m * n, 256)), dim3(256), 0, a, b, out, m, n, k);
  } else if (rung == Rung::TILES) {
    launch(matmul_tiles<T>, blocks(ceil_div(m, TILE) * ceil_div(n, TILE)), dim3(TILE, TILE), 0, a, b, out, m, n, k);
  } else if (rung == Rung::REGISTERS) {
    constexpr int SIDE = RegisterTile<T>::SIDE, N = RegisterTile<T>::N;
    const bool vectors = k % N == 0 && n % N == 0 && aligned(N * sizeof(T), a, b);
    launch(matmul_registers<T>, blocks(ceil_div(m, SIDE) * ceil_div(n, SIDE)), dim3(256), 0, a, b, out, m, n, k,
           vectors);
  } else if constexpr (sizeof(T) < 8) {
    using Tile = TensorCoreTile<T>;
    const unsigned count = blocks(ceil_div(m, Tile::SIDE) * ceil_div(n, Tile::SIDE));
    if (k % Tile::CHUNK == 0 && n % Tile::CHUNK == 0 && aligned(16, a, b, out))
      launch(matmul_tensor_cores<T, true>, count, dim3(256), Tile::SHARED_BYTES, a, b, out, m, n, k);
    else
      launch(matmul_tensor_cores<T, false>, count, dim3(256), Tile::SHARED_BYTES, a, b, out, m, n, k);
  }
}

}  // namespace blackbelt
