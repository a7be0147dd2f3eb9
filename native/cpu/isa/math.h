// Vector exponential and logarithm.
#pragma once
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// e^x within 2 ulp; 0 below -87.3, x above 88 counts as 88, NaN stays NaN. Coefficients of Cephes' expf.
SELFEDIT_INLINE Vec<float> Exp(Vec<float> x) {
  x = x > 88.0f ? Splat(88.0f) : x;
  // Adding 1.5 * 2^23 rounds to an integer, and leaves that integer in the low mantissa bits.
  const Vec<float> magic = x * 1.44269504088896341f + 12582912.0f;
  const Vec<float> n = magic - 12582912.0f;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> y = Splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const BitVec<float> power = ((BitVec<float>)magic << 23) + 0x3f800000u;
  y *= (Vec<float>)power;
  return x < -87.3f ? Vec<float>{} : y;
}

// e^x within 2 ulp; 0 below -708, x above 709 counts as 709, NaN stays NaN. Taylor on |r| <= log(2) / 2.
SELFEDIT_INLINE Vec<double> Exp(Vec<double> x) {
  x = x > 709.0 ? Splat(709.0) : x;
  const Vec<double> magic = x * 1.4426950408889634 + 6755399441055744.0;
  const Vec<double> n = magic - 6755399441055744.0;
  const Vec<double> r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  Vec<double> y = Splat(1.0 / 6227020800);
  y = y * r + 1.0 / 479001600;
  y = y * r + 1.0 / 39916800;
  y = y * r + 1.0 / 3628800;
  y = y * r + 1.0 / 362880;
  y = y * r + 1.0 / 40320;
  y = y * r + 1.0 / 5040;
  y = y * r + 1.0 / 720;
  y = y * r + 1.0 / 120;
  y = y * r + 1.0 / 24;
  y = y * r + 1.0 / 6;
  y = y * r + 0.5;
  y = y * (r * r) + r + 1.0;
  const BitVec<double> power = ((BitVec<double>)magic << 52) + 0x3ff0000000000000u;
  y *= (Vec<double>)power;
  return x < -708.0 ? Vec<double>{} : y;
}

// log(x) within 2 ulp for positive normal x. Coefficients of Cephes' logf.
SELFEDIT_INLINE Vec<float> Log(Vec<float> x) {
  const IntVec<float> bits = (IntVec<float>)x;
  const IntVec<float> exponent =
      (bits - 0x3f3504f3) >> 23;  // of the power of two that leaves [sqrt(1/2), sqrt(2))
  const Vec<float> f = (Vec<float>)(bits - (exponent << 23)) - 1.0f;
  const Vec<float> e = __builtin_convertvector(exponent, Vec<float>);
  const Vec<float> z = f * f;
  Vec<float> y = Splat(7.0376836292e-2f);
  y = y * f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = y * f * z - e * 2.12194440e-4f - 0.5f * z;
  return (f + y) + e * 0.693359375f;
}

// log(1 - v) for 2^-33 <= v <= 1 - 2^-24: the logarithm of the rounded 1 - v, corrected for what rounding
// lost.
SELFEDIT_INLINE Vec<float> LogOneMinus(Vec<float> v) {
  const Vec<float> w = 1.0f - v;
  return Log(w) + ((1.0f - w) - v) / w;
}

// 1 / (1 + e^-x)
template <typename T>
SELFEDIT_INLINE Vec<T> Sigmoid(Vec<T> x) {
  return T(1) / (Exp(-x) + T(1));
}

SELFEDIT_INLINE float ScalarExp(float x) { return __builtin_expf(x); }
SELFEDIT_INLINE double ScalarExp(double x) { return __builtin_exp(x); }
SELFEDIT_INLINE float ScalarLog(float x) { return __builtin_logf(x); }
SELFEDIT_INLINE double ScalarLog(double x) { return __builtin_log(x); }
SELFEDIT_INLINE float ScalarSqrt(float x) { return __builtin_sqrtf(x); }
SELFEDIT_INLINE double ScalarSqrt(double x) { return __builtin_sqrt(x); }

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
