/* leaky relu squared and its gradient. Reference: relu2_mlp.py. */
void relu2(const float *z, float *y, long n, float slope) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) { float a = z[i] > 0 ? z[i] : slope * z[i]; y[i] = a * a; }
}
void relu2_back(const float *g, const float *z, float *dz, long n, float slope) {
    #pragma omp parallel for simd
    for (long i = 0; i < n; i++) dz[i] = 2.0f * g[i] * (z[i] > 0 ? z[i] : slope * slope * z[i]);
}
