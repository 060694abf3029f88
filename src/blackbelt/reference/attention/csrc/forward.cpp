// Attention, forward: tile by tile with the softmax online. Dao et al., FlashAttention-2 (arXiv:2307.08691), algorithm 1,
// in units of log 2.
#include <torch/library.h>

#include "products.h"

namespace blackbelt {
namespace {

// What a block of queries has seen so far: per query the largest score, the sum of the exponentials relative to it, and
// the factor that puts right what was added up before the last tile.
struct Rows {
  alignas(64) float largest[kQueries];
  alignas(64) float total[kQueries];
  alignas(64) float correction[kQueries];

  Rows() {
    std::fill_n(largest, kQueries, -std::numeric_limits<float>::infinity());
    std::fill_n(total, kQueries, 0.f);
  }

  // Turns a tile of scores into exponentials. True where some query found a larger score than before.
  bool step(float* tile, int64_t count, int64_t queries) {
    bool changed = false;
    for (int64_t lane = 0; lane < queries; lane += kLanes) {
      const V before = V::loadu(largest + lane);
      V now = before;
      for (int64_t j = 0; j < count; ++j) {
        now = at::vec::clamp_min(V::loadu(tile + j * kQueries + lane), now);
      }
      V sum(0);
      for (int64_t j = 0; j < count; ++j) {
        float* const at = tile + j * kQueries + lane;
        const V power = power_of_2(V::loadu(at) - now);
        power.store(at);
        sum = sum + power;
      }
      const V factor = power_of_2(before - now);
      factor.store(correction + lane);
      at::vec::fmadd(V::loadu(total + lane), factor, sum).store(total + lane);
      now.store(largest + lane);
      changed |= (factor - V(1)).zero_mask() != (1 << kLanes) - 1;
    }
    return changed;
  }
};

void forward(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool is_causal, double scale, at::Tensor out,
    at::Tensor lse) {
  const int64_t heads = query.size(1), length = query.size(2), size = query.size(3);
  const int64_t group = heads / key.size(1), keys = key.size(2), value_size = value.size(3);
  const int64_t blocks = (length + kQueries - 1) / kQueries;
  const float factor = static_cast<float>(scale / M_LN2);
  const auto *q = query.const_data_ptr<float>(), *k = key.const_data_ptr<float>(), *v = value.const_data_ptr<float>();
  auto *o = out.mutable_data_ptr<float>(), *logarithms = lse.mutable_data_ptr<float>();
  share_out(query.size(0) * heads * blocks, [&](int64_t item) {
    const int64_t batch = item / (heads * blocks), head = item / blocks % heads;
    const int64_t row = (blocks - 1 - item % blocks) * kQueries, rows = std::min(kQueries, length - row);  // long ones first
    const Head<const float> of_query(q, query, batch, head), of_key(k, key, batch, head / group);
    const Head<const float> of_value(v, value, batch, head / group);
    const Head<float> of_out(o, out, batch, head);
    const int64_t queries = (rows + kPanel - 1) / kPanel * kPanel;
    Room packed(kQueries * size), tile(kKeys * kQueries), sums(kQueries * value_size);
    float* const sum = sums.data();
    std::fill_n(sum, kQueries * value_size, 0.f);
    pack(of_query, row, rows, size, factor, packed.data());
    Rows seen;
    const int64_t end = is_causal ? std::min(keys, row + rows) : keys;
    for (int64_t first = 0; first < end; first += kKeys) {
      const int64_t count = std::min(kKeys, end - first);
      scores(of_key, first, count, size, queries, packed.data(), tile.data());
      if (is_causal && first + count > row) {
        hide_future(tile.data(), first, count, row, queries);
      }
      if (seen.step(tile.data(), count, queries) && first) {
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t d = 0; d < value_size; ++d) {
            sum[i * value_size + d] *= seen.correction[i];
          }
        }
      }
      product<true>(
          rows, value_size, count, tile.data(), 1, kQueries, of_value[first], of_value.stride, sum, value_size);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float inverse = 1 / seen.total[i];
      for (int64_t d = 0; d < value_size; ++d) {
        of_out[row + i][d] = sum[i * value_size + d] * inverse;
      }
      logarithms[(batch * heads + head) * length + row + i] = seen.largest[i] + std::log2(seen.total[i]);
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(blackbelt_attention, m) {
  m.def(
      "forward(Tensor query, Tensor key, Tensor value, bool is_causal, float scale, Tensor(a!) out, Tensor(b!) lse) -> ()",
      &forward);
}

}  // namespace blackbelt
