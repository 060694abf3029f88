// Sums over the rows, a column at a time.
#pragma once

#include "rows.h"

namespace blackbelt {

// Running sums of columns, and what rounding has taken from each so far (Kahan's compensated summation): thousands of
// rows are added up without the error that grows with their number, at the price of arithmetic that waits for memory
// anyway.
template <typename T>
struct ColumnSums {
  Wide<T>* sums;
  Wide<T>* excess;

  // Adds a pack of n columns that begins at column i.
  void add(int64_t i, int64_t n, const Pack<T>& pack) {
    using V = Vec<T>;
    for (int part = 0; part < kParts<T>; ++part) {
      const int64_t at = i + part * V::size(), count = std::clamp<int64_t>(i + n - at, 0, V::size());
      const V sum = V::loadu(sums + at, count);
      const V term = pack.part[part] - V::loadu(excess + at, count);
      const V next = sum + term;
      ((next - sum) - term).store(excess + at, count);
      next.store(sums + at, count);
    }
  }
};

// Sums over the rows, the same bits whatever the number of threads: every chunk of rows has its own sums, which
// body(first, last, ColumnSums) adds to; at the end the chunks are added up in order.
template <typename T, typename Body>
inline at::Tensor column_sums(int64_t rows, int64_t columns, const at::Tensor& like, Body body) {
  constexpr int64_t kChunk = 64;
  const int64_t chunks = (rows + kChunk - 1) / kChunk;
  const auto dtype = std::is_same_v<T, double> ? at::kDouble : at::kFloat;
  auto partial = at::zeros({2, chunks, columns}, like.options().dtype(dtype));
  auto* const sums = partial.template mutable_data_ptr<Wide<T>>();
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const ColumnSums<T> of_chunk{sums + chunk * columns, sums + (chunks + chunk) * columns};
      body(chunk * kChunk, std::min(rows, (chunk + 1) * kChunk), of_chunk);
    }
    finish_streams();
  });
  const auto totals = partial.sum(1);
  return totals[0].sub(totals[1]).to(like.scalar_type());
}

}  // namespace blackbelt
