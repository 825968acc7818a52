/* Phases of magnitudes by integrated phase gradients (represent/phases.py says how), in float32 and int32 on CPUs.

   Magnitudes and logarithms have n + 2 rows of `bins` values: a frame before, n frames, a frame after. Phases are counted
   in turns of 2^32 units; sums wrap. Legend: F bins, L lanes of a vector. */

#include "vectors.h"

#define ROW (2 * LANES) /* of a transposed group: L + 1 frames, and room to load L from the second on */

INLINE uint32_t to_turns(float cycles) {
    float wrapped = (cycles - __builtin_rintf(cycles)) * 4294967296.0f;
    return (uint32_t)(int32_t)(wrapped < 2147483520.0f ? wrapped : 2147483520.0f); /* half a turn is no int32 */
}

INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE ivec choose_index(ivec mask, ivec a, ivec b) { return (mask & a) | (~mask & b); }
INLINE ivec indices(int64_t k) { return (ivec){0} + (int32_t)k; }
INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }

/* The source of each bin for L pairs of frames: a lane is a frame. columns [F, ROW], levels and own [F, L]. */
static void find_sources(const float *columns, float *levels, int32_t *own, int64_t bins) {
    vec level = load(columns);
    ivec source = {0};
    for (int64_t k = 0; k < bins; k++) {
        if (k > 0) {
            vec before = load(columns + k * ROW), arriving = smaller(load(columns + (k - 1) * ROW + 1), level);
            ivec spread = arriving >= before;
            level = choose(spread, arriving, before);
            source = choose_index(spread, source, indices(k));
        }
        store(levels + k * LANES, level);
        *(ivec *)(own + k * LANES) = source;
    }
    for (int64_t k = bins - 1; k >= 0; k--) {
        vec before = load(columns + k * ROW);
        if (k == bins - 1) {
            level = before;
            source = indices(k);
        } else {
            vec arriving = smaller(load(columns + (k + 1) * ROW + 1), level);
            ivec spread = arriving >= before;
            level = choose(spread, arriving, before);
            source = choose_index(spread, source, indices(k));
        }
        ivec *mine = (ivec *)(own + k * LANES);
        *mine = choose_index(load(levels + k * LANES) >= level, *mine, source);
    }
}

/* Distance of each bin's frequency from its centre, in bins. */
static void deviate(const float *m, float *out, int64_t bins) {
    out[0] = out[bins - 1] = 0;
    for (int64_t k = 1; k < bins - 1; k++) {
        float total = (m[k - 1] / 4 + m[k] / 2) + m[k + 1] / 4;
        out[k] = (m[k + 1] - m[k - 1]) / 2 / (total > 1e-30f ? total : 1e-30f);
    }
}

/* One frame: from the phases before, the deviations before and now, logarithms a frame earlier and later. */
static void advance(const uint32_t *before, const float *was, const float *now, const float *earlier, const float *later,
                    const uint32_t *centre, const int32_t *own, uint32_t *restrict step, uint32_t *restrict moved,
                    float *restrict delay, uint32_t *restrict out, int64_t bins, float share, float slope, float bound) {
    for (int64_t k = 0; k < bins; k++) {
        float d = (later[k] - earlier[k]) * slope;
        d = d < bound ? d : bound;
        delay[k] = d > -bound ? d : -bound;
    }
    step[0] = 0;
    for (int64_t k = 1; k < bins; k++) step[k] = to_turns((delay[k - 1] + delay[k]) * 0.079577471545947673f) + 0x80000000u;
    for (int64_t k = 1; k < bins; k++) step[k] += step[k - 1];
    for (int64_t k = 0; k < bins; k++) moved[k] = before[k] + to_turns((was[k] + now[k]) * share) + centre[k] - step[k];
    for (int64_t k = 0; k < bins; k++) out[k] = moved[own[k * LANES]] + step[k];
}

/* Floats of memory that `duotone_phases` works in. */
int64_t duotone_phases_scratch(int64_t bins) { return bins * (ROW + 2 * LANES + 6); }

void duotone_phases(const float *m, const float *log, const uint32_t *turns, uint32_t *out, float *scratch, int64_t n,
                    int64_t bins, int64_t n_fft, int64_t hop, double slope, double bound) {
    float *columns = scratch, *levels = columns + bins * ROW, *deviation[2], *delay;
    int32_t *own = (int32_t *)(levels + bins * LANES);
    uint32_t *centre = (uint32_t *)(own + bins * LANES), *step = centre + bins, *moved = step + bins;
    delay = (float *)(moved + bins);
    deviation[0] = delay + bins;
    deviation[1] = deviation[0] + bins;
    float share = (float)((double)hop / (double)n_fft / 2);
    for (int64_t k = 0; k < bins; k++) centre[k] = (uint32_t)(((uint64_t)(k * hop % n_fft) << 32) / (uint64_t)n_fft);
    deviate(m, deviation[0], bins);
    for (int64_t first = 0; first < n; first += LANES) {
        int64_t count = n - first < LANES ? n - first : LANES;
        for (int64_t row = 0; row <= LANES; row++) { /* lanes without a frame repeat the last */
            const float *values = m + (first + (row < count ? row : count)) * bins;
            for (int64_t k = 0; k < bins; k++) columns[k * ROW + row] = values[k];
        }
        find_sources(columns, levels, own, bins);
        for (int64_t lane = 0; lane < count; lane++) {
            int64_t i = first + lane;
            deviate(m + (i + 1) * bins, deviation[(i + 1) % 2], bins);
            advance(turns, deviation[i % 2], deviation[(i + 1) % 2], log + i * bins, log + (i + 2) * bins, centre, own + lane,
                    step, moved, delay, out + i * bins, bins, share, (float)slope, (float)bound);
            turns = out + i * bins;
        }
    }
}

/* Cephes' polynomials for an angle within an eighth of a turn of the nearest quarter. */
INLINE void cosine_and_sine(ivec turns, vec *cosine, vec *sine) {
    ivec quarter = ((turns >> 29) + 1) >> 1; /* -2 to 2 */
    vec x = __builtin_convertvector((ivec)(turns - (quarter << 30)), vec) * 1.4629180792671596e-9f, z = x * x;
    vec s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
    vec c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    ivec odd = -(quarter & 1), flip_cosine = ((quarter + 1) & 2) << 30, flip_sine = (quarter & 2) << 30;
    *cosine = (vec)((ivec)choose(odd, s, c) ^ flip_cosine);
    *sine = (vec)((ivec)choose(odd, c, s) ^ flip_sine);
}

/* Magnitudes and turns -> pairs of real and imaginary part. */
void duotone_polar(const float *m, const int32_t *turns, float *out, int64_t count) {
    int64_t i = 0;
    for (; i < count; i += LANES) {
        float size[LANES] = {0}, real[LANES], imaginary[LANES];
        int32_t angle[LANES] = {0};
        int64_t here = count - i < LANES ? count - i : LANES;
        vec c, s;
        if (here == LANES) {
            cosine_and_sine(*(const ivec *)(turns + i), &c, &s);
            store(real, load(m + i) * c);
            store(imaginary, load(m + i) * s);
            for (int j = 0; j < LANES; j++) {
                out[2 * (i + j)] = real[j];
                out[2 * (i + j) + 1] = imaginary[j];
            }
        } else {
            for (int j = 0; j < here; j++) size[j] = m[i + j], angle[j] = turns[i + j];
            cosine_and_sine(*(const ivec *)angle, &c, &s);
            store(real, load(size) * c);
            store(imaginary, load(size) * s);
            for (int j = 0; j < here; j++) {
                out[2 * (i + j)] = real[j];
                out[2 * (i + j) + 1] = imaginary[j];
            }
        }
    }
}
