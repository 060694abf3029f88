// What every kernel shares: types, vectors of 16 bytes, and sums over the threads that work on one row.
//
// No header of PyTorch and none of the C++ library: the kernels compile alone, under nvcc and under NVRTC.
// R rows of C columns, contiguous. Offsets are 64-bit, because R * C may exceed 2^31.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifdef __CUDACC_RTC__  // NVRTC has no host library to declare assert
#define BLACKBELT_ASSERT(condition) \
  do {                              \
    if (!(condition)) __trap();     \
  } while (0)
#elif !defined(BLACKBELT_ASSERT)
#undef NDEBUG
#include <assert.h>
#define BLACKBELT_ASSERT(condition) assert(condition)
#endif

namespace blackbelt {

using Index = long long;
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Sums and intermediate results are wide: float, or double for double. What is stored is rounded once.
template <typename T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
template <typename T>
using Wide = typename WideOf<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ inline T narrow(Wide<T> x) {
  return x;
}
template <>
__device__ inline __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// One instruction moves 16 bytes for each thread, 512 for a warp: fewer instructions in flight for the same bandwidth.
// It takes addresses that are multiples of 16, which all rows have where C is a multiple of the width; else N is 1.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};

template <int N, typename T>
__device__ inline Vector<T, N> load(const T* address) {
  return *reinterpret_cast<const Vector<T, N>*>(address);
}

template <int N, typename T>
__device__ inline void store(T* address, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(address) = vector;
}

template <typename W>
__device__ inline W infinity() {
#ifdef __CUDA_ARCH__  // NVRTC knows no INFINITY
  return W(__int_as_float(0x7f800000));
#else
  return W(__builtin_huge_valf());
#endif
}

// The accurate functions: a fast __expf is off by more than the numeric law allows.
__device__ inline float exp_of(float x) { return expf(x); }
__device__ inline double exp_of(double x) { return exp(x); }
__device__ inline float log_of(float x) { return logf(x); }
__device__ inline double log_of(double x) { return log(x); }
__device__ inline float erf_of(float x) { return erff(x); }
__device__ inline double erf_of(double x) { return erf(x); }
__device__ inline float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
__device__ inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }  // the other one where one is NaN
__device__ inline double larger(double a, double b) { return fmax(a, b); }

// A sum in two levels: 16 numbers, then those sums. Of 4096 numbers in one go each could be rounded 4096 times.
template <typename W>
struct LongSum {
  W total = 0, recent = 0;
  int count = 0;
  __device__ void add(W x) {
    recent += x;
    if (++count % 16 == 0) {
      total += recent;
      recent = 0;
    }
  }
  __device__ W value() const { return total + recent; }
};

// The threads that work on one row are a group: threadIdx.x in it, threadIdx.y tells the groups of a block apart.
// A group is one warp, several of them in a block (short rows), or a whole block (long rows).
struct Sum {
  template <typename W>
  __device__ static W merge(W a, W b) {
    return a + b;
  }
  template <typename W>
  __device__ static W exchange(W value, int offset) {
    return __shfl_xor_sync(ALL_LANES, value, offset);  // registers of another lane, no shared memory
  }
};

// Merge one value of every thread of a group; all of them get the result. ``empty`` changes nothing when merged.
// After log2(32) exchanges with a lane 16, 8, … 1 away every lane has the whole, added in the same order in each.
template <int GROUP, typename Merge, typename V>
__device__ inline V over_group(V value, V empty) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) value = Merge::merge(value, Merge::exchange(value, offset));
  if constexpr (GROUP > WARP) {
    __shared__ V parts[GROUP / WARP];
    const int lane = threadIdx.x % WARP;
    if (lane == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    value = lane < GROUP / WARP ? parts[lane] : empty;
    __syncthreads();  // the next call may write parts only after all have read
    for (int offset = WARP / 2; offset > 0; offset /= 2) value = Merge::merge(value, Merge::exchange(value, offset));
  }
  return value;
}

template <int GROUP, typename W>
__device__ inline W sum_over_group(W value) {
  return over_group<GROUP, Sum>(value, W(0));
}

}  // namespace blackbelt
