/* 3 x 3 convolutions, and their gradients, with a quarter of the multiplications, in float32 on CPUs.

   Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): a tile of 6 x 6 inputs d and a kernel g give 4 x 4 outputs
       y = A' [ (B' d B) * (G g G') ] A,
   where * is a product of 6 x 6 places, summed over input channels: 36 small matrix products for 16 outputs in place of
   144. The caller provides G g G' (winograd.py). Feature maps are channels-last, so every vector lies along channels.

   A block of tiles goes through all three parts while it is in the cache: the norm before the convolution is applied
   as inputs are read, the activation and the sum with the residual as outputs are written. The numbers of a tile do not
   depend on the other tiles of its block, nor on the number of threads.

   Legend: B batch, H height, W width, C channels in, O channels out, K = C in products, L lanes of a vector. */

#include <stdlib.h>

#include "vectors.h"

/* Rows x columns (in vectors) of a product that is kept in registers: 12 of 16 with AVX2, 24 of 32 elsewhere. */
#if LANES == 8
#define ROWS 6
#else
#define ROWS 12
#endif
#define COLUMNS 2
#define PANEL (COLUMNS * LANES)
#define BLOCK 24 /* tiles; their 36 x (C + O) numbers should stay in the second-level cache */
#define POINTS 36

/* ---- the two transforms, in one direction; s and t are the strides of input and output ---- */

/* B': six inputs -> six points (0, 1, -1, 2, -2, infinity). */
INLINE void transform_in(const vec *d, int s, vec *o, int t) {
    vec a = d[4 * s] - 4 * d[2 * s], b = d[3 * s] - 4 * d[s];
    vec c = d[4 * s] - d[2 * s], e = 2 * (d[3 * s] - d[s]);
    o[0] = c + 4 * (d[0] - d[2 * s]);
    o[t] = a + b;
    o[2 * t] = a - b;
    o[3 * t] = c + e;
    o[4 * t] = c - e;
    o[5 * t] = (d[5 * s] - d[3 * s]) - 2 * e;
}

/* A': six points -> four outputs. */
INLINE void transform_out(const vec *m, int s, vec *o, int t) {
    vec p = m[s] + m[2 * s], q = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], u = m[3 * s] - m[4 * s];
    o[0] = m[0] + p + r;
    o[t] = q + 2 * u;
    o[2 * t] = p + 4 * r;
    o[3 * t] = q + 8 * u + m[5 * s];
}

/* ---- the products of one point ---- */

/* One panel of a product: c [rows, columns of LANES] = a b, or += a b, over k terms; a's rows lie `row` apart and its terms
   `step`, b's terms `next`, c's rows `ldc`. */
typedef struct {
    const float *a, *b;
    float *c;
    int64_t k, row, step, next, ldc;
    int add;
} Panel;

INLINE void product(int rows, int columns, const Panel *n, const float *a, float *c) {
    vec sum[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < columns; j++) sum[r][j] = n->add ? load(c + r * n->ldc + j * LANES) : (vec){0};
    for (int64_t i = 0; i < n->k; i++) {
        vec right[COLUMNS];
        for (int j = 0; j < columns; j++) right[j] = load(n->b + i * n->next + j * LANES);
        for (int r = 0; r < rows; r++) {
            vec left = splat(a[r * n->row + i * n->step]);
            for (int j = 0; j < columns; j++) sum[r][j] += left * right[j];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < columns; j++) store(c + r * n->ldc + j * LANES, sum[r][j]);
}

#define CASE(r) \
    case r: \
        if (columns == 2) product(r, 2, n, a, c); \
        else product(r, 1, n, a, c); \
        break;

static void multiply(int64_t rows, int columns, const Panel *n) {
    int64_t parts = (rows + ROWS - 1) / ROWS;
    for (int64_t q = 0; q < parts; q++) {
        int64_t first = rows * q / parts, next = rows * (q + 1) / parts;
        const float *a = n->a + first * n->row;
        float *c = n->c + first * n->ldc;
        switch (next - first) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS > 6
            CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
        }
    }
}

/* Vectors of the panel of outputs that begins at o. */
static int columns_at(int64_t o, int64_t outputs) { return outputs - o < PANEL ? (int)((outputs - o) / LANES) : COLUMNS; }

/* ---- the convolution ---- */

typedef struct {
    const float *x;        /* [B, H, W, C] */
    const float *kernels;  /* [36, panels of O][C][up to PANEL] */
    const float *scale;    /* [B, C] or null: the input is x * scale + shift inside the map, zero outside */
    const float *shift;    /* [B, C] or null */
    const float *residual; /* [B, H, W, O] or null: added to the output */
    float *out;            /* [B, H, W, O] */
    int64_t batch, height, width, inputs, outputs, activation;
} Convolution;

INLINE void read_tile(const Convolution *n, int64_t b, int64_t y, int64_t z, int norm, int edge, float *points, int64_t plane) {
    const float *map = n->x + b * n->height * n->width * n->inputs;
    for (int64_t c = 0; c < n->inputs; c += LANES) {
        vec scale = {0}, shift = {0}, half[36], d[6], o[6];
        if (norm) scale = load(n->scale + b * n->inputs + c), shift = load(n->shift + b * n->inputs + c);
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++) {
                int64_t row = y + i, column = z + j;
                if (edge && (row < 0 || row >= n->height || column < 0 || column >= n->width)) {
                    d[i] = (vec){0};
                    continue;
                }
                d[i] = load(map + (row * n->width + column) * n->inputs + c);
                if (norm) d[i] = d[i] * scale + shift;
            }
            transform_in(d, 1, half + j, 6);
        }
        for (int i = 0; i < 6; i++) {
            transform_in(half + 6 * i, 1, o, 1);
            for (int j = 0; j < 6; j++) store(points + (6 * i + j) * plane + c, o[j]);
        }
    }
}

INLINE void write_tile(const Convolution *n, int64_t b, int64_t y, int64_t z, const float *points, int64_t plane) {
    for (int64_t c = 0; c < n->outputs; c += LANES) {
        vec m[6], half[24], o[4];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++) m[i] = load(points + (6 * i + j) * plane + c);
            transform_out(m, 1, half + j, 6);
        }
        for (int i = 0; i < 4 && y + i < n->height; i++) {
            transform_out(half + 6 * i, 1, o, 1);
            for (int j = 0; j < 4 && z + j < n->width; j++) {
                int64_t place = ((b * n->height + y + i) * n->width + z + j) * n->outputs + c;
                vec v = n->activation ? silu(o[j]) : o[j];
                if (n->residual) v += load(n->residual + place);
                store(n->out + place, v);
            }
        }
    }
}

static void read_tiles(const Convolution *n, int64_t first, int64_t count, float *points, int64_t plane) {
    int64_t down = (n->height + 3) / 4, across = (n->width + 3) / 4;
    for (int64_t t = 0; t < count; t++) {
        int64_t id = first + t, b = id / (down * across), y = id / across % down * 4 - 1, z = id % across * 4 - 1;
        int edge = y < 0 || z < 0 || y + 6 > n->height || z + 6 > n->width;
        float *to = points + t * n->inputs;
        if (n->scale && edge) read_tile(n, b, y, z, 1, 1, to, plane);
        else if (n->scale) read_tile(n, b, y, z, 1, 0, to, plane);
        else if (edge) read_tile(n, b, y, z, 0, 1, to, plane);
        else read_tile(n, b, y, z, 0, 0, to, plane);
    }
}

static void convolve_block(const Convolution *n, int64_t first, int64_t count, int64_t capacity, float *memory) {
    int64_t down = (n->height + 3) / 4, across = (n->width + 3) / 4;
    int64_t plane_in = capacity * n->inputs + 16, plane_out = capacity * n->outputs + 16; /* 16: not a power of two */
    float *in = memory, *out = memory + POINTS * plane_in;
    read_tiles(n, first, count, in, plane_in);
    for (int p = 0; p < POINTS; p++)
        for (int64_t o = 0; o < n->outputs; o += PANEL) {
            int columns = columns_at(o, n->outputs);
            Panel panel = {in + p * plane_in, n->kernels + (p * n->outputs + o) * n->inputs, out + p * plane_out + o,
                           n->inputs, n->inputs, 1, columns * LANES, n->outputs, 0};
            multiply(count, columns, &panel);
        }
    for (int64_t t = 0; t < count; t++) {
        int64_t id = first + t, b = id / (down * across), y = id / across % down * 4, z = id % across * 4;
        write_tile(n, b, y, z, out + t * n->outputs, plane_out);
    }
}

/* Returns 0, or 1 when there is no memory. C and O are multiples of LANES; out may be the residual, not x. */
int duotone_convolve(const Convolution *n, int threads) {
    int64_t tiles = n->batch * ((n->height + 3) / 4) * ((n->width + 3) / 4);
    int64_t blocks = (tiles + BLOCK - 1) / BLOCK;
    blocks = (blocks + threads - 1) / threads * threads; /* as many for each thread, of equal size */
    int64_t capacity = (tiles + blocks - 1) / blocks;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        size_t plane = (size_t)capacity * (n->inputs + n->outputs) + 32;
        float *memory = malloc(POINTS * plane * sizeof(float));
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = tiles * block / blocks, next = tiles * (block + 1) / blocks;
            if (memory) convolve_block(n, first, next - first, capacity, memory);
        }
        free(memory);
    }
    return failed;
}

/* ---- the gradient of the kernels ---- */

/* A, the transpose of transform_out: four gradients -> six points. */
INLINE void spread(const vec *g, int s, vec *o, int t) {
    vec even = g[0] + g[2 * s], odd = g[s] + g[3 * s], even2 = g[0] + 4 * g[2 * s], odd2 = 2 * g[s] + 8 * g[3 * s];
    o[0] = g[0];
    o[t] = even + odd;
    o[2 * t] = even - odd;
    o[3 * t] = even2 + odd2;
    o[4 * t] = even2 - odd2;
    o[5 * t] = g[3 * s];
}

static void read_gradient(const Convolution *n, int64_t b, int64_t y, int64_t z, float *points, int64_t plane) {
    const float *map = n->residual + b * n->height * n->width * n->outputs;
    for (int64_t c = 0; c < n->outputs; c += LANES) {
        vec half[24], g[4], o[6];
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 4; i++) {
                int inside = y + i < n->height && z + j < n->width;
                g[i] = inside ? load(map + ((y + i) * n->width + z + j) * n->outputs + c) : (vec){0};
            }
            spread(g, 1, half + j, 4);
        }
        for (int i = 0; i < 6; i++) {
            spread(half + 4 * i, 1, o, 1);
            for (int j = 0; j < 6; j++) store(points + (6 * i + j) * plane + c, o[j]);
        }
    }
}

static void gradient_of_block(const Convolution *n, int64_t first, int64_t count, int64_t capacity, float *memory, float *sums) {
    int64_t down = (n->height + 3) / 4, across = (n->width + 3) / 4;
    int64_t plane_in = capacity * n->inputs + 16, plane_out = capacity * n->outputs + 16;
    float *in = memory, *out = memory + POINTS * plane_in;
    read_tiles(n, first, count, in, plane_in);
    for (int64_t t = 0; t < count; t++) {
        int64_t id = first + t, b = id / (down * across), y = id / across % down * 4, z = id % across * 4;
        read_gradient(n, b, y, z, out + t * n->outputs, plane_out);
    }
    for (int p = 0; p < POINTS; p++)
        for (int64_t o = 0; o < n->outputs; o += PANEL) {
            Panel panel = {in + p * plane_in, out + p * plane_out + o, sums + p * n->inputs * n->outputs + o,
                           count, 1, n->inputs, n->outputs, n->outputs, 1};
            multiply(n->inputs, columns_at(o, n->outputs), &panel);
        }
}

/* The gradient of G g G' to n->out [36, C, O], from inputs n->x and the output's gradient n->residual. Returns as above. */
int duotone_convolve_gradient(const Convolution *n, int threads) {
    int64_t tiles = n->batch * ((n->height + 3) / 4) * ((n->width + 3) / 4);
    int64_t block = n->inputs + n->outputs > 512 ? 3 * BLOCK : BLOCK; /* sums larger than the cache: pass them less often */
    int64_t blocks = (tiles + block - 1) / block, size = POINTS * n->inputs * n->outputs;
    blocks = (blocks + threads - 1) / threads * threads;
    int64_t capacity = (tiles + blocks - 1) / blocks;
    float *all = calloc((size_t)(size * threads), sizeof(float));
    if (!all) return 1;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        size_t plane = (size_t)capacity * (n->inputs + n->outputs) + 32;
        float *memory = malloc(POINTS * plane * sizeof(float));
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks; i++) {
            int64_t first = tiles * i / blocks, next = tiles * (i + 1) / blocks;
            if (memory) gradient_of_block(n, first, next - first, capacity, memory, all + omp_get_thread_num() * size);
        }
        free(memory);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < size / LANES; i++) {
            vec sum = load(all + i * LANES);
            for (int t = 1; t < threads; t++) sum += load(all + t * size + i * LANES);
            store(n->out + i * LANES, sum);
        }
    }
    free(all);
    return failed;
}

/* ---- the norm: what the convolution needs to apply it ---- */

typedef struct {
    const float *x;      /* [B, P, C]: P places */
    const float *other;  /* [B, P, C], examples `other_stride` apart, or null: first x becomes (x + other) / sqrt(2) */
    const float *weight; /* [C], or [B, C] */
    float *blended;      /* [B, P, C], where `other` is given */
    float *scale;        /* [B, C] */
    float *shift;        /* [B, C] */
    int64_t batch, places, channels, groups, weight_stride /* 0 or C */, other_stride;
    double epsilon;
} Norm;

#define SLICE 128 /* places summed in float32; slices are summed in float64, always in the same order */

/* Sums of x - origin and of its square, where origin is the first place of the example: no cancellation where the mean is large. */
static void sum_slice(const Norm *n, int64_t b, int64_t first, int64_t next, float *sums) {
    int64_t channels = n->channels, start = b * n->places * channels;
    const float root = 0.70710678118654752f;
    const float *other = n->other ? n->other + b * n->other_stride : 0;
    float *square = sums + channels;
    for (int64_t c = 0; c < 2 * channels; c++) sums[c] = 0;
    for (int64_t p = first; p < next; p++)
        for (int64_t c = 0; c < channels; c += LANES) {
            int64_t at = start + p * channels + c;
            vec origin = load(n->x + start + c), v = load(n->x + at);
            if (other) {
                origin = (origin + load(other + c)) * root;
                v = (v + load(other + p * channels + c)) * root;
                store(n->blended + at, v);
            }
            v -= origin;
            store(sums + c, load(sums + c) + v);
            store(square + c, load(square + c) + v * v);
        }
}

static void finish_norm(const Norm *n, int64_t b, int64_t slices, const float *sums) {
    int64_t channels = n->channels, size = channels / n->groups;
    const float *first = (n->other ? n->blended : n->x) + b * n->places * channels;
    for (int64_t g = 0; g < n->groups; g++) {
        double total = 0, squares = 0, count = (double)n->places * size;
        for (int pass = 0; pass < 2; pass++) /* the mean, then squares around it */
            for (int64_t c = g * size; c < (g + 1) * size; c++) {
                double sum = 0, square = 0;
                for (int64_t s = 0; s < slices; s++) {
                    sum += sums[s * 2 * channels + c];
                    square += sums[(s * 2 + 1) * channels + c];
                }
                if (pass == 0) total += sum + first[c] * (double)n->places;
                else {
                    double away = first[c] - total / count;
                    squares += square + 2 * away * sum + away * away * n->places;
                }
            }
        double root = squares / count + n->epsilon;
        root = 1 / __builtin_sqrt(root);
        for (int64_t c = g * size; c < (g + 1) * size; c++) {
            double scale = root * n->weight[b * n->weight_stride + c];
            n->scale[b * channels + c] = (float)scale;
            n->shift[b * channels + c] = (float)(-scale * total / count);
        }
    }
}

/* Scale and shift of each channel such that x * scale + shift is the group norm of x, weighted. Returns as above. */
int duotone_norm(const Norm *n, int threads) {
    int64_t slices = (n->places + SLICE - 1) / SLICE, step = slices * 2 * n->channels;
    float *sums = malloc((size_t)(n->batch * step) * sizeof(float));
    if (!sums) return 1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n->batch * slices; i++) {
            int64_t b = i / slices, s = i % slices, next = (s + 1) * SLICE;
            sum_slice(n, b, s * SLICE, next < n->places ? next : n->places, sums + b * step + s * 2 * n->channels);
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n->batch; b++) finish_norm(n, b, slices, sums + b * step);
    }
    free(sums);
    return 0;
}
