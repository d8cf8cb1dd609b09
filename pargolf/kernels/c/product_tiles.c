/* A layer's product, forward and backward, by tiles (tiles.c): no pass over memory but the product's own.
   Reference: product.py. Rows, inputs and outputs come in multiples of 32. */
#ifdef TILE
#define ROWS 32
/* rows one after another as first factors */
static void pack_rows(const float *x, long count, words *out) {
    for (long i = 0; i < count / 32; i++) out[i] = both(at(x + 32 * i), at(x + 32 * i + 16));
}
/* the four sums of 32 x 32: what they add, tile by tile, and where they go */
static inline void add(const words *a, const words *below, long step, const words *b) {
    _tile_loadd(4, a, 64 * step); _tile_loadd(5, below, 64 * step);
    _tile_loadd(6, b, 64); _tile_loadd(7, b + TILE, 64);
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
}
static inline void clear(void) { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
static inline void put(float *c, long step) {
    _tile_stored(0, c, 4 * step); _tile_stored(1, c + 16, 4 * step);
    _tile_stored(2, c + 16 * step, 4 * step); _tile_stored(3, c + 16 * step + 16, 4 * step);
}
/* c (32, 32 N) = a (32, 32 K) b */
static void multiply(const words *a, long K, const words *b, long N, float *c) {
    for (long j = 0; j < N; j++) {
        clear();
        for (long k = 0; k < K; k++) add(a + k, a + 16 * K + k, K, b + (k * N + j) * 2 * TILE);
        put(c + 32 * j, 32 * N);
    }
}
/* y (N, O) = x (N, I) w (O, I)^T; and x in bfloat16 for the way back */
void times(const float *x, const float *w, words *xh, float *y, long N, long I, long O) {
    words *ws = room(2 * I * O);
    for (long i = 0; i < I; i += 32) for (long o = 0; o < O; o += 16)
        pack_turned(w + o * I + i, I, 1, ws + (i / 32 * O + o) / 16 * TILE);
    #pragma omp parallel
    {
    begin();
    #pragma omp for
    for (long n = 0; n < N; n += ROWS) {
        words *rows = xh + n * I / 32;
        pack_rows(x + n * I, ROWS * I, rows);
        multiply(rows, I / 32, ws, O / 32, y + n * O);
    }
    _tile_release();
    }
    free(ws);
}
/* dx (N, I) = g (N, O) w;  dw (O, I) = g^T x, over all rows in one sum */
void times_back(const float *g, const uint16_t *xh, const float *w, float *dx, float *dw, long N, long I, long O) {
    words *ws = room(2 * (I * O + N * (I + O))), *gt = ws + I * O / 32, *xs = gt + N * O / 32;
    for (long o = 0; o < O; o += 2) for (long i = 0; i < I; i += 16)
        ws[(o / 32 * I + i) / 16 * TILE + o % 32 / 2] = pairs(at(w + o * I + i), at(w + (o + 1) * I + i));
    #pragma omp parallel
    {
    words *gh = room(2 * ROWS * O);
    begin();
    #pragma omp for
    for (long n = 0; n < N; n += ROWS) {
        pack_rows(g + n * O, ROWS * O, gh);
        multiply(gh, O / 32, ws, I / 32, dx + n * I);
        for (long o = 0; o < O; o += 32) pack_columns(g + n * O + o, ROWS, O, gt + n * O / 32 + o);
        for (long t = 0; t < ROWS; t += 2) for (long i = 0; i < I; i += 16) {
            const uint16_t *even = xh + (n + t) * I + i;
            words two = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)even));
            two = _mm512_inserti64x4(two, _mm256_loadu_si256((const __m256i *)(even + I)), 1);
            xs[n * I / 32 + i / 16 * TILE + t / 2] = braided(two);
        }
    }
    #pragma omp for
    for (long block = 0; block < O / 32 * (I / 32); block++) {
        long o = block / (I / 32) * 32, i = block % (I / 32) * 32;
        clear();
        for (long n = 0; n < N; n += ROWS) {
            const words *a = gt + n * O / 32 + o;
            add(a, a + TILE, 1, xs + n * I / 32 + i);
        }
        put(dw + o * I + i, I);
    }
    _tile_release();
    free(gh);
    }
    free(ws);
}
#endif
