/* RMS norm, and norm with rotation and gain, forward and backward. Reference: rms_norm.py. */
void norm(const float *x, float *y, float *rs, long rows, long d, float eps) {
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const float *u = x + n * d; float *v = y + n * d, s = 0;
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < d; i++) s += u[i] * u[i];
        float r = 1.0f / sqrtf(s / d + eps);
        rs[n] = r;
        #pragma omp simd
        for (long i = 0; i < d; i++) v[i] = u[i] * r;
    }
}
void norm_back(const float *g, const float *x, const float *rs, float *dx, long rows, long d) {
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) {
        const float *u = x + n * d, *h = g + n * d; float *v = dx + n * d, s = 0, r = rs[n];
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < d; i++) s += u[i] * h[i];
        float w = s / d * r * r;
        #pragma omp simd
        for (long i = 0; i < d; i++) v[i] = r * (h[i] - u[i] * w);
    }
}
void turn(const float *x, const float *cs, const float *sn, const float *gain, float *y, float *rs,
          long rows, long T, long H, long d, long R, float eps) {
    #pragma omp parallel for
    for (long n = 0; n < rows; n++) for (long h = 0; h < H; h++) {
        const float *u = x + (n * H + h) * d, *c = cs + n % T * R, *z = sn + n % T * R;
        float *v = y + (n * H + h) * d, s = 0;
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < d; i++) s += u[i] * u[i];
        float r = 1.0f / sqrtf(s / d + eps), w = gain ? r * gain[h] : r;
        rs[n * H + h] = r;
        #pragma omp simd
        for (long i = 0; i < R; i++) {
            float a = u[i], b = u[i + R];
            v[i] = (a * c[i] + b * z[i]) * w; v[i + R] = (b * c[i] - a * z[i]) * w;
        }
        #pragma omp simd
        for (long i = 2 * R; i < d; i++) v[i] = u[i] * w;
    }
}
void turn_back(const float *g, const float *x, const float *cs, const float *sn, const float *gain, const float *rs,
               float *dx, float *dgain, long rows, long T, long H, long d, long R) {
    #pragma omp parallel for
    for (long p = 0; p < PARTS; p++)
    for (long n = rows * p / PARTS; n < rows * (p + 1) / PARTS; n++) for (long h = 0; h < H; h++) {
        const float *u = x + (n * H + h) * d, *k = g + (n * H + h) * d, *c = cs + n % T * R, *z = sn + n % T * R;
        float *v = dx + (n * H + h) * d, r = rs[n * H + h], s = 0, w = gain ? r * gain[h] : r;
        #pragma omp simd
        for (long i = 0; i < R; i++) {  /* turn back; the turn keeps inner products */
            v[i] = k[i] * c[i] - k[i + R] * z[i]; v[i + R] = k[i + R] * c[i] + k[i] * z[i];
        }
        #pragma omp simd
        for (long i = 2 * R; i < d; i++) v[i] = k[i];
        #pragma omp simd reduction(+:s)
        for (long i = 0; i < d; i++) s += u[i] * v[i];
        if (gain) dgain[p * H + h] += s * r;
        float t = s / d * r * r;
        #pragma omp simd
        for (long i = 0; i < d; i++) v[i] = w * (v[i] - u[i] * t);
    }
}
