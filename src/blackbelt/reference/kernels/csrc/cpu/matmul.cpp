// The ladder of matrix multiplication on a CPU: three loops, tiles that stay in the cache, blocks that stay in registers.
#include <ATen/Dispatch.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <functional>

#include "gemm.h"

namespace blackbelt {
namespace {

// Element by element, as it is defined. b is read down its columns: every read of it is another cache line.
template <typename W, typename T>
void naive(int64_t m, int64_t n, int64_t k, const T* a, const T* b, W* c) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      W sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += static_cast<W>(a[i * k + p]) * static_cast<W>(b[p * n + j]);
      }
      c[i * n + j] = sum;
    }
  }
}

// Tile by tile, the rows of c and b in the innermost loop: the tiles stay in the L1 cache, and the compiler vectorizes.
template <typename W, typename T>
void tiles(int64_t m, int64_t n, int64_t k, const T* a, const T* b, W* c) {
  constexpr int64_t kTile = 64;
  at::parallel_for(0, (m + kTile - 1) / kTile, 1, [&](int64_t first, int64_t last) {
    for (int64_t top = first * kTile; top < std::min(m, last * kTile); top += kTile) {
      for (int64_t deep = 0; deep < k; deep += kTile) {
        for (int64_t left = 0; left < n; left += kTile) {
          const int64_t width = std::min(kTile, n - left);
          for (int64_t i = top; i < std::min(m, top + kTile); ++i) {
            W* const to = c + i * n + left;
            for (int64_t p = deep; p < std::min(k, deep + kTile); ++p) {
              const W scalar = static_cast<W>(a[i * k + p]);
              const T* const from = b + p * n + left;
              for (int64_t j = 0; j < width; ++j) {
                to[j] += scalar * static_cast<W>(from[j]);
              }
            }
          }
        }
      }
    }
  });
}

// A matrix of one column: a panel would be 31/32 zeros, so each result is the product of two rows instead.
template <typename W, typename T>
void matrix_vector(int64_t m, int64_t k, const T* a, const T* b, W* c) {
  over_rows(m, k, [&](int64_t row, bool shared) {
    c[row] = row_sum<T>(k, shared, [&](int64_t i, int64_t n) {
      return each([](auto x, auto y) { return x * y; }, read(a + row * k + i, n, T(0)), read(b + i, n, T(0)));
    });
  });
}

// One row: the rows of b are added up, scaled, few at a time, and these sums in double.
template <typename W, typename T>
void vector_matrix(int64_t n, int64_t k, const T* a, const T* b, W* c) {
  constexpr int64_t kFew = 16;
  at::parallel_for(0, (n + kStep<T> - 1) / kStep<T>, 16, [&](int64_t first, int64_t last) {
    for (int64_t left = first * kStep<T>; left < std::min(n, last * kStep<T>); left += kStep<T>) {
      const int64_t count = std::min(kStep<T>, n - left);
      double sums[kStep<T>] = {};
      for (int64_t deep = 0; deep < k; deep += kFew) {
        W few[kStep<T>] = {};
        for (int64_t p = deep; p < std::min(k, deep + kFew); ++p) {
          for (int64_t j = 0; j < count; ++j) {
            few[j] += static_cast<W>(a[p]) * static_cast<W>(b[p * n + left + j]);
          }
        }
        std::transform(sums, sums + count, few, sums, std::plus<double>());
      }
      std::copy_n(sums, count, c + left);
    }
  });
}

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, c10::string_view rung) {
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  const bool doubled = a.scalar_type() == at::kDouble;
  auto sums = at::zeros({m, n}, a.options().dtype(doubled ? at::kDouble : at::kFloat));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, a.scalar_type(), "matmul", [&] {
    using W = Wide<scalar_t>;
    const auto *of_a = a.const_data_ptr<scalar_t>(), *of_b = b.const_data_ptr<scalar_t>();
    auto* const c = sums.mutable_data_ptr<W>();
    if (rung == "naive") {
      naive<W>(m, n, k, of_a, of_b, c);
    } else if (rung == "tiles") {
      tiles<W>(m, n, k, of_a, of_b, c);
    } else {
      TORCH_CHECK_VALUE(rung == "registers", "rung is '", rung, "'; allowed are 'naive', 'tiles' and 'registers'");
      if (n == 1) {
        matrix_vector<W>(m, k, of_a, of_b, c);
      } else if (m == 1) {
        vector_matrix<W>(n, k, of_a, of_b, c);
      } else {
        gemm<W>(m, n, k, of_a, k, of_b, n, c, n);
      }
    }
  });
  return sums.to(a.scalar_type());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("matmul(Tensor a, Tensor b, str rung) -> Tensor", &matmul);
}

}  // namespace blackbelt
