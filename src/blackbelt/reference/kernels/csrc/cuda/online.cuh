// The maximum of a row and the sum of exp(x - maximum) in one reading pass: the online softmax.
//
// A maximum seen later rescales the sum: exp(x - old) = exp(x - new) * exp(new - old). So two parts of a row, each with
// its own maximum, merge in any order (Milakov and Gimelshein, 2018, "Online normalizer calculation for softmax").
#pragma once

#include "common.cuh"

namespace blackbelt {

template <typename W>
struct Online {
  W largest;
  W total;
};

template <typename W>
__device__ inline Online<W> nothing_seen() {
  return {-infinity<W>(), W(0)};
}

struct MergeOnline {
  template <typename W>
  __device__ static W rescaled(const Online<W>& part, W largest) {
    // Equal maxima need no factor; and of two infinite ones exp(inf - inf) would be NaN.
    return part.largest == largest ? part.total : part.total * exp_of(part.largest - largest);
  }
  template <typename W>
  __device__ static Online<W> merge(const Online<W>& a, const Online<W>& b) {
    const W largest = larger(a.largest, b.largest);
    return {largest, rescaled(a, largest) + rescaled(b, largest)};
  }
  template <typename W>
  __device__ static Online<W> exchange(const Online<W>& part, int offset) {
    return {Sum::exchange(part.largest, offset), Sum::exchange(part.total, offset)};
  }
};

// A thread that has met -inf only has -inf for its maximum: such a number counts 0, not exp(-inf + inf) = NaN.
// +inf does give NaN, exp(inf - inf), and so does NaN: as in PyTorch, the whole row is NaN then.
template <typename W>
__device__ inline W term(W x, W largest) {
  return x == -infinity<W>() ? W(0) : exp_of(x - largest);
}

template <int N, typename T>
__device__ inline void see(Online<Wide<T>>& seen, const Vector<T, N>& vector) {
  using W = Wide<T>;
  // The maximum of the vector first: one rescaling for N numbers.
  Online<W> part = nothing_seen<W>();
  for (int i = 0; i < N; ++i) part.largest = larger(part.largest, widen(vector.values[i]));
  part.largest = larger(part.largest, seen.largest);
  for (int i = 0; i < N; ++i) part.total += term(widen(vector.values[i]), part.largest);
  part.total += MergeOnline::rescaled(seen, part.largest);
  seen = part;
}

// One pass over a row by a group of threads; neighbors in the warp read neighboring addresses (coalescing).
template <int GROUP, int N, typename T>
__device__ inline Online<Wide<T>> online_over_row(const T* row, Index columns) {
  auto seen = nothing_seen<Wide<T>>();
  for (Index c = Index(threadIdx.x) * N; c < columns; c += GROUP * N) see(seen, load<N>(row + c));
  return over_group<GROUP, MergeOnline>(seen, nothing_seen<Wide<T>>());
}

}  // namespace blackbelt
