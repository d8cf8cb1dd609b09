/* Causal attention inside documents, forward and backward, by the tiles of AMX: bfloat16 factors, float32 sums.
   Reference: attention.py. A tile is 16 rows of 64 bytes. As a left factor it holds 16 x 32 numbers; as a right factor
   32 x 16, two rows of them side by side in one of its own; as a sum 16 x 16 numbers of float32.
   Source: Intel's manual for developers, volume 1, chapter 18. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#define ROWS 32
#define UP(n) (((n) + 31) / 32 * 32)
#define TILE 512  /* numbers of a factor's tile */
typedef uint16_t half;
typedef struct { uint8_t palette, start, none[14]; uint16_t width[16]; uint8_t rows[16]; } Shapes;
/* Linux gives a process the tiles' state when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
int start(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
static void begin(void) {
    Shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) { shapes.width[i] = 64; shapes.rows[i] = 16; }
    _tile_loadconfig(&shapes);
}
static inline __m256i halves(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline __m512i beside(__m256i low, __m256i high) {  /* two rows side by side, as a right factor has them */
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}
static inline __m512 exp16(__m512 x) {  /* fexp of the prelude for what is not above 88; NaN stays NaN */
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    f = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), f);
    const float terms[] = {1.39819995e-3f, 8.33345191e-3f, 4.16657959e-2f, 1.66666655e-1f, 5.00000012e-1f};
    __m512 p = _mm512_set1_ps(1.98756915e-4f);
    for (int i = 0; i < 5; i++) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(terms[i]));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, f), f, _mm512_add_ps(f, _mm512_set1_ps(1)));
    return _mm512_scalef_ps(p, n);
}
/* which of 16 keys from `c` on lie between two */
static inline __mmask16 seen(long c, long lo, long hi) {
    long first = lo - c, last = hi - c + 1;
    unsigned from = first <= 0 ? 0xFFFF : first >= 16 ? 0 : 0xFFFF << first;
    unsigned to = last >= 16 ? 0xFFFF : last <= 0 ? 0 : (1u << last) - 1;
    return (__mmask16)(from & to);
}
/* C (32 M, 32 N) = A B, or more of it, over 32 K: rows of A `lda` numbers apart; B in tiles, `ldb` of them for each k */
static void gemm(long M, long N, long K, const half *A, long lda, const half *B, long ldb, float *C, long ldc, int more) {
    for (long i = 0; i < M; i++) for (long j = 0; j < N; j++) {
        float *c = C + 32 * i * ldc + 32 * j;
        if (more) {
            _tile_loadd(0, c, 4 * ldc); _tile_loadd(1, c + 16, 4 * ldc);
            _tile_loadd(2, c + 16 * ldc, 4 * ldc); _tile_loadd(3, c + 16 * ldc + 16, 4 * ldc);
        } else { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
        for (long k = 0; k < K; k++) {
            const half *a = A + 32 * i * lda + 32 * k, *b = B + (k * ldb + 2 * j) * TILE;
            _tile_loadd(4, a, 2 * lda); _tile_loadd(5, a + 16 * lda, 2 * lda);
            _tile_loadd(6, b, 64); _tile_loadd(7, b + TILE, 64);
            _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c, 4 * ldc); _tile_stored(1, c + 16, 4 * ldc);
        _tile_stored(2, c + 16 * ldc, 4 * ldc); _tile_stored(3, c + 16 * ldc + 16, 4 * ldc);
    }
}
static inline __mmask16 below(long i, long d) { return d - i >= 16 ? 0xFFFF : d > i ? (1u << (d - i)) - 1 : 0; }
static inline __m256i sixteen(const float *x, long i, long d, float w) {  /* x[i] and on, times w, up to x[d] */
    return halves(_mm512_mul_ps(_mm512_maskz_loadu_ps(below(i, d), x + i), _mm512_set1_ps(w)));
}
/* rows of one head times w as a left factor (32, D) */
static void pack(const float *x, long rows, long step, long d, long D, float w, half *out) {
    for (long t = 0; t < ROWS; t++) for (long i = 0; i < D; i += 16)
        _mm256_store_si256((__m256i *)(out + t * D + i), sixteen(x + t * step, i, t < rows ? d : 0, w));
}
/* a left factor (32, D) on its side, (D, 32) */
static void turn(const half *x, long D, half *out) {
    __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                        _mm512_set1_epi32(ROWS / 2));
    for (long i = 0; i < D; i += 16) for (long t = 0; t < ROWS; t += 2) {
        const __m256i *row = (const __m256i *)(x + t * D + i), *next = (const __m256i *)(x + (t + 1) * D + i);
        _mm512_i32scatter_epi32(out + i * ROWS + t, places, beside(_mm256_load_si256(row), _mm256_load_si256(next)), 4);
    }
}
/* x (rows, d) of one head as a right factor (rows, d): tiles over 32 rows and 16 channels, `D / 16` for each 32 rows */
static void pack_down(const float *x, long rows, long step, long d, long D, half *out) {
    for (long t = 0; t < rows; t += 2) for (long i = 0; i < D; i += 16)
        _mm512_store_si512(out + (t / 32 * (D / 16) + i / 16) * TILE + t % 32 / 2 * 32,
                           beside(sixteen(x + t * step, i, d, 1), sixteen(x + (t + 1) * step, i, t + 1 < rows ? d : 0, 1)));
}
/* the same as a right factor (d, rows): tiles over 32 channels and 16 rows, `E / 16` for each 32 channels */
static void pack_side(const float *x, long rows, long step, long d, long D, long E, half *out) {
    for (long t = 0; t < rows; t++) for (long i = 0; i < D; i += 32) {
        uint32_t pairs[16] __attribute__((aligned(64))), *tile = (uint32_t *)(out + (i / 32 * (E / 16) + t / 16) * TILE);
        _mm256_store_si256((__m256i *)pairs, sixteen(x + t * step, i, d, 1));
        _mm256_store_si256((__m256i *)pairs + 1, sixteen(x + t * step, i + 16, d, 1));
        for (long c = 0; c < 16; c++) tile[c * 16 + t % 16] = pairs[c];
    }
}
/* sums (d, rows) as rows of one head */
static void unpack(const float *x, long rows, long step, long d, long E, float *out) {
    __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                        _mm512_set1_epi32(step));
    for (long t = 0; t < rows; t += 16) for (long i = 0; i < d; i++)
        _mm512_mask_i32scatter_ps(out + t * step + i, below(t, rows), places, _mm512_load_ps(x + i * E + t), 4);
}
static void *room(size_t bytes) { void *at = aligned_alloc(64, (bytes + 63) / 64 * 64); memset(at, 0, bytes); return at; }
void attend(const float *q, const float *k, const float *v, const int64_t *since, float *y, float *lse,
            long B, long T, long H, long KV, long d) {
    long D = UP(d), E = UP(T), G = H / KV; float scale = 1 / sqrtf(d);
    #pragma omp parallel
    {
    half *kt = room(2 * (2 * D * E + ROWS * (D + E))), *vs = kt + D * E, *qs = vs + D * E, *p = qs + ROWS * D;
    float *s = room(4 * ROWS * (E + D)), *ys = s + ROWS * E;
    begin();
    #pragma omp for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV;
        pack_side(k + (b * T * KV + kv) * d, T, KV * d, d, D, E, kt);
        pack_down(v + (b * T * KV + kv) * d, T, KV * d, d, D, vs);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += ROWS) {
            long M = T - t0 < ROWS ? T - t0 : ROWS, e = UP(t0 + M), j0 = since[b * T + t0] / 32 * 32, n = e - j0;
            pack(q + ((b * T + t0) * H + h) * d, M, H * d, d, D, scale, qs);
            gemm(1, n / 32, D / 32, qs, D, kt + j0 / 16 * TILE, E / 16, s, E, 0);
            float inverse[ROWS];
            for (long r = 0; r < M; r++) {
                float *u = s + r * E, m = -INFINITY, sum = 0; half *w = p + r * E;
                long lo = since[b * T + t0 + r] - j0, hi = t0 + r - j0;
                __m512 top = _mm512_set1_ps(-INFINITY), sums = _mm512_setzero_ps();
                for (long c = lo / 16 * 16; c <= hi; c += 16)
                    top = _mm512_mask_max_ps(top, seen(c, lo, hi), top, _mm512_load_ps(u + c));
                m = _mm512_reduce_max_ps(top); top = _mm512_set1_ps(m);
                for (long c = 0; c < n; c += 16) {
                    __m512 x = _mm512_maskz_mov_ps(seen(c, lo, hi), exp16(_mm512_sub_ps(_mm512_load_ps(u + c), top)));
                    sums = _mm512_add_ps(sums, x);
                    _mm256_store_si256((__m256i *)(w + c), halves(x));
                }
                sum = _mm512_reduce_add_ps(sums);
                inverse[r] = 1 / sum;
                lse[(b * H + h) * T + t0 + r] = m + logf(sum);
            }
            gemm(1, D / 32, n / 32, p, E, vs + j0 / 32 * (D / 16) * TILE, D / 16, ys, D, 0);
            for (long r = 0; r < M; r++) for (long i = 0; i < d; i++)
                y[((b * T + t0 + r) * H + h) * d + i] = ys[r * D + i] * inverse[r];
        }
    }
    _tile_release();
    free(kt); free(s);
    }
}
void attend_back(const float *g, const float *q, const float *k, const float *v, const int64_t *since, const float *y,
                 const float *lse, float *dq, float *dk, float *dv, long B, long T, long H, long KV, long d) {
    long D = UP(d), E = UP(T), G = H / KV; float scale = 1 / sqrtf(d);
    #pragma omp parallel
    {
    half *kt = room(2 * (3 * D * E + ROWS * (4 * D + 3 * E))), *vt = kt + D * E, *ks = vt + D * E, *qs = ks + D * E;
    half *gs = qs + ROWS * D, *qt = gs + ROWS * D, *gt = qt + ROWS * D, *ds = gt + ROWS * D, *pv = ds + ROWS * E;
    half *dsv = pv + ROWS * E;
    float *s = room(4 * (2 * ROWS * E + ROWS * D + 2 * D * E)), *dp = s + ROWS * E, *out = dp + ROWS * E;
    float *dks = out + ROWS * D, *dvs = dks + D * E;
    begin();
    #pragma omp for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV;
        memset(dks, 0, 8 * D * E);
        pack_side(k + (b * T * KV + kv) * d, T, KV * d, d, D, E, kt);
        pack_side(v + (b * T * KV + kv) * d, T, KV * d, d, D, E, vt);
        pack_down(k + (b * T * KV + kv) * d, T, KV * d, d, D, ks);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += ROWS) {
            long M = T - t0 < ROWS ? T - t0 : ROWS, e = UP(t0 + M), j0 = since[b * T + t0] / 32 * 32, n = e - j0;
            long at = ((b * T + t0) * H + h) * d;
            float delta[ROWS] = {0}, total[ROWS] = {0}; long lo[ROWS], hi[ROWS];
            pack(q + at, M, H * d, d, D, scale, qs);
            pack(g + at, M, H * d, d, D, 1, gs);
            turn(qs, D, qt); turn(gs, D, gt);
            gemm(1, n / 32, D / 32, qs, D, kt + j0 / 16 * TILE, E / 16, s, E, 0);
            gemm(1, n / 32, D / 32, gs, D, vt + j0 / 16 * TILE, E / 16, dp, E, 0);
            for (long r = 0; r < ROWS; r++) {
                lo[r] = 0; hi[r] = -1;
                if (r >= M) continue;
                lo[r] = since[b * T + t0 + r] - j0; hi[r] = t0 + r - j0;
                total[r] = lse[(b * H + h) * T + t0 + r];
                for (long i = 0; i < d; i++) delta[r] += g[at + r * H * d + i] * y[at + r * H * d + i];
            }
            for (long r = 0; r < ROWS; r += 2) for (long c = 0; c < n; c += 16) {
                __m256i weights[2], slopes[2];
                for (int i = 0; i < 2; i++) {
                    const float *u = s + (r + i) * E + c, *w = dp + (r + i) * E + c;
                    __m512 x = exp16(_mm512_sub_ps(_mm512_load_ps(u), _mm512_set1_ps(total[r + i])));
                    x = _mm512_maskz_mov_ps(seen(c, lo[r + i], hi[r + i]), x);
                    weights[i] = halves(x);
                    slopes[i] = halves(_mm512_mul_ps(x, _mm512_sub_ps(_mm512_load_ps(w), _mm512_set1_ps(delta[r + i]))));
                    _mm256_store_si256((__m256i *)(ds + (r + i) * E + c), slopes[i]);
                }
                long tile = c / 16 * TILE + r / 2 * 32;
                _mm512_store_si512(pv + tile, beside(weights[0], weights[1]));
                _mm512_store_si512(dsv + tile, beside(slopes[0], slopes[1]));
            }
            gemm(1, D / 32, n / 32, ds, E, ks + j0 / 32 * (D / 16) * TILE, D / 16, out, D, 0);
            for (long r = 0; r < M; r++) for (long i = 0; i < d; i++)
                dq[at + r * H * d + i] = out[r * D + i] * scale;
            gemm(D / 32, n / 32, 1, qt, ROWS, dsv, 0, dks + j0, E, 1);
            gemm(D / 32, n / 32, 1, gt, ROWS, pv, 0, dvs + j0, E, 1);
        }
        unpack(dks, T, KV * d, d, E, dk + (b * T * KV + kv) * d);
        unpack(dvs, T, KV * d, d, E, dv + (b * T * KV + kv) * d);
    }
    _tile_release();
    free(kt); free(s);
    }
}
#else
int start(void) { return 0; }
#endif
