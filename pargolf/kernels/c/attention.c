/* Causal attention inside documents, forward and backward, for float32 on a CPU. Reference: attention.py. */
#include <stdlib.h>
#ifdef __AVX512F__
#define W 16
#else
#define W 8
#endif
#define NR (2 * W)
#define ROWS 48
#define UP(n) (((n) + 31) / 32 * 32)
typedef float vec __attribute__((vector_size(4 * W), aligned(4)));
static inline __attribute__((always_inline)) void micro(const int m, long K, const float *A, long rs, long cs,
        const float *B, long ldb, float *C, long ldc, int more) {
    vec c[6][2];
    for (int i = 0; i < m; i++) for (int j = 0; j < 2; j++)
        c[i][j] = more ? *(const vec *)(C + i * ldc + j * W) : (vec){0};
    for (long k = 0; k < K; k++) {
        vec b0 = *(const vec *)(B + k * ldb), b1 = *(const vec *)(B + k * ldb + W);
        for (int i = 0; i < m; i++) { float a = A[i * rs + k * cs]; c[i][0] += a * b0; c[i][1] += a * b1; }
    }
    for (int i = 0; i < m; i++) for (int j = 0; j < 2; j++) *(vec *)(C + i * ldc + j * W) = c[i][j];
}
/* C (M, N) = A B, or more of it: A (M, K) by strides, N a multiple of 32 */
static void gemm(long M, long N, long K, const float *A, long rs, long cs, const float *B, long ldb,
                 float *C, long ldc, int more) {
    for (long j = 0; j < N; j += NR) for (long i = 0; i < M; i += 6) {
        const float *a = A + i * rs, *b = B + j; float *c = C + i * ldc + j;
        switch (M - i) {
        case 1: micro(1, K, a, rs, cs, b, ldb, c, ldc, more); break;
        case 2: micro(2, K, a, rs, cs, b, ldb, c, ldc, more); break;
        case 3: micro(3, K, a, rs, cs, b, ldb, c, ldc, more); break;
        case 4: micro(4, K, a, rs, cs, b, ldb, c, ldc, more); break;
        case 5: micro(5, K, a, rs, cs, b, ldb, c, ldc, more); break;
        default: micro(6, K, a, rs, cs, b, ldb, c, ldc, more);
        }
    }
}
/* rows of one head times w, padded with zeros to (E, D); and the same on its side, (d, E) */
static void pack(const float *x, long rows, long step, long d, long E, long D, float w, float *out) {
    memset(out, 0, 4 * E * D);
    for (long t = 0; t < rows; t++) for (long i = 0; i < d; i++) out[t * D + i] = w * x[t * step + i];
}
static void pack_side(const float *x, long rows, long step, long d, long E, float *out) {
    for (long i = 0; i < d; i++) for (long t = 0; t < E; t++) out[i * E + t] = t < rows ? x[t * step + i] : 0;
}
void attend(const float *q, const float *k, const float *v, const int64_t *since, float *y, float *lse,
            long B, long T, long H, long KV, long d) {
    long D = UP(d), E = UP(T), G = H / KV;
    #pragma omp parallel
    {
    float *kt = malloc(4 * (d * E + E * D + ROWS * (2 * D + E))), *vs = kt + d * E, *qs = vs + E * D;
    float *ys = qs + ROWS * D, *s = ys + ROWS * D;
    #pragma omp for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV;
        pack_side(k + (b * T * KV + kv) * d, T, KV * d, d, E, kt);
        pack(v + (b * T * KV + kv) * d, T, KV * d, d, E, D, 1, vs);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += ROWS) {
            long M = T - t0 < ROWS ? T - t0 : ROWS, e = UP(t0 + M), j0 = since[b * T + t0] / 32 * 32;
            pack(q + ((b * T + t0) * H + h) * d, M, H * d, d, M, D, 1 / sqrtf(d), qs);
            gemm(M, e - j0, d, qs, D, 1, kt + j0, E, s + j0, E, 0);
            float inverse[ROWS];
            for (long r = 0; r < M; r++) {
                float *p = s + r * E, m = -INFINITY, sum = 0; long lo = since[b * T + t0 + r], hi = t0 + r;
                #pragma omp simd reduction(max:m)
                for (long j = lo; j <= hi; j++) m = p[j] > m ? p[j] : m;
                #pragma omp simd reduction(+:sum)
                for (long j = lo; j <= hi; j++) { p[j] = fexp(p[j] - m); sum += p[j]; }
                for (long j = j0; j < lo; j++) p[j] = 0;
                for (long j = hi + 1; j < e; j++) p[j] = 0;
                inverse[r] = 1 / sum;
                lse[(b * H + h) * T + t0 + r] = m + logf(sum);
            }
            gemm(M, D, e - j0, s + j0, E, 1, vs + j0 * D, D, ys, D, 0);
            for (long r = 0; r < M; r++) for (long i = 0; i < d; i++)
                y[((b * T + t0 + r) * H + h) * d + i] = ys[r * D + i] * inverse[r];
        }
    }
    free(kt);
    }
}
void attend_back(const float *g, const float *q, const float *k, const float *v, const int64_t *since, const float *y,
                 const float *lse, float *dq, float *dk, float *dv, long B, long T, long H, long KV, long d) {
    long D = UP(d), E = UP(T), G = H / KV;
    #pragma omp parallel
    {
    float *kt = malloc(4 * (2 * d * E + 3 * E * D + ROWS * (3 * D + 2 * E))), *vt = kt + d * E, *ks = vt + d * E;
    float *dks = ks + E * D, *dvs = dks + E * D, *qs = dvs + E * D, *gs = qs + ROWS * D, *out = gs + ROWS * D;
    float *s = out + ROWS * D, *ds = s + ROWS * E;
    #pragma omp for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV;
        pack_side(k + (b * T * KV + kv) * d, T, KV * d, d, E, kt);
        pack_side(v + (b * T * KV + kv) * d, T, KV * d, d, E, vt);
        pack(k + (b * T * KV + kv) * d, T, KV * d, d, E, D, 1, ks);
        memset(dks, 0, 8 * E * D);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += ROWS) {
            long M = T - t0 < ROWS ? T - t0 : ROWS, e = UP(t0 + M), j0 = since[b * T + t0] / 32 * 32;
            long n = e - j0, at = ((b * T + t0) * H + h) * d, used = t0 + M - j0;
            pack(q + at, M, H * d, d, M, D, 1 / sqrtf(d), qs);
            pack(g + at, M, H * d, d, M, D, 1, gs);
            gemm(M, n, d, qs, D, 1, kt + j0, E, s + j0, E, 0);
            gemm(M, n, d, gs, D, 1, vt + j0, E, ds + j0, E, 0);
            for (long r = 0; r < M; r++) {
                float *p = s + r * E, *dp = ds + r * E, delta = 0, total = lse[(b * H + h) * T + t0 + r];
                long lo = since[b * T + t0 + r], hi = t0 + r;
                for (long i = 0; i < d; i++) delta += gs[r * D + i] * y[at + r * H * d + i];
                #pragma omp simd
                for (long j = lo; j <= hi; j++) { p[j] = fexp(p[j] - total); dp[j] = p[j] * (dp[j] - delta); }
                for (long j = j0; j < lo; j++) p[j] = dp[j] = 0;
                for (long j = hi + 1; j < e; j++) p[j] = dp[j] = 0;
            }
            gemm(M, D, n, ds + j0, E, 1, ks + j0 * D, D, out, D, 0);
            for (long r = 0; r < M; r++) for (long i = 0; i < d; i++)
                dq[at + r * H * d + i] = out[r * D + i] / sqrtf(d);
            gemm(used, D, M, ds + j0, 1, E, qs, D, dks + j0 * D, D, 1);
            gemm(used, D, M, s + j0, 1, E, gs, D, dvs + j0 * D, D, 1);
        }
        for (long t = 0; t < T; t++) for (long i = 0; i < d; i++) {
            dk[((b * T + t) * KV + kv) * d + i] = dks[t * D + i];
            dv[((b * T + t) * KV + kv) * d + i] = dvs[t * D + i];
        }
    }
    free(kt);
    }
}
