/* RMS norm and SwiGLU of a transformer in one pass each, for inference in float32 on CPUs. */

#include "vectors.h"

int64_t duotone_lanes(void) { return LANES; }

INLINE float sum_of(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* In place, for `heads` vectors of `size` values, one after another in each row: x * gain / sqrt(mean(x^2) + epsilon).
   Rows lie `stride` apart; size is a multiple of LANES. */
void duotone_rms_norm(float *x, const float *gain, int64_t rows, int64_t stride, int64_t heads, int64_t size,
                      double epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *values = x + row * stride + head * size;
            vec square = {0};
            for (int64_t i = 0; i < size; i += LANES) {
                vec v = load(values + i);
                square += v * v;
            }
            float scale = 1 / __builtin_sqrtf(sum_of(square) / (float)size + (float)epsilon);
            for (int64_t i = 0; i < size; i += LANES) store(values + i, load(values + i) * load(gain + i) * scale);
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
