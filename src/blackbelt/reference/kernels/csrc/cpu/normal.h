// The normal distribution, in line: a call to a library's error function would put every register on the stack.
#pragma once

#include "exponential.h"

namespace blackbelt {

// A normal distribution at x: the share Φ(x) below x, and the density φ(x).
template <typename V>
struct Normal {
  V share, density;
};

// In float the share beyond |x| is exp(−x²/2) times a polynomial in t = 1/(1 + p|x|), the form of Abramowitz and Stegun,
// Handbook of Mathematical Functions, 7.1.25 and 7.1.26, fitted for the smallest largest error: relative 1.1e-5 for
// results of 16 bits, absolute 1.1e-8 for float. The density has the exponential already.
template <typename T>
C10_ALWAYS_INLINE Normal<Vec<T>> normal(Vec<T> x) {
  using V = Vec<T>;
  constexpr double kPeak = M_2_SQRTPI * M_SQRT1_2 * 0.5;  // φ(0)
  const V power = exponential<T>(x * x * V(-0.5));
  const auto share = [&](float p, const auto& series) {
    const V t = V(1) / at::vec::fmadd(x.abs(), V(p), V(1));
    const V beyond = polynomial(series, t) * t * power;
    return V::blendv(V(1) - beyond, beyond, x < V(0));
  };
  if constexpr (sizeof(T) == 2) {
    constexpr float kSeries[] = {0.141887335F, 0.162505692F, 0.0454924333F, 0.246049824F, -0.0959352850F};
    return {share(0.36F, kSeries), power * V(kPeak)};
  } else if constexpr (std::is_same_v<T, float>) {
    constexpr float kSeries[] = {0.116425391F, 0.0680983409F, 0.267402994F, -0.235118043F, 0.388714633F, -0.105523316F};
    return {share(0.28F, kSeries), power * V(kPeak)};
  } else {
    return {V(0.5) * (V(1) + (x * V(M_SQRT1_2)).erf()), power * V(kPeak)};
  }
}

}  // namespace blackbelt
