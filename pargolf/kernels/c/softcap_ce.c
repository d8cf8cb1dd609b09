/* Cross-entropy of capped logits, with and without a bias, forward and backward. Reference: softcap_ce.py. */
void ce(const float *z, const int64_t *target, float *total, float *loss, long rows, long V, float cap) {
    float per = 1 / cap;
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const float *u = z + n * V; float s = 0;
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < V; i++) s += fexp(cap * ftanh(u[i] * per) - cap);  /* no capped logit is larger */
        total[n] = cap + logf(s);
        loss[n] = total[n] - cap * ftanh(u[target[n]] * per);
    }
}
void ce_back(const float *z, const int64_t *target, const float *total, float *dz, long rows, long V, float cap,
             const float *g) {
    float per = 1 / cap;
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const float *u = z + n * V; float *v = dz + n * V, w = *g / rows;
        #pragma omp simd
        for (long i = 0; i < V; i++) {
            float t = ftanh(u[i] * per);
            v[i] = w * fexp(cap * t - total[n]) * (1.0f - t * t);
        }
        float t = ftanh(u[target[n]] * per);
        v[target[n]] -= w * (1.0f - t * t);
    }
}
static inline float widened(uint16_t h) { uint32_t bits = (uint32_t)h << 16; float x; memcpy(&x, &bits, 4); return x; }
static inline uint16_t halved(float x) {  /* to nearest, ties to even */
    uint32_t bits; memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
void head(const uint16_t *z, const float *b, const int64_t *target, float *total, float *loss, long rows, long V,
          float cap) {
    float per = 1 / cap;
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const uint16_t *u = z + n * V; float s = 0;
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < V; i++) s += fexp(cap * ftanh((widened(u[i]) + b[i]) * per) - cap);
        total[n] = cap + logf(s);
        loss[n] = total[n] - cap * ftanh((widened(u[target[n]]) + b[target[n]]) * per);
    }
}
void head_back(const uint16_t *z, const float *b, const int64_t *target, const float *total, uint16_t *dz, float *db,
               long rows, long V, float cap, const float *g) {
    float per = 1 / cap;
    #pragma omp parallel for
    for (long p = 0; p < PARTS; p++) {
        float *sums = db + p * V;
        for (long n = rows * p / PARTS; n < rows * (p + 1) / PARTS; n++) {
            const uint16_t *u = z + n * V; uint16_t *v = dz + n * V; float w = *g / rows;
            #pragma omp simd
            for (long i = 0; i < V; i++) {
                float t = ftanh((widened(u[i]) + b[i]) * per), d = w * fexp(cap * t - total[n]) * (1.0f - t * t);
                v[i] = halved(d);
                sums[i] += d;
            }
            long i = target[n];
            float t = ftanh((widened(u[i]) + b[i]) * per), slope = w * (1.0f - t * t);
            v[i] = halved(w * fexp(cap * t - total[n]) * (1.0f - t * t) - slope);
            sums[i] -= slope;
        }
    }
}
