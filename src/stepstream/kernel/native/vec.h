// One vector of floats, as wide as the machine has it. Every operation rounds as IEEE 754 says, lane by lane, so that
// the width never shows in a result. Fused multiply-adds are written out; the compiler is told to make none.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(STEPSTREAM_V4)
#include <immintrin.h>
#define STEPSTREAM_WIDTH 16
#elif defined(STEPSTREAM_V3)
#include <immintrin.h>
#define STEPSTREAM_WIDTH 8
#elif defined(__SSE2__)
#include <emmintrin.h>
#define STEPSTREAM_WIDTH 4
#elif defined(__aarch64__)
#include <arm_neon.h>
#define STEPSTREAM_WIDTH 4
#else
#define STEPSTREAM_WIDTH 4
#endif

namespace {

constexpr int W = STEPSTREAM_WIDTH;

typedef float V __attribute__((vector_size(4 * STEPSTREAM_WIDTH)));
typedef int32_t I __attribute__((vector_size(4 * STEPSTREAM_WIDTH)));

inline V load(const float* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

inline V all(float x) { return x - V{}; }

inline V fma(V a, V b, V c) {
#if defined(STEPSTREAM_V4)
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(STEPSTREAM_V3)
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    V r;  // exact, and slow where the machine has none: the library's own
    for (int i = 0; i < W; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
#endif
}

// limit where x is above (below) it; NaN stays NaN
inline V at_most(V x, V limit) {
#if defined(STEPSTREAM_V4)
    return (V)_mm512_min_ps((__m512)limit, (__m512)x);
#elif defined(STEPSTREAM_V3)
    return (V)_mm256_min_ps((__m256)limit, (__m256)x);
#elif defined(__SSE2__)
    return (V)_mm_min_ps((__m128)limit, (__m128)x);
#else
    return limit < x ? limit : x;
#endif
}

inline V at_least(V x, V limit) {
#if defined(STEPSTREAM_V4)
    return (V)_mm512_max_ps((__m512)limit, (__m512)x);
#elif defined(STEPSTREAM_V3)
    return (V)_mm256_max_ps((__m256)limit, (__m256)x);
#elif defined(__SSE2__)
    return (V)_mm_max_ps((__m128)limit, (__m128)x);
#else
    return limit > x ? limit : x;
#endif
}

inline V root(V x) {
#if defined(STEPSTREAM_V4)
    return (V)_mm512_sqrt_ps((__m512)x);
#elif defined(STEPSTREAM_V3)
    return (V)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (V)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
    return (V)vsqrtq_f32((float32x4_t)x);
#else
    for (int i = 0; i < W; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

inline V magnitude(V x) { return (V)((I)x & 0x7fffffff); }

// a >= 0 with the sign of b
inline V signed_as(V a, V b) { return (V)((I)a | ((I)b & INT32_MIN)); }

}  // namespace
