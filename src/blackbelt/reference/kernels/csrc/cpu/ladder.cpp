// The rungs that lead to bias_gelu and softmax, one idea each: a fused loop, one pass for maximum and sum, vectors, no
// calls, threads. The rung after these is the exported operator, whose stores go past the caches.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "normal.h"
#include "softmax.h"

namespace blackbelt {
namespace {

// body(first, last) for all rows: by one thread, or by all of them.
template <typename Body>
void over(int64_t rows, bool threaded, Body body) {
  if (threaded) {
    at::parallel_for(0, rows, 1, body);
  } else {
    body(0, rows);
  }
}

// One number at a time. What the operators of the formula write to memory for the next one stays in a register here.
template <typename T>
void bias_gelu_loop(int64_t rows, int64_t columns, const T* x, const T* bias, T* out) {
  using W = Wide<T>;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      const W value = static_cast<W>(x[row * columns + i]) + static_cast<W>(bias[i]);
      const W cumulative = W(0.5) * (1 + std::erf(value * W(M_SQRT1_2)));  // Φ(value)
      out[row * columns + i] = static_cast<T>(value * cumulative);
    }
  }
}

// A register of numbers at a time: with a library's error function, which is called, or with one in line.
template <bool kInline, typename T>
void bias_gelu_vectors(int64_t columns, const T* x, const T* bias, T* out) {
  using V = Vec<T>;
  fill(out, columns, false, [&](int64_t i, int64_t n) {
    const auto one = [](V value, V offset) {
      value = value + offset;
      if constexpr (kInline) {
        return value * normal<T>(value).share;
      } else {
        return value * (V(0.5) * (V(1) + (value * V(M_SQRT1_2)).erf()));
      }
    };
    return each(one, read(x + i, n, T(0)), read(bias + i, n, T(0)));
  });
}

at::Tensor bias_gelu_rung(const at::Tensor& input, const at::Tensor& bias, c10::string_view rung) {
  const bool is_rung = rung == "loop" || rung == "vectors" || rung == "inlined" || rung == "threads";
  TORCH_CHECK_VALUE(is_rung, "no rung of bias_gelu is '", rung, "'");
  auto out = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "bias_gelu_rung", [&] {
    const auto *x = input.const_data_ptr<scalar_t>(), *b = bias.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    if (rung == "loop") {
      return bias_gelu_loop(rows, columns, x, b, y);
    }
    const auto of_row = rung == "vectors" ? bias_gelu_vectors<false, scalar_t> : bias_gelu_vectors<true, scalar_t>;
    over(rows, rung == "threads", [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        of_row(columns, x + row * columns, b, y + row * columns);
      }
    });
  });
  return out;
}

// Three passes over the row: the maximum, the sum, the result.
template <typename T>
void softmax_loop(int64_t columns, const T* x, T* out) {
  using W = Wide<T>;
  W largest = -std::numeric_limits<W>::infinity(), sum = 0;
  for (int64_t i = 0; i < columns; ++i) {
    const W value = static_cast<W>(x[i]);
    largest = value > largest || std::isnan(value) ? value : largest;
  }
  for (int64_t i = 0; i < columns; ++i) {
    sum += std::exp(static_cast<W>(x[i]) - largest);
  }
  for (int64_t i = 0; i < columns; ++i) {
    out[i] = static_cast<T>(std::exp(static_cast<W>(x[i]) - largest) / sum);
  }
}

// Two passes: the sum is kept relative to the largest value so far, and scaled when a larger one comes.
// Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.
template <typename T>
void softmax_online(int64_t columns, const T* x, T* out) {
  using W = Wide<T>;
  W largest = -std::numeric_limits<W>::infinity(), sum = 0;
  for (int64_t i = 0; i < columns; ++i) {
    const W value = static_cast<W>(x[i]);
    if (value > largest) {
      sum = sum * std::exp(largest - value) + std::exp(value - value);  // 1, but NaN for +∞, as by the formula
      largest = value;
    } else {  // nothing but −inf so far gives 0 here; NaN comes here and stays
      sum += value == -std::numeric_limits<W>::infinity() ? W(0) : std::exp(value - largest);
    }
  }
  for (int64_t i = 0; i < columns; ++i) {
    out[i] = static_cast<T>(std::exp(static_cast<W>(x[i]) - largest) / sum);
  }
}

template <typename T>
void softmax_vectors(int64_t columns, const T* x, T* out) {
  using V = Vec<T>;
  const auto found = statistics(x, columns);
  const V shift(found.largest), factor(1 / found.sum);
  fill(out, columns, false, [&](int64_t i, int64_t n) {
    return each([&](V v) { return exponential<Wide<T>>(v - shift) * factor; }, read(x + i, n, T(0)));
  });
}

at::Tensor softmax_rung(const at::Tensor& input, c10::string_view rung) {
  const bool is_rung = rung == "loop" || rung == "online" || rung == "vectors" || rung == "threads";
  TORCH_CHECK_VALUE(is_rung, "no rung of softmax is '", rung, "'");
  auto out = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "softmax_rung", [&] {
    const auto* x = input.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    const auto of_row = rung == "loop" ? softmax_loop<scalar_t>
        : rung == "online"             ? softmax_online<scalar_t>
                                       : softmax_vectors<scalar_t>;
    over(rows, rung == "threads", [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        of_row(columns, x + row * columns, y + row * columns);
      }
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("bias_gelu_rung(Tensor input, Tensor bias, str rung) -> Tensor", &bias_gelu_rung);
  m.def("softmax_rung(Tensor input, str rung) -> Tensor", &softmax_rung);
}

}  // namespace blackbelt
