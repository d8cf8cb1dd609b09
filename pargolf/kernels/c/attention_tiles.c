/* Causal attention inside documents, forward and backward, by tiles (tiles.c). Reference: attention.py. */
#ifdef TILE
/* which of 16 keys from `c` on lie between two */
static inline __mmask16 seen(long c, long lo, long hi) {
    long first = lo - c, last = hi - c + 1;
    unsigned from = first <= 0 ? 0xFFFF : first >= 16 ? 0 : 0xFFFF << first;
    unsigned to = last >= 16 ? 0xFFFF : last <= 0 ? 0 : (1u << last) - 1;
    return (__mmask16)(from & to);
}
/* sums (d, rows) as rows of one head */
static void unpack(const float *x, long rows, long step, long d, long E, float *out) {
    for (long t = 0; t < rows; t += 16) for (long i = 0; i < d; i += 16) {
        __m512i sums[16];
        for (long c = 0; c < 16; c++) sums[c] = _mm512_load_si512(x + (i + c) * E + t);
        flip(sums);
        for (long r = 0; r < 16 && t + r < rows; r++)
            _mm512_mask_storeu_epi32(out + (t + r) * step + i, below(i, d), sums[r]);
    }
}
void attend(const float *q, const float *k, const float *v, const int64_t *since, float *y, float *lse,
            long B, long T, long H, long KV, long d) {
    long D = UP(d), E = UP(T), G = H / KV; float scale = 1 / sqrtf(d);
    #pragma omp parallel
    {
    half *kt = empty_room(2 * (2 * D * E + ROWS * (D + E))), *vs = kt + D * E, *qs = vs + D * E, *p = qs + ROWS * D;
    float *s = empty_room(4 * ROWS * (E + D)), *ys = s + ROWS * E;
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
    half *kt = empty_room(2 * (3 * D * E + ROWS * (4 * D + 3 * E))), *vt = kt + D * E, *ks = vt + D * E, *qs = ks + D * E;
    half *gs = qs + ROWS * D, *qt = gs + ROWS * D, *gt = qt + ROWS * D, *ds = gt + ROWS * D, *pv = ds + ROWS * E;
    half *dsv = pv + ROWS * E;
    float *s = empty_room(4 * (2 * ROWS * E + ROWS * D + 2 * D * E)), *dp = s + ROWS * E, *out = dp + ROWS * E;
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
#endif
