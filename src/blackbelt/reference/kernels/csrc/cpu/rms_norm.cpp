// Root-mean-square normalization (Zhang and Sennrich, arXiv:1910.07467) and its derivative.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "columns.h"

namespace blackbelt {
namespace {

std::tuple<at::Tensor, at::Tensor> rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps) {
  auto out = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  const bool streamed = streams(out);
  const bool doubled = input.scalar_type() == at::kDouble;
  auto rstd = at::empty({rows}, input.options().dtype(doubled ? at::kDouble : at::kFloat));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "rms_norm", [&] {
    using V = Vec<scalar_t>;
    using W = Wide<scalar_t>;
    const scalar_t zero(0);
    const auto* x = input.const_data_ptr<scalar_t>();
    const auto* w = weight.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    auto* r = rstd.mutable_data_ptr<W>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      const auto* from = x + row * columns;
      const W squares = row_sum<scalar_t>(columns, shared, [&](int64_t i, int64_t n) {
        return each([](V v) { return v * v; }, read(from + i, n, zero));
      });
      r[row] = 1 / std::sqrt(squares / static_cast<W>(columns) + static_cast<W>(eps));
      const V factor(r[row]);
      over_row(columns, shared, [&](int64_t begin, int64_t end) {
        fill(y + row * columns + begin, end - begin, streamed, [&](int64_t i, int64_t n) {
          fetch_ahead(from + columns + begin + i);  // the next row comes in while this one is computed
          const auto one = [&](V v, V scale) { return v * factor * scale; };
          return each(one, read(from + begin + i, n, zero), read(w + begin + i, n, zero));
        });
      });
    });
  });
  finish_streams();
  return {out, rstd};
}

// With n = x·rstd and g = grad·weight: grad_input = rstd·(g − n·mean(g·n)), grad_weight = Σ grad·n over the rows.
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight, const at::Tensor& rstd) {
  auto grad_input = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  const bool streamed = streams(grad_input);
  at::Tensor grad_weight;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "rms_norm_backward", [&] {
    using V = Vec<scalar_t>;
    using W = Wide<scalar_t>;
    const scalar_t zero(0);
    const auto* g = grad.const_data_ptr<scalar_t>();
    const auto* x = input.const_data_ptr<scalar_t>();
    const auto* w = weight.const_data_ptr<scalar_t>();
    const auto* r = rstd.const_data_ptr<W>();
    auto* gx = grad_input.mutable_data_ptr<scalar_t>();
    const auto add = [&](int64_t first, int64_t last, ColumnSums<scalar_t> sums) {
      for (int64_t row = first; row < last; ++row) {
        const auto *slope = g + row * columns, *from = x + row * columns;
        const V scale(r[row]);
        const W mean = row_sum<scalar_t>(columns, false, [&](int64_t i, int64_t n) {
          const auto product = [&](V a, V v, V factor) { return a * factor * (v * scale); };
          return each(product, read(slope + i, n, zero), read(from + i, n, zero), read(w + i, n, zero));
        }) / static_cast<W>(columns);
        fill(gx + row * columns, columns, streamed, [&](int64_t i, int64_t n) {
          const auto a = read(slope + i, n, zero), v = read(from + i, n, zero);
          sums.add(i, n, each([&](V a, V v) { return a * (v * scale); }, a, v));
          const auto one = [&](V a, V v, V factor) { return scale * (a * factor - v * scale * V(mean)); };
          return each(one, a, v, read(w + i, n, zero));
        });
      }
    };
    grad_weight = column_sums<scalar_t>(rows, columns, input, add);
  });
  return {grad_input, grad_weight};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("rms_norm(Tensor input, Tensor weight, float eps) -> (Tensor, Tensor)", &rms_norm);
  m.def("rms_norm_backward(Tensor grad, Tensor input, Tensor weight, Tensor rstd) -> (Tensor, Tensor)", &rms_norm_backward);
}

}  // namespace blackbelt
