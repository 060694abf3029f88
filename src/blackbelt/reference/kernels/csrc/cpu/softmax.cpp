// Softmax of every row: the memory is read once where a row fits the cache, and twice, online, where it does not.
#include "softmax.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace blackbelt {
namespace {

constexpr int64_t kKept = 1 << 15;  // columns whose exponentials a core's own cache holds, as float or double

// A row that fits the cache: the memory is read once, for the maximum; the exponentials are taken once, and kept.
template <typename T>
void softmax_row(const T* x, T* y, int64_t n, bool streamed, Wide<T>* kept) {
  using V = Vec<T>;
  using W = Wide<T>;
  constexpr auto kLeast = -std::numeric_limits<W>::infinity();
  const T rest = static_cast<T>(kLeast);
  const W largest = reduce<T>(
      n, kLeast, [&](int64_t i, int64_t m) { return read(x + i, m, rest); },
      [](V a, V b) { return at::vec::maximum(a, b); });
  if (!std::isfinite(largest)) {  // NaN, +inf, or nothing but −inf
    std::fill_n(y, n, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const W sum = reduce<T>(
      n, W(0),
      [&](int64_t i, int64_t m) {
        fetch_ahead(x + n + i);  // the next row comes in while this one is computed
        const auto pack = each([&](V v) { return exponential<W>(v - V(largest)); }, read(x + i, m, rest));
        for (int part = 0; part < kParts<T>; ++part) {
          pack.part[part].store(kept + i + part * V::size());
        }
        return pack;
      },
      [](V a, V b) { return a + b; });
  fill(y, n, streamed, [&](int64_t i, int64_t) {
    Pack<T> pack;
    for (int part = 0; part < kParts<T>; ++part) {
      pack.part[part] = V::loadu(kept + i + part * V::size()) * V(1 / sum);
    }
    return pack;
  });
}

// A row of any length: maximum and sum online, in one pass, and the exponentials once more in the pass that writes.
template <typename T>
void long_softmax_row(const T* x, T* y, int64_t n, bool streamed, bool shared) {
  using V = Vec<T>;
  const auto found = statistics(x, n, shared);
  if (!std::isfinite(found.largest)) {
    std::fill_n(y, n, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const V shift(found.largest), factor(1 / found.sum);
  over_row(n, shared, [&](int64_t begin, int64_t end) {
    fill(y + begin, end - begin, streamed, [&](int64_t i, int64_t m) {
      return each([&](V v) { return exponential<Wide<T>>(v - shift) * factor; }, read(x + begin + i, m, T(0)));
    });
  });
}

at::Tensor softmax(const at::Tensor& input) {
  auto out = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  const bool streamed = streams(out);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "softmax", [&] {
    const auto* x = input.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      const int64_t at = row * columns;
      if (columns > kKept) {
        return long_softmax_row(x + at, y + at, columns, streamed, shared);
      }
      static thread_local std::vector<Wide<scalar_t>> kept(kKept + 2 * kStep<scalar_t>);
      softmax_row(x + at, y + at, columns, streamed, kept.data());
    });
  });
  finish_streams();
  return out;
}

at::Tensor softmax_backward(const at::Tensor& grad, const at::Tensor& out) {
  auto grad_input = at::empty_like(out);
  const int64_t rows = out.size(0), columns = out.size(1);
  const bool streamed = streams(grad_input);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "softmax_backward", [&] {
    using V = Vec<scalar_t>;
    using W = Wide<scalar_t>;
    const scalar_t zero(0);
    const auto* g = grad.const_data_ptr<scalar_t>();
    const auto* y = out.const_data_ptr<scalar_t>();
    auto* gx = grad_input.mutable_data_ptr<scalar_t>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      const auto *slope = g + row * columns, *value = y + row * columns;
      const W total = row_sum<scalar_t>(columns, shared, [&](int64_t i, int64_t n) {
        return each([](V a, V b) { return a * b; }, read(slope + i, n, zero), read(value + i, n, zero));
      });
      over_row(columns, shared, [&](int64_t begin, int64_t end) {
        fill(gx + row * columns + begin, end - begin, streamed, [&](int64_t i, int64_t n) {
          fetch_ahead(slope + columns + begin + i);
          fetch_ahead(value + columns + begin + i);
          const auto one = [&](V a, V b) { return (a - V(total)) * b; };
          return each(one, read(slope + begin + i, n, zero), read(value + begin + i, n, zero));
        });
      });
    });
  });
  finish_streams();
  return grad_input;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("softmax(Tensor input) -> Tensor", &softmax);
  m.def("softmax_backward(Tensor grad, Tensor out) -> Tensor", &softmax_backward);
}

}  // namespace blackbelt
