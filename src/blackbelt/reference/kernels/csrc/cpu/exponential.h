// exp of a vector, in line: a call to a library would put every register on the stack.
#pragma once

#include "rows.h"

namespace blackbelt {

// p[0] + p[1] x + p[2] x² + …, by Horner's rule.
template <typename V, size_t n>
C10_ALWAYS_INLINE V polynomial(const float (&p)[n], V x) {
  V sum(p[n - 1]);
  for (size_t i = n - 1; i-- > 0;) {
    sum = at::vec::fmadd(sum, x, V(p[i]));
  }
  return sum;
}

// exp(x), and NaN for NaN; for AVX-512 in twelve or fourteen instructions: x = n ln 2 + r with |r| ≤ ln 2 / 2, a polynomial
// for exp(r) (fitted for the smallest largest relative error: 5e-6 where T has 16 bits, 3e-9 for float), and 2ⁿ by an
// instruction that also makes the subnormal numbers, 0 and inf.
template <typename T>
C10_ALWAYS_INLINE Vec<T> exponential(Vec<T> x) {
#if defined(CPU_CAPABILITY_AVX512) && !defined(_MSC_VER)
  if constexpr (!std::is_same_v<T, double>) {
    // A NaN stays one: where an operand is NaN, these return the second.
    const __m512 kept = _mm512_min_ps(_mm512_set1_ps(89), _mm512_max_ps(_mm512_set1_ps(-104), x));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(kept, _mm512_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), kept);  // ln 2 in two parts, the first of few bits
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
    if constexpr (sizeof(T) == 2) {
      return _mm512_scalef_ps(polynomial({1.0F, 1.0F, 0.500051181F, 0.167535313F, 0.0412776713F}, Vec<T>(r)), n);
    } else {
      constexpr float kSeries[] = {1.0F, 1.0F, 4.99999935e-1F, 1.66665206e-1F, 4.16683880e-2F, 8.36871689e-3F, 1.38145985e-3F};
      return _mm512_scalef_ps(polynomial(kSeries, Vec<T>(r)), n);
    }
  }
#endif
  return Vec<T>::blendv(x.exp_u20(), x, x != x);  // which makes a finite number of NaN
}

}  // namespace blackbelt
