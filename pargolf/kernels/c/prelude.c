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
static inline float ftanh(float x) {
    float far = 1.0f - 2.0f / (fexp(2.0f * x) + 1.0f), s = x * x;
    float near = x + x * s * (-0.333333333f + s * (0.133333333f - s * (0.0539682540f - s * 0.0218694885f)));
    return s < 0.04f ? near : far;
}
