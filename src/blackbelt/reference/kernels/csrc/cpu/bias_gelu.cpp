// GELU(input + bias) and its derivative: what is read once, computed in registers, and written once.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "columns.h"
#include "normal.h"

namespace blackbelt {
namespace {

at::Tensor bias_gelu(const at::Tensor& input, const at::Tensor& bias) {
  auto out = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  const bool streamed = streams(out);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "bias_gelu", [&] {
    const auto* x = input.const_data_ptr<scalar_t>();
    const auto* b = bias.const_data_ptr<scalar_t>();
    auto* y = out.mutable_data_ptr<scalar_t>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      over_row(columns, shared, [&](int64_t begin, int64_t end) {
        const auto* from = x + row * columns + begin;
        fill(y + row * columns + begin, end - begin, streamed, [&](int64_t i, int64_t n) {
          using V = Vec<scalar_t>;
          const auto one = [](V value, V offset) {
            value = value + offset;
            return value * normal<scalar_t>(value).share;
          };
          return each(one, read(from + i, n, scalar_t(0)), read(b + begin + i, n, scalar_t(0)));
        });
      });
    });
  });
  finish_streams();
  return out;
}

std::tuple<at::Tensor, at::Tensor> bias_gelu_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& bias) {
  auto grad_input = at::empty_like(input);
  const int64_t rows = input.size(0), columns = input.size(1);
  const bool streamed = streams(grad_input);
  at::Tensor grad_bias;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "bias_gelu_backward", [&] {
    using V = Vec<scalar_t>;
    const auto* g = grad.const_data_ptr<scalar_t>();
    const auto* x = input.const_data_ptr<scalar_t>();
    const auto* b = bias.const_data_ptr<scalar_t>();
    auto* gx = grad_input.mutable_data_ptr<scalar_t>();
    const auto derivative = [](V slope, V value, V offset) {
      value = value + offset;
      const auto [share, density] = normal<scalar_t>(value);
      return slope * at::vec::fmadd(value, density, share);
    };
    const auto add = [&](int64_t first, int64_t last, ColumnSums<scalar_t> sums) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * columns;
        fill(gx + at, columns, streamed, [&](int64_t i, int64_t n) {
          const auto pack =
              each(derivative, read(g + at + i, n, scalar_t(0)), read(x + at + i, n, scalar_t(0)), read(b + i, n, scalar_t(0)));
          sums.add(i, n, pack);
          return pack;
        });
      }
    };
    grad_bias = column_sums<scalar_t>(rows, columns, input, add);
  });
  return {grad_input, grad_bias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("bias_gelu(Tensor input, Tensor bias) -> Tensor", &bias_gelu);
  m.def("bias_gelu_backward(Tensor grad, Tensor input, Tensor bias) -> (Tensor, Tensor)", &bias_gelu_backward);
}

}  // namespace blackbelt
