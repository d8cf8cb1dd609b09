/* Products of bfloat16 factors by the tiles of AMX, with sums in float32. Put before a kernel that uses them.
   A tile is 16 words of 64 bytes. As a first factor it holds 16 x 32 numbers; as a second one 32 x 16, two rows of them
   braided into each word; as a sum 16 x 16 numbers of float32. Kernels take sizes in multiples of 32.
   Source: Intel's manual for developers, volume 1, chapter 18. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TILE 16  /* words */
typedef __m512 row; typedef __m512i words;
typedef struct { uint8_t palette, start, none[14]; uint16_t width[16]; uint8_t rows[16]; } Shapes;
/* Linux gives a process the tiles' state when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
int start(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
static void begin(void) {
    Shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) { shapes.width[i] = 64; shapes.rows[i] = 16; }
    _tile_loadconfig(&shapes);
}
static inline row at(const float *x) { return _mm512_loadu_ps(x); }
static inline words both(row low, row high) { return (words)_mm512_cvtne2ps_pbh(high, low); }
/* a word's halves, number by number in turn */
static inline words braided(words x) {
    words order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                   20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, x);
}
static inline words pairs(row even, row odd) { return braided(both(even, odd)); }
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
/* rows of numbers on their side (32, rows) as a first factor */
static void pack_columns(const float *x, long rows, long step, words *out) {
    for (long t = 0; t < rows; t += 32) for (int c = 0; c < 2; c++) {
        words a[16], b[16];
        for (int i = 0; i < 16; i++) {
            a[i] = (words)at(x + (t + i) * step + 16 * c); b[i] = (words)at(x + (t + 16 + i) * step + 16 * c);
        }
        flip(a); flip(b);
        for (int i = 0; i < 16; i++) out[(16 * c + i) * (rows / 32) + t / 32] = both((row)a[i], (row)b[i]);
    }
}
/* 16 rows on their side as a second factor */
static inline void pack_turned(const float *x, long step, float w, words *out) {
    for (int i = 0; i < 16; i++) out[i] = both(w * at(x + i * step), w * at(x + i * step + 16));
    flip(out);
}
static void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
#else
int start(void) { return 0; }
#endif
