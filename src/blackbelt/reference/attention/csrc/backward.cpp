// Attention, backward: per tile the probabilities again from the log-sum-exp, then P, dP and dS, and three products that
// add to the gradients. Dao et al., FlashAttention-2 (arXiv:2307.08691), algorithm 2. A thread has whole heads of keys,
// since all rows of a head add to the same keys and values.
#include <torch/library.h>

#include "products.h"

namespace blackbelt {
namespace {

// P = 2^(scores − lse) in place of the scores, dS = P·(dP − delta)·scale in place of dP.
void probabilities(float* tile, float* slope, int64_t count, int64_t queries, const float* lse, const float* delta, float scale) {
  for (int64_t lane = 0; lane < queries; lane += kLanes) {
    const V logarithm = V::loadu(lse + lane), average = V::loadu(delta + lane);
    for (int64_t at = lane; at < count * kQueries; at += kQueries) {
      const V power = power_of_2(V::loadu(tile + at) - logarithm);
      power.store(tile + at);
      (power * (V::loadu(slope + at) - average) * V(scale)).store(slope + at);
    }
  }
}

void backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& out,
    const at::Tensor& lse, bool is_causal, double scale, at::Tensor grad_query, at::Tensor grad_key, at::Tensor grad_value) {
  const int64_t heads = query.size(1), length = query.size(2), size = query.size(3);
  const int64_t key_heads = key.size(1), group = heads / key_heads, keys = key.size(2), value_size = value.size(3);
  const float factor = static_cast<float>(scale / M_LN2);
  const auto *q = query.const_data_ptr<float>(), *k = key.const_data_ptr<float>(), *v = value.const_data_ptr<float>();
  const auto *g = grad_out.const_data_ptr<float>(), *o = out.const_data_ptr<float>(), *l = lse.const_data_ptr<float>();
  auto *gq = grad_query.mutable_data_ptr<float>(), *gk = grad_key.mutable_data_ptr<float>();
  auto* gv = grad_value.mutable_data_ptr<float>();
  share_out(query.size(0) * key_heads, [&](int64_t item) {
    const int64_t batch = item / key_heads, key_head = item % key_heads;
    const Head<const float> of_key(k, key, batch, key_head), of_value(v, value, batch, key_head);
    const Head<float> to_key(gk, grad_key, batch, key_head), to_value(gv, grad_value, batch, key_head);
    Room packed(kQueries * size), packed_grad(kQueries * value_size), tile(kKeys * kQueries), slope(kKeys * kQueries);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
      const Head<const float> of_query(q, query, batch, head), of_grad(g, grad_out, batch, head), of_out(o, out, batch, head);
      const Head<float> to_query(gq, grad_query, batch, head);
      for (int64_t row = 0; row < length; row += kQueries) {
        const int64_t rows = std::min(kQueries, length - row), queries = (rows + kPanel - 1) / kPanel * kPanel;
        float logarithm[kQueries], delta[kQueries];
        std::fill_n(logarithm, kQueries, std::numeric_limits<float>::infinity());  // a lane past the end has P = 0
        std::fill_n(delta, kQueries, 0.f);
        for (int64_t i = 0; i < rows; ++i) {
          logarithm[i] = l[(batch * heads + head) * length + row + i];
          for (int64_t d = 0; d < value_size; ++d) {  // Σ P·dP over the keys is this sum over the result
            delta[i] += of_grad[row + i][d] * of_out[row + i][d];
          }
        }
        pack(of_query, row, rows, size, factor, packed.data());
        pack(of_grad, row, rows, value_size, 1.f, packed_grad.data());
        const int64_t end = is_causal ? std::min(keys, row + rows) : keys;
        for (int64_t first = 0; first < end; first += kKeys) {
          const int64_t count = std::min(kKeys, end - first);
          scores(of_key, first, count, size, queries, packed.data(), tile.data());
          scores(of_value, first, count, value_size, queries, packed_grad.data(), slope.data());
          if (is_causal && first + count > row) {
            hide_future(tile.data(), first, count, row, queries);
          }
          probabilities(tile.data(), slope.data(), count, queries, logarithm, delta, static_cast<float>(scale));
          product<true>(
              count, value_size, rows, tile.data(), kQueries, 1, of_grad[row], of_grad.stride, to_value[first], to_value.stride);
          product<true>(
              count, size, rows, slope.data(), kQueries, 1, of_query[row], of_query.stride, to_key[first], to_key.stride);
          product<true>(rows, size, count, slope.data(), 1, kQueries, of_key[first], of_key.stride, to_query[row], to_query.stride);
        }
      }
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_attention, m) {
  m.def(
      "backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, bool is_causal, float scale, "
      "Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value) -> ()",
      &backward);
}

}  // namespace blackbelt
