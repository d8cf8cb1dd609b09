/* What every kernel may use: exp and tanh that vectorize. Put before the kernel's own source. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#define PARTS 16
static inline float fexp(float x) {  /* 2 ulp; NaN stays NaN */
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = rintf(x * 1.44269504f), f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.98756915e-4f;
    p = p * f + 1.39819995e-3f; p = p * f + 8.33345191e-3f; p = p * f + 4.16657959e-2f;
    p = p * f + 1.66666655e-1f; p = p * f + 5.00000012e-1f;
    p = p * f * f + f + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale; memcpy(&scale, &bits, 4);
    return p * scale;
}
static inline float ftanh(float x) {  /* 4 ulp; NaN stays NaN. A quotient of polynomials: one division, no exponential */
    x = x < -8.5f ? -8.5f : (x > 8.5f ? 8.5f : x);
    float s = x * x, p = 1.42692675e-8f, q = 8.1451401e-7f;
    p = p * s + 2.12510749e-5f; p = p * s + 3.53402877e-3f; p = p * s + 0.13413249f; p = p * s + 1.0f;
    q = q * s + 3.34886776e-4f; q = q * s + 2.60227583e-2f; q = q * s + 0.467465699f; q = q * s + 1.0f;
    return x * p / q;
}
