/* Vector types of GCC and Clang, for any processor, and the functions that several kernels share. */

#ifndef DUOTONE_VECTORS_H
#define DUOTONE_VECTORS_H

#include <omp.h>
#include <stdint.h>

#ifndef LANES
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float a) { return a - (vec){0}; }

/* exp, to 2 units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes). */
INLINE vec exponential(vec x) {
    ivec low = x < -87.0f, high = x > 88.0f;
    x = (vec)((low & (ivec)splat(-87.0f)) | (high & (ivec)splat(88.0f)) | (~(low | high) & (ivec)x));
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    vec f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec y = splat(1.9875691500e-4f);
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    return y * (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

INLINE vec silu(vec x) { return x / (1.0f + exponential(-x)); }

#endif
