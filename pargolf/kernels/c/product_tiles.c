/* A layer's product, forward and backward, by tiles (tiles.c): no pass over memory but the product's own.
   Reference: product.py. Rows, inputs and outputs come in multiples of 32. */
#ifdef TILE
/* y (N, O) = x (N, I) w (O, I)^T; and x in bfloat16 for the way back */
void times(const float *x, const float *w, half *xh, float *y, long N, long I, long O) {
    half *ws = room(2 * I * O);
    pack_side(w, O, I, I, I, O, ws);
    #pragma omp parallel
    {
    begin();
    #pragma omp for
    for (long n = 0; n < N; n += ROWS) {
        pack(x + n * I, ROWS, I, I, I, 1, xh + n * I);
        gemm(1, O / 32, I / 32, xh + n * I, I, ws, O / 16, y + n * O, O, 0);
    }
    _tile_release();
    }
    free(ws);
}
/* dx (N, I) = g (N, O) w;  dw (O, I) = g^T x, over all rows in one sum */
void times_back(const float *g, const half *xh, const float *w, float *dx, float *dw, long N, long I, long O) {
    half *ws = room(2 * (I * O + N * (I + O))), *gt = ws + I * O, *xs = gt + N * O;
    pack_down(w, O, I, I, I, ws);
    #pragma omp parallel
    {
    half *gh = room(2 * ROWS * O);
    begin();
    #pragma omp for
    for (long n = 0; n < N; n += ROWS) {
        pack(g + n * O, ROWS, O, O, O, 1, gh);
        gemm(1, I / 32, O / 32, gh, O, ws, I / 16, dx + n * I, I, 0);
        turn(gh, O, gt + n * O);
        for (long t = 0; t < ROWS; t += 2) for (long i = 0; i < I; i += 16) {
            const half *row = xh + (n + t) * I + i;
            __m512i two = beside(_mm256_loadu_si256((const __m256i *)row), _mm256_loadu_si256((const __m256i *)(row + I)));
            _mm512_store_si512(xs + n * I + i / 16 * TILE + t / 2 * 32, two);
        }
    }
    #pragma omp for
    for (long block = 0; block < O / 32 * (I / 32); block++) {
        long o = block / (I / 32) * 32, i = block % (I / 32) * 32;
        float *c = dw + o * I + i;
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        for (long n = 0; n < N; n += ROWS) {
            const half *a = gt + n * O + o * ROWS, *b = xs + n * I + i * ROWS;
            _tile_loadd(4, a, 64); _tile_loadd(5, a + TILE, 64);
            _tile_loadd(6, b, 64); _tile_loadd(7, b + TILE, 64);
            _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c, 4 * I); _tile_stored(1, c + 16, 4 * I);
        _tile_stored(2, c + 16 * I, 4 * I); _tile_stored(3, c + 16 * I + 16, 4 * I);
    }
    _tile_release();
    free(gh);
    }
    free(ws);
}
#endif
