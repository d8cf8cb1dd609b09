/* y = keep x + add s in one pass, and its gradients in one. Reference: blend.py. */
void blend(const float *x, const float *s, const float *keep, const float *add, float *y, long rows, long d) {
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const float *u = x + n * d, *v = s + n * d; float *w = y + n * d;
        if (keep) {
            #pragma omp simd
            for (long i = 0; i < d; i++) w[i] = keep[i] * u[i] + add[i] * v[i];
        } else {
            #pragma omp simd
            for (long i = 0; i < d; i++) w[i] = u[i] + add[i] * v[i];
        }
    }
}
void blend_back(const float *g, const float *x, const float *s, const float *keep, const float *add,
                float *dx, float *ds, float *dkeep, float *dadd, long rows, long d) {
    #pragma omp parallel for
    for (long p = 0; p < PARTS; p++) {
        float *da = dadd + p * d, *dk = keep ? dkeep + p * d : 0;
        for (long n = rows * p / PARTS; n < rows * (p + 1) / PARTS; n++) {
            const float *h = g + n * d, *u = x + n * d, *v = s + n * d; float *a = ds + n * d, *b = dx + n * d;
            #pragma omp simd
            for (long i = 0; i < d; i++) { da[i] += h[i] * v[i]; a[i] = add[i] * h[i]; }
            if (keep) {
                #pragma omp simd
                for (long i = 0; i < d; i++) { dk[i] += h[i] * u[i]; b[i] = keep[i] * h[i]; }
            }
        }
    }
}
