/* A checksum of weights: tells that they have changed since they were packed, however they were changed. */

#include "vectors.h"

typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define CHAINS 4   /* that do not wait for each other */
#define SLICES 64  /* at most; their number depends on n alone, so the sum does not depend on the threads */
#define SLICE 65536 /* words that are worth another slice */

/* One step of a sum of 64 bits: for each x another result, for each sum another result. */
INLINE uint64_t mix(uint64_t sum, uint64_t x) {
    sum = (sum ^ x) * 0x9E3779B97F4A7C15u;
    return sum ^ sum >> 32;
}

static uint64_t sum_words(const uint32_t *x, int64_t n) {
    uvec state[CHAINS];
    for (int j = 0; j < CHAINS; j++) state[j] = (uvec){0} + 2654435761u * (uint32_t)(j + 1);
    int64_t i = 0;
    for (; i + CHAINS * LANES <= n; i += CHAINS * LANES)
        for (int j = 0; j < CHAINS; j++) {
            uvec s = state[j] ^ *(const uvec *)(x + i + j * LANES);
            state[j] = (s << 13 | s >> 19) * 2246822519u; /* rotated first: a change of the sign bit spreads, too */
        }
    uint64_t sum = (uint64_t)n;
    for (int j = 0; j < CHAINS; j++)
        for (int l = 0; l < LANES; l++) sum = mix(sum, state[j][l]);
    for (; i < n; i++) sum = mix(sum, x[i]);
    return sum;
}

/* Changes of one word always change the result, others all but one in 2^32 or fewer. Not made against forgers. */
uint64_t duotone_checksum(const uint32_t *x, int64_t n, int threads) {
    uint64_t sums[SLICES], sum = 0;
    int64_t slices = n / SLICE < SLICES ? n / SLICE + 1 : SLICES;
#pragma omp parallel for num_threads(threads) schedule(static) if (slices > 1)
    for (int64_t s = 0; s < slices; s++) {
        int64_t first = n * s / slices, next = n * (s + 1) / slices;
        sums[s] = sum_words(x + first, next - first);
    }
    for (int64_t s = 0; s < slices; s++) sum = mix(sum, sums[s]);
    return sum;
}
