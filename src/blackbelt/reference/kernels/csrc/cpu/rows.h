// Rows of T, read and written as vectors of the type that is computed in.
//
// A kernel is written once for float, double, half and bfloat16: a Pack<T> is as many elements of T as fill a whole
// register of T, widened to float (one vector of float, or two for the 16-bit types), or to double for double.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/zeros.h>
#include <c10/macros/Macros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
#include <immintrin.h>
#endif

namespace blackbelt {

template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <typename T>
using Vec = at::vec::Vectorized<Wide<T>>;

template <typename T>
constexpr int kParts = sizeof(T) == 2 ? 2 : 1;
template <typename T>
constexpr int64_t kStep = Vec<T>::size() * kParts<T>;

// Packs live in registers: what takes or gives one is inlined always, or every call would put them on the stack.
template <typename T>
struct Pack {
  Vec<T> part[kParts<T>];
};

// A whole pack, from any address.
template <typename T>
C10_ALWAYS_INLINE Pack<T> read(const T* from) {
  if constexpr (kParts<T> == 2) {
    Pack<T> pack;
    at::vec::load_to_float<T>(from, pack.part[0], pack.part[1]);
    return pack;
  } else {
    return {{Vec<T>::loadu(from)}};
  }
}

template <typename T>
C10_ALWAYS_INLINE void write(T* to, const Pack<T>& pack) {
  if constexpr (kParts<T> == 2) {
    at::vec::convert_from_float<T>(pack.part[0], pack.part[1]).store(to);
  } else {
    pack.part[0].store(to);
  }
}

// The end of a row: n elements of a pack, `rest` in place of the others.
template <typename T>
C10_ALWAYS_INLINE Pack<T> read(const T* from, int64_t n, T rest) {
  if (n == kStep<T>) {
    return read(from);
  }
  T padded[kStep<T>];
  std::fill(std::copy_n(from, n, padded), padded + kStep<T>, rest);
  return read(padded);
}

template <typename T>
C10_ALWAYS_INLINE void write(T* to, const Pack<T>& pack, int64_t n) {
  if (n == kStep<T>) {
    return write(to, pack);
  }
  T padded[kStep<T>];
  write(padded, pack);
  std::copy_n(padded, n, to);
}

// f of every part of one, two or three packs.
template <typename T, typename F, typename... Packs>
C10_ALWAYS_INLINE Pack<T> each(F f, const Pack<T>& first, const Packs&... others) {
  Pack<T> result;
  for (int i = 0; i < kParts<T>; ++i) {
    result.part[i] = f(first.part[i], others.part[i]...);
  }
  return result;
}

// A store that goes past the caches. An ordinary store of a line that is not cached reads it first, to own it; for a
// result too large to stay in the cache that is a third of the traffic of reading one tensor and writing one.
template <typename T>
C10_ALWAYS_INLINE void stream(T* to, const Pack<T>& pack) {
#if defined(CPU_CAPABILITY_AVX512) && !defined(_MSC_VER)
  alignas(64) T line[kStep<T>];
  write(line, pack);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_load_si512(line));
#elif defined(CPU_CAPABILITY_AVX2) && !defined(_MSC_VER)
  alignas(32) T line[kStep<T>];
  write(line, pack);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm256_load_si256(reinterpret_cast<__m256i*>(line)));
#else
  write(to, pack);
#endif
}

inline void finish_streams() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();  // streamed stores are seen by other threads from here on
#endif
}

// Asks for the line of memory at an address, which need not exist, without waiting for it.
inline void fetch_ahead(const void* line) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1);
#endif
}

// Whether a result is so large that whoever reads it next will not find it in a cache.
inline bool streams(const at::Tensor& out) {
  return out.nbytes() >= (int64_t{16} << 20);
}

// out[i] for i in [0, n): body(i, count) gives the pack that begins at i, of which `count` elements are wanted.
template <typename T, typename Body>
inline void fill(T* out, int64_t n, bool streamed, Body body) {
  int64_t i = 0;
  if (streamed) {
    const auto past = static_cast<int64_t>(reinterpret_cast<std::uintptr_t>(out) / sizeof(T)) % kStep<T>;
    if (const int64_t head = past ? std::min(kStep<T> - past, n) : 0) {  // up to where a register's bytes are aligned
      write(out, body(0, head), head);
      i = head;
    }
    for (; i + kStep<T> <= n; i += kStep<T>) {
      stream(out + i, body(i, kStep<T>));
    }
  }
  for (; i + kStep<T> <= n; i += kStep<T>) {
    write(out + i, body(i, kStep<T>));
  }
  if (i < n) {
    write(out + i, body(i, n - i), n - i);
  }
}

// Combines body(i, count) over a row into one number: four running vectors, so that one addition need not wait for
// the last one to be done, then their lanes. `rest` is what body gives for the lanes past the end.
template <typename T, typename Body, typename Combine>
inline Wide<T> reduce(int64_t n, Wide<T> start, Body body, Combine combine) {
  constexpr int kRunning = 4;
  Vec<T> running[kRunning];
  for (auto& vector : running) {
    vector = Vec<T>(start);
  }
  int64_t i = 0;
  const auto add = [&](int which, const Pack<T>& pack) {
    for (int part = 0; part < kParts<T>; ++part) {
      running[which] = combine(running[which], pack.part[part]);
    }
  };
  for (; i + kRunning * kStep<T> <= n; i += kRunning * kStep<T>) {
    for (int which = 0; which < kRunning; ++which) {
      add(which, body(i + which * kStep<T>, kStep<T>));
    }
  }
  for (; i < n; i += kStep<T>) {
    add(0, body(i, std::min(kStep<T>, n - i)));
  }
  const auto all = combine(combine(running[0], running[1]), combine(running[2], running[3]));
  return at::vec::vec_reduce_all<Wide<T>>(combine, all);
}

constexpr int64_t kBlock = 1 << 15;  // columns that one thread takes of a row that several share

// Whether threads share each row: there are fewer rows than threads, and the rows are long.
inline bool shares_rows(int64_t rows, int64_t columns) {
  return rows < at::get_num_threads() && columns >= 2 * kBlock;
}

// body(begin, end) for the blocks of a row, by all threads or, where rows are not shared, at once.
template <typename Body>
inline void over_row(int64_t columns, bool shared, Body body) {
  if (!shared) {
    return body(0, columns);
  }
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      body(block * kBlock, std::min(columns, (block + 1) * kBlock));
    }
    finish_streams();
  });
}

// body(row, shared) for every row, by all threads; or row after row where the threads share each of them.
template <typename Body>
inline void over_rows(int64_t rows, int64_t columns, Body body) {
  const bool shared = shares_rows(rows, columns);
  if (shared) {
    for (int64_t row = 0; row < rows; ++row) {
      body(row, true);
    }
    return;
  }
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(columns, 1));
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      body(row, false);
    }
    finish_streams();
  });
}

// Σ body(i, count) over a row of n elements. Chunks are summed in vectors, and their sums in double: a million numbers in
// one running sum would lose the digits that PyTorch's cascade keeps.
template <typename T, typename Body>
inline Wide<T> row_sum(int64_t n, bool shared, Body body) {
  constexpr int64_t kChunk = 4096;
  std::vector<double> sums(shared ? (n + kBlock - 1) / kBlock : 1);
  over_row(n, shared, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t start = begin; start < end; start += kChunk) {
      const auto at = [&](int64_t i, int64_t count) { return body(start + i, count); };
      const auto add = [](Vec<T> a, Vec<T> b) { return a + b; };
      sum += reduce<T>(std::min(kChunk, end - start), Wide<T>(0), at, add);
    }
    sums[begin / kBlock] = sum;
  });
  double total = 0;
  for (const double sum : sums) {
    total += sum;
  }
  return static_cast<Wide<T>>(total);
}

}  // namespace blackbelt
