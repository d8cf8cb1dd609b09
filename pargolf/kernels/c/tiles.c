/* Products of bfloat16 factors by the tiles of AMX, with sums in float32. Put before a kernel that uses them.
   A tile is 16 rows of 64 bytes. As a left factor it holds 16 x 32 numbers; as a right factor 32 x 16, two rows of them
   side by side in one of its own; as a sum 16 x 16 numbers of float32.
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
/* 16 x 16 numbers of 32 bits, turned on their side in place */
static inline void flip(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]); t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) for (int k = 0; k < 2; k++) {
        r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
        r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
    }
    for (int k = 0; k < 4; k++) for (int i = 0; i < 16; i += 8) {
        t[i + k] = _mm512_shuffle_i32x4(r[i + k], r[i + k + 4], 0x88);
        t[i + k + 4] = _mm512_shuffle_i32x4(r[i + k], r[i + k + 4], 0xDD);
    }
    for (int k = 0; k < 8; k++) {
        r[k] = _mm512_shuffle_i32x4(t[k], t[k + 8], 0x88);
        r[k + 8] = _mm512_shuffle_i32x4(t[k], t[k + 8], 0xDD);
    }
}
/* a left factor (32, D) on its side, (D, 32) */
static void turn(const half *x, long D, half *out) {
    for (long i = 0; i < D; i += 16) {
        __m512i pairs[16];
        for (long t = 0; t < 16; t++) {
            const __m256i *row = (const __m256i *)(x + 2 * t * D + i), *next = (const __m256i *)(x + (2 * t + 1) * D + i);
            pairs[t] = beside(_mm256_load_si256(row), _mm256_load_si256(next));
        }
        flip(pairs);
        for (long c = 0; c < 16; c++) _mm512_store_si512(out + (i + c) * ROWS, pairs[c]);
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
    for (long t = 0; t < rows; t += 16) for (long i = 0; i < D; i += 32) {
        __m512i pairs[16];
        for (long r = 0; r < 16; r++) {
            const float *row = x + (t + r) * step; long e = t + r < rows ? d : 0;
            __m512i low = _mm512_castsi256_si512(sixteen(row, i, e, 1));
            pairs[r] = _mm512_inserti64x4(low, sixteen(row, i + 16, e, 1), 1);
        }
        flip(pairs);
        half *tile = out + (i / 32 * (E / 16) + t / 16) * TILE;
        for (long c = 0; c < 16; c++) _mm512_store_si512(tile + c * 32, pairs[c]);
    }
}
static void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
static void *empty_room(size_t bytes) { void *at = room(bytes); return memset(at, 0, bytes); }
#else
int start(void) { return 0; }
#endif
