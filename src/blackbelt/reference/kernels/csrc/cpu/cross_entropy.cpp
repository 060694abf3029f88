// Cross-entropy from logits: the losses and the log-sum-exp in one pass; the gradient made again from the log-sum-exp,
// or written over the logits at once.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "softmax.h"

namespace blackbelt {
namespace {

int64_t checked(int64_t target, int64_t columns) {
  TORCH_CHECK_INDEX(target >= 0 && target < columns, "Target ", target, " is out of bounds for ", columns, " classes.");
  return target;
}

// log Σ − (chosen − largest), not lse − chosen: two large numbers would leave a small one full of their errors.
template <typename T>
Wide<T> loss_of(const T* row, int64_t target, const Statistics<Wide<T>>& found) {
  return std::log(found.sum) - (static_cast<Wide<T>>(row[target]) - found.largest);
}

at::ScalarType wide_of(const at::Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::tuple<at::Tensor, at::Tensor> cross_entropy(const at::Tensor& logits, const at::Tensor& target, int64_t ignored) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  auto losses = at::empty({rows}, logits.options().dtype(wide_of(logits)));
  auto lse = at::empty({rows}, logits.options().dtype(at::kDouble));  // float would round it, and every probability
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "cross_entropy", [&] {
    const auto* x = logits.const_data_ptr<scalar_t>();
    const auto* t = target.const_data_ptr<int64_t>();
    auto* loss = losses.mutable_data_ptr<Wide<scalar_t>>();
    auto* logarithm = lse.mutable_data_ptr<double>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      const auto* from = x + row * columns;
      const auto found = statistics(from, columns, shared);
      loss[row] = t[row] == ignored ? 0 : loss_of(from, checked(t[row], columns), found);
      logarithm[row] = static_cast<double>(found.largest) + std::log(static_cast<double>(found.sum));
    });
  });
  return {losses, lse};
}

at::Tensor cross_entropy_backward(
    const at::Tensor& grad, const at::Tensor& logits, const at::Tensor& target, const at::Tensor& lse, int64_t ignored) {
  auto out = at::empty_like(logits);
  const int64_t rows = logits.size(0), columns = logits.size(1);
  const bool streamed = streams(out);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "cross_entropy_backward", [&] {
    using V = Vec<scalar_t>;
    using W = Wide<scalar_t>;
    const auto* x = logits.const_data_ptr<scalar_t>();
    const auto* t = target.const_data_ptr<int64_t>();
    const auto* g = grad.const_data_ptr<W>();
    const auto* l = lse.const_data_ptr<double>();
    auto* gx = out.mutable_data_ptr<scalar_t>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      const auto* from = x + row * columns;
      auto* to = gx + row * columns;
      const bool is_ignored = t[row] == ignored;
      const W high = static_cast<W>(l[row]);
      const W low = std::isfinite(high) ? static_cast<W>(l[row] - high) : 0;  // what W could not hold of it
      const V factor(is_ignored ? 0 : g[row]);
      over_row(columns, shared, [&](int64_t begin, int64_t end) {
        fill(to + begin, end - begin, streamed, [&](int64_t i, int64_t n) {
          const auto one = [&](V v) { return exponential<W>(v - V(high) - V(low)) * factor; };
          return is_ignored ? Pack<scalar_t>{} : each(one, read(from + begin + i, n, scalar_t(0)));
        });
      });
      if (!is_ignored) {
        finish_streams();
        const int64_t chosen = checked(t[row], columns);
        const W probability = std::exp(static_cast<W>(from[chosen]) - high - low);
        to[chosen] = static_cast<scalar_t>((probability - 1) * g[row]);
      }
    });
  });
  return out;
}

at::Tensor cross_entropy_(at::Tensor logits, const at::Tensor& target, int64_t ignored, const at::Tensor& factor) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  auto losses = at::empty({rows}, logits.options().dtype(wide_of(logits)));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "cross_entropy_", [&] {
    using V = Vec<scalar_t>;
    using W = Wide<scalar_t>;
    auto* x = logits.mutable_data_ptr<scalar_t>();
    const auto* t = target.const_data_ptr<int64_t>();
    auto* loss = losses.mutable_data_ptr<W>();
    const W scale = *factor.const_data_ptr<W>();
    over_rows(rows, columns, [&](int64_t row, bool shared) {
      auto* const at = x + row * columns;
      if (t[row] == ignored) {
        std::fill_n(at, columns, scalar_t(0));
        loss[row] = 0;
        return;
      }
      const auto found = statistics<scalar_t>(at, columns, shared);
      const int64_t chosen = checked(t[row], columns);
      loss[row] = loss_of<scalar_t>(at, chosen, found);
      const W probability = std::exp(static_cast<W>(at[chosen]) - found.largest) / found.sum;
      const V rescale(scale / found.sum);
      over_row(columns, shared, [&](int64_t begin, int64_t end) {
        // The row is in the cache from the first pass, and its lines are owned: an ordinary store costs nothing more.
        fill(at + begin, end - begin, false, [&](int64_t i, int64_t n) {
          const auto one = [&](V v) { return exponential<W>(v - V(found.largest)) * rescale; };
          return each(one, read<scalar_t>(at + begin + i, n, scalar_t(0)));
        });
      });
      at[chosen] = static_cast<scalar_t>((probability - 1) * scale);
    });
  });
  return losses;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_cpu, m) {
  m.def("cross_entropy(Tensor logits, Tensor target, int ignore_index) -> (Tensor, Tensor)", &cross_entropy);
  m.def(
      "cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, Tensor lse, int ignore_index) -> Tensor",
      &cross_entropy_backward);
  m.def("cross_entropy_(Tensor(a!) logits, Tensor target, int ignore_index, Tensor factor) -> Tensor", &cross_entropy_);
}

}  // namespace blackbelt
