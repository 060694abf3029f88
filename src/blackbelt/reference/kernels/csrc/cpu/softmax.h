// The largest value of a row and Σ exp(x − largest), in one pass over it.
#pragma once

#include "exponential.h"

namespace blackbelt {

// (largest, sum) of some columns. Two of them merge: the sum that is relative to the smaller maximum is scaled down.
template <typename W>
struct Statistics {
  W largest = -std::numeric_limits<W>::infinity();
  W sum = 0;

  void merge(const Statistics& other) {
    if (std::isnan(largest) || std::isnan(other.largest)) {
      largest = sum = std::numeric_limits<W>::quiet_NaN();
      return;
    }
    const W both = std::max(largest, other.largest);
    if (both == -std::numeric_limits<W>::infinity()) {
      return;  // nothing but −inf so far, whose exponentials are 0; exp(−inf − (−inf)) would be NaN
    }
    sum = sum * std::exp(largest - both) + other.sum * std::exp(other.largest - both);
    largest = both;
  }
};

// Chunk by chunk: the maximum of a chunk, then its exponentials while it is in the first-level cache. So the memory is
// read once, and a rescaling is paid for once per chunk, not once per element.
template <typename T>
inline Statistics<Wide<T>> statistics(const T* row, int64_t n) {
  using V = Vec<T>;
  using W = Wide<T>;
  constexpr int64_t kChunk = 2048;
  constexpr auto kLeast = -std::numeric_limits<W>::infinity();
  Statistics<W> all;
  for (int64_t start = 0; start < n; start += kChunk) {
    const T* x = row + start;
    const int64_t count = std::min(kChunk, n - start);
    const T rest = static_cast<T>(kLeast);
    Statistics<W> chunk;
    chunk.largest = reduce<T>(
        count, kLeast, [&](int64_t i, int64_t m) { return read(x + i, m, rest); },
        [](V a, V b) { return at::vec::maximum(a, b); });
    if (!std::isfinite(chunk.largest)) {
      chunk.sum = chunk.largest == kLeast ? 0 : std::numeric_limits<W>::quiet_NaN();
    } else {
      const V shift(chunk.largest);
      chunk.sum = reduce<T>(
          count, W(0),
          [&](int64_t i, int64_t m) { return each([&](V v) { return exponential<W>(v - shift); }, read(x + i, m, rest)); },
          [](V a, V b) { return a + b; });
    }
    all.merge(chunk);
  }
  return all;
}

// The same, by all threads where they share the row.
template <typename T>
inline Statistics<Wide<T>> statistics(const T* row, int64_t n, bool shared) {
  if (!shared) {
    return statistics(row, n);
  }
  std::vector<Statistics<Wide<T>>> blocks((n + kBlock - 1) / kBlock);
  over_row(n, true, [&](int64_t begin, int64_t end) { blocks[begin / kBlock] = statistics(row + begin, end - begin); });
  Statistics<Wide<T>> all;
  for (const auto& block : blocks) {
    all.merge(block);
  }
  return all;
}

}  // namespace blackbelt
