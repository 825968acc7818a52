/* The range coder of codec/adaptive.py, which describes it and computes the same. */

#include "vectors.h"

#define TOP ((uint64_t)1 << 56)
#define BOTTOM ((uint64_t)1 << 48)
#define ONE 4096
#define START (ONE * 3 / 2)

/* How large residuals are: of each value over past tokens, and of all values in this token and the one before. */
typedef struct {
    int32_t *usual, *before; /* [period] */
    int64_t quiet, total;
    int32_t period, k, first;
} Model;

static void model_start(Model *m, int32_t *scratch, int32_t period, int32_t levels) {
    *m = (Model){scratch, scratch + period, START, 0, period, 0, 1};
    for (int32_t i = 0; i < period; i++) {
        m->usual[i] = START;
        m->before[i] = levels / 2;
    }
}

/* The cumulative frequencies of the next value, [levels + 1]. */
INLINE const uint32_t *model_row(const Model *m, const uint32_t *tables, const int32_t *bounds, int32_t bins, int32_t levels) {
    int64_t local = (m->quiet + m->total) / (m->k + 1);
    int64_t mean = (m->usual[m->k] + 2 * local) / 3;
    int32_t bin = 0;
    while (bin < bins - 1 && bounds[bin] <= mean) bin++;
    return tables + ((int64_t)bin * levels + m->before[m->k]) * (levels + 1);
}

INLINE void model_update(Model *m, int32_t value) {
    int32_t off = value - m->before[m->k];
    int32_t residual = m->first ? START : (off < 0 ? -off : off) * ONE;
    m->usual[m->k] += (residual >> 3) - (m->usual[m->k] >> 3);
    m->before[m->k] = value;
    m->total += residual;
    if (++m->k == m->period) {
        m->quiet = m->total / m->period;
        m->total = 0;
        m->k = m->first = 0;
    }
}

/* Whether the first byte of all numbers of the interval is settled; narrows an interval that lies across a border. */
INLINE int settled(uint64_t low, uint64_t *range) {
    if ((low ^ (low + *range)) < TOP) return 1;
    if (*range >= BOTTOM) return 0;
    *range = -low & (BOTTOM - 1);
    return 1;
}

/* values [count] -> bytes in out; their number, or -1 if they are more than size. scratch is [2 * period]. */
int64_t duotone_adaptive_encode(const int32_t *values, int64_t count, int32_t period, int32_t levels, const uint32_t *tables,
                                const int32_t *bounds, int32_t bins, int32_t *scratch, uint8_t *out, int64_t size) {
    Model m;
    model_start(&m, scratch, period, levels);
    uint64_t low = 0, range = ~(uint64_t)0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t *row = model_row(&m, tables, bounds, bins, levels);
        range /= row[levels];
        low += range * row[values[i]];
        range *= row[values[i] + 1] - row[values[i]];
        while (settled(low, &range)) {
            if (n == size) return -1;
            out[n++] = (uint8_t)(low >> 56);
            low <<= 8;
            range <<= 8;
        }
        model_update(&m, values[i]);
    }
    for (int bytes = 1; bytes <= 8; bytes++) { /* the shortest number of the interval */
        uint64_t mask = bytes == 8 ? 0 : ~(uint64_t)0 >> (8 * bytes), number = (low + mask) & ~mask;
        if (number < low || number - low >= range) continue;
        for (int j = 0; j < bytes; j++) {
            if (n == size) return -1;
            out[n++] = (uint8_t)(number >> (56 - 8 * j));
        }
        return n;
    }
    return -1;
}

/* The inverse: bytes [size] -> values [count]; the bytes read (zeros beyond the end count), or -1 for bytes that nothing gives. */
int64_t duotone_adaptive_decode(const uint8_t *data, int64_t size, int64_t count, int32_t period, int32_t levels,
                                const uint32_t *tables, const int32_t *bounds, int32_t bins, int32_t *scratch, int32_t *values) {
    Model m;
    model_start(&m, scratch, period, levels);
    uint64_t low = 0, range = ~(uint64_t)0, code = 0;
    int64_t n = 0;
    for (; n < 8; n++) code = code << 8 | (n < size ? data[n] : 0);
    for (int64_t i = 0; i < count; i++) {
        const uint32_t *row = model_row(&m, tables, bounds, bins, levels);
        range /= row[levels];
        uint64_t place = (code - low) / range;
        if (place >= row[levels]) return -1;
        int32_t value = 0;
        while (row[value + 1] <= place) value++;
        low += range * row[value];
        range *= row[value + 1] - row[value];
        while (settled(low, &range)) {
            code = code << 8 | (n < size ? data[n] : 0);
            n++;
            low <<= 8;
            range <<= 8;
        }
        model_update(&m, value);
        values[i] = value;
    }
    return n;
}
