/* Causal attention inside documents, forward and backward, by tiles (tiles.c). Reference: attention.py.
   Heads are 32 wide, and rows come in whole blocks of 32. Scores are made on their side, keys down and 16 queries across:
   a vector holds one key's scores for 16 queries, so no maximum and no sum runs within a vector. */
#ifdef TILE
#define D 32
static inline row exp16(row x) {  /* fexp of the prelude for what is not above 88; NaN stays NaN */
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
/* rows as a first factor */
static void pack_rows(const float *x, long rows, long step, words *out) {
    for (long t = 0; t < rows; t++) out[t] = both(at(x + t * step), at(x + t * step + 16));
}
/* 32 rows as a second factor, 16 columns and then the others */
static inline void pack_pairs(const float *x, long step, float w, words *out) {
    for (int c = 0; c < 2; c++) for (int i = 0; i < 16; i++) {
        const float *u = x + 2 * i * step + 16 * c;
        out[16 * c + i] = pairs(w * at(u), w * at(u + step));
    }
}
/* a tile of 16 columns, each times `w`, to where those columns are rows */
static inline void unpack(row *x, row w, float *out, long step) {
    for (int i = 0; i < 16; i++) x[i] *= w;
    flip((words *)x);
    for (int i = 0; i < 16; i++) _mm512_storeu_ps(out + i * step, x[i]);
}
static inline words numbers(const int64_t *x) {
    words out = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(_mm512_loadu_si512(x)));
    return _mm512_inserti64x4(out, _mm512_cvtepi64_epi32(_mm512_loadu_si512(x + 8)), 1);
}
static inline words lanes(long first) {
    words count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_add_epi32(count, _mm512_set1_epi32(first));
}
/* the queries that may see key j */
static inline __mmask16 sees(long j, words since, words place) {
    words key = _mm512_set1_epi32(j);
    return _mm512_mask_cmple_epi32_mask(_mm512_cmple_epi32_mask(since, key), key, place);
}
void attend(const float *q, const float *k, const float *v, const int64_t *since, float *y, float *lse,
            long B, long T, long H, long KV, long d) {
    long G = H / KV;
    #pragma omp parallel for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV, from = (b * T * KV + kv) * D;
        begin();
        words *kb = room(64 * (3 * T + T / 2)), *vt = kb + T, *ps = vt + T;
        row *s = (row *)(ps + T / 2);
        pack_rows(k + from, T, KV * D, kb);
        pack_columns(v + from, T, KV * D, vt);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += 16) {
            long j0 = since[b * T + t0] / 32 * 32, e = t0 / 32 * 32 + 32, row0 = ((b * T + t0) * H + h) * D;
            words qs[16], start = numbers(since + b * T + t0), place = lanes(t0);
            pack_turned(q + row0, H * D, 1 / sqrtf(D), qs);
            _tile_loadd(1, qs, 64);
            row top = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps(), out[32];
            for (long j = j0; j < e; j += 16) {
                _tile_zero(0); _tile_loadd(2, kb + j, 64);
                _tile_dpbf16ps(0, 2, 1);
                _tile_stored(0, s + j, 64);
                for (long i = j; i < j + 16; i++) top = _mm512_mask_max_ps(top, sees(i, start, place), top, s[i]);
            }
            for (long j = j0; j < e; j += 2) {
                row a = _mm512_maskz_mov_ps(sees(j, start, place), exp16(s[j] - top));
                row c = _mm512_maskz_mov_ps(sees(j + 1, start, place), exp16(s[j + 1] - top));
                sum += a + c;
                ps[j / 2] = pairs(a, c);
            }
            _tile_zero(3); _tile_zero(4);
            for (long j = j0; j < e; j += 32) {
                _tile_loadd(5, ps + j / 2, 64);
                _tile_loadd(6, vt + j / 32, 2 * T); _tile_dpbf16ps(3, 6, 5);
                _tile_loadd(7, vt + T / 2 + j / 32, 2 * T); _tile_dpbf16ps(4, 7, 5);
            }
            _tile_stored(3, out, 64); _tile_stored(4, out + 16, 64);
            for (int c = 0; c < 2; c++) unpack(out + 16 * c, 1 / sum, y + row0 + 16 * c, H * D);
            for (int i = 0; i < 16; i++) lse[(b * H + h) * T + t0 + i] = top[i] + logf(sum[i]);
        }
        free(kb);
        _tile_release();
    }
}
void attend_back(const float *g, const float *q, const float *k, const float *v, const int64_t *since, const float *y,
                 const float *lse, float *dq, float *dk, float *dv, long B, long T, long H, long KV, long d) {
    long G = H / KV;
    #pragma omp parallel for
    for (long pair = 0; pair < B * KV; pair++) {
        long b = pair / KV, kv = pair % KV, from = (b * T * KV + kv) * D;
        begin();
        words *kb = room(64 * 7 * T), *vb = kb + T, *kt = vb + T;
        row *dks = (row *)(kt + T), *dvs = dks + 2 * T;  /* (2, T, 16) each */
        pack_rows(k + from, T, KV * D, kb); pack_rows(v + from, T, KV * D, vb); pack_columns(k + from, T, KV * D, kt);
        memset(dks, 0, 64 * 4 * T);
        for (long h = kv * G; h < kv * G + G; h++) for (long t0 = 0; t0 < T; t0 += 32) {
            long row0 = ((b * T + t0) * H + h) * D, step = H * D;
            words qs[32], gs[32], qp[32], gp[32], start[2], place[2], p[32], ds[32], dsp[32];
            row total[2], delta[2], s[2][32], dp[2][32], out[16];
            for (int c = 0; c < 2; c++) {
                pack_turned(q + row0 + 16 * c * step, step, 1 / sqrtf(D), qs + 16 * c);
                pack_turned(g + row0 + 16 * c * step, step, 1, gs + 16 * c);
                start[c] = numbers(since + b * T + t0 + 16 * c); place[c] = lanes(t0 + 16 * c);
                total[c] = at(lse + (b * H + h) * T + t0 + 16 * c);
                for (int i = 0; i < 16; i++) {
                    const float *a = g + row0 + (16 * c + i) * step, *o = y + row0 + (16 * c + i) * step;
                    out[i] = at(a) * at(o) + at(a + 16) * at(o + 16);
                }
                flip((words *)out);
                delta[c] = out[0];
                for (int i = 1; i < 16; i++) delta[c] += out[i];
            }
            pack_pairs(q + row0, step, 1 / sqrtf(D), qp); pack_pairs(g + row0, step, 1, gp);
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);  /* dq on its side: (2, 2) tiles */
            for (long j = since[b * T + t0] / 32 * 32; j < t0 + 32; j += 32) {
                for (int c = 0; c < 2; c++) {
                    _tile_loadd(6, qs + 16 * c, 64); _tile_loadd(7, gs + 16 * c, 64);
                    for (int a = 0; a < 32; a += 16) {
                        _tile_zero(4); _tile_loadd(5, kb + j + a, 64);
                        _tile_dpbf16ps(4, 5, 6); _tile_stored(4, s[c] + a, 64);
                        _tile_zero(4); _tile_loadd(5, vb + j + a, 64);
                        _tile_dpbf16ps(4, 5, 7); _tile_stored(4, dp[c] + a, 64);
                    }
                    for (int i = 0; i < 32; i++) {
                        __mmask16 seen = sees(j + i, start[c], place[c]);
                        s[c][i] = _mm512_maskz_mov_ps(seen, exp16(s[c][i] - total[c]));
                        dp[c][i] = s[c][i] * (dp[c][i] - delta[c]);
                    }
                    for (int i = 0; i < 16; i++) dsp[16 * c + i] = pairs(dp[c][2 * i], dp[c][2 * i + 1]);
                }
                for (int i = 0; i < 32; i++) { p[i] = both(s[0][i], s[1][i]); ds[i] = both(dp[0][i], dp[1][i]); }
                for (int c = 0; c < 2; c++) for (int a = 0; a < 32; a += 16) {
                    row *to = dvs + c * T + j + a;
                    _tile_loadd(4, to, 64); _tile_loadd(5, p + a, 64); _tile_loadd(6, gp + 16 * c, 64);
                    _tile_dpbf16ps(4, 5, 6); _tile_stored(4, to, 64);
                    to = dks + c * T + j + a;
                    _tile_loadd(4, to, 64); _tile_loadd(5, ds + a, 64); _tile_loadd(6, qp + 16 * c, 64);
                    _tile_dpbf16ps(4, 5, 6); _tile_stored(4, to, 64);
                }
                _tile_loadd(6, dsp, 64); _tile_loadd(7, dsp + 16, 64);
                _tile_loadd(5, kt + j / 32, 2 * T); _tile_dpbf16ps(0, 5, 6); _tile_dpbf16ps(1, 5, 7);
                _tile_loadd(5, kt + T / 2 + j / 32, 2 * T); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
            }
            row w = _mm512_set1_ps(1 / sqrtf(D));
            _tile_stored(0, out, 64); unpack(out, w, dq + row0, step);
            _tile_stored(1, out, 64); unpack(out, w, dq + row0 + 16 * step, step);
            _tile_stored(2, out, 64); unpack(out, w, dq + row0 + 16, step);
            _tile_stored(3, out, 64); unpack(out, w, dq + row0 + 16 * step + 16, step);
        }
        for (long t = 0; t < T; t++) for (int c = 0; c < 2; c++) {
            _mm512_storeu_ps(dk + from + t * KV * D + 16 * c, dks[c * T + t]);
            _mm512_storeu_ps(dv + from + t * KV * D + 16 * c, dvs[c * T + t]);
        }
        free(kb);
        _tile_release();
    }
}
#endif
