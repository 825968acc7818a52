/* RMS norms, with what follows them, and SwiGLU of a transformer in one pass each, for inference in float32 on CPUs. */

#include "vectors.h"

int64_t duotone_lanes(void) { return LANES; }

INLINE float sum_of(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* 1 / sqrt(mean(x^2) + epsilon) of `size` values. */
INLINE float inverse_rms(const float *x, int64_t size, float epsilon) {
    vec square = {0};
    for (int64_t i = 0; i < size; i += LANES) square += load(x + i) * load(x + i);
    return 1 / __builtin_sqrtf(sum_of(square) / (float)size + epsilon);
}

/* In place, for `heads` vectors of `size` values, one after another in each row: x * gain / sqrt(mean(x^2) + epsilon).
   Rows lie `stride` apart; size is a multiple of LANES. */
void duotone_rms_norm(float *x, const float *gain, int64_t rows, int64_t stride, int64_t heads, int64_t size,
                      double epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *values = x + row * stride + head * size;
            float scale = inverse_rms(values, size, (float)epsilon);
            for (int64_t i = 0; i < size; i += LANES) store(values + i, load(values + i) * load(gain + i) * scale);
        }
}

/* Rows of `size` values -> x / sqrt(mean(x^2) + epsilon) * scale + shift. Each `per` rows have one scale and one shift, which lie
   `scale_stride` and `shift_stride` apart; size is a multiple of LANES. */
void duotone_modulated_norm(const float *x, const float *scale, const float *shift, float *out, int64_t rows, int64_t size,
                            int64_t per, int64_t scale_stride, int64_t shift_stride, double epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *values = x + row * size;
        const float *times = scale + row / per * scale_stride, *plus = shift + row / per * shift_stride;
        float inverse = inverse_rms(values, size, (float)epsilon);
        for (int64_t i = 0; i < size; i += LANES)
            store(out + row * size + i, load(values + i) * inverse * load(times + i) + load(plus + i));
    }
}

/* In place, for `heads` vectors of `size` values, one after another in each row: x / sqrt(mean(x^2) + epsilon), whose pairs are then turned
   to (x0 cos + x1 sin, x1 cos + x0 sin), with the signed sines of rotary.py. Row r is turned by row r % turns of cos and sin. */
void duotone_turned_norm(float *x, const float *cos, const float *sin, int64_t rows, int64_t stride, int64_t heads, int64_t size,
                         int64_t turns, double epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *c = cos + row % turns * size, *s = sin + row % turns * size;
        for (int64_t head = 0; head < heads; head++) {
            float *values = x + row * stride + head * size;
            float inverse = inverse_rms(values, size, (float)epsilon);
            for (int64_t i = 0; i < size; i += 2) {
                float first = values[i] * inverse, second = values[i + 1] * inverse;
                values[i] = first * c[i] + second * s[i];
                values[i + 1] = second * c[i + 1] + first * s[i + 1];
            }
        }
    }
}

/* Rows [gate, value], 2 x size -> value * silu(gate), size: a multiple of LANES. */
void duotone_swiglu(const float *x, float *out, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * size, *value = gate + size;
        for (int64_t i = 0; i < size; i += LANES)
            store(out + row * size + i, load(value + i) * silu(load(gate + i)));
    }
}
