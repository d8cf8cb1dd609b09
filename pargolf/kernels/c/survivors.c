/* The best path of each row through the trellis, column by column. Reference: survivors.py. */
#include <stdlib.h>
#define STRETCH 16
#define MOST 32
#define WIDE 64
static void row(const float *w, const float *scale, const float *upper, const float *ways, signed char *codes,
                long C, long S, float *left, float *next, signed char *seen, char *second) {
    float cost[MOST], line[2][MOST][STRETCH], error[2][MOST][STRETCH], line_upper[STRETCH];
    long origin[2][MOST], H = S / 2, now = 0;
    const float *offset = ways, *least = ways + 2 * S, *greatest = ways + 4 * S;
    memset(line, 0, sizeof line);
    for (long s = 0; s < S; s++) { cost[s] = s ? 1e30f : 0.0f; memcpy(left + s * C, w, C * sizeof(float)); }
    for (long begin = 0; begin < C; begin += STRETCH) {
        long width = C - begin < STRETCH ? C - begin : STRETCH, end = begin + width;
        for (long s = 0; s < S; s++) {
            origin[now][s] = s;
            memcpy(line[now][s], left + s * C + begin, width * sizeof(float));
        }
        for (long i = 0; i < width; i++) {
            long j = begin + i, then = 1 - now;
            float half = scale[j] * 0.5f, pivot = upper ? upper[j * C + j] : 1.0f;
            float x[2 * MOST], n[2 * MOST], e[2 * MOST], c[2 * MOST];
            for (long s = 0; s < S; s++) {  /* ways by where from, each S in the order of where to */
                x[2 * s] = x[2 * s + 1] = line[now][s][i];
                c[2 * s] = c[2 * s + 1] = cost[s];
            }
            #pragma omp simd
            for (long way = 0; way < 2 * S; way++) {
                float q = rintf((x[way] / half - offset[way]) * 0.25f);
                q = q < least[way] ? least[way] : q > greatest[way] ? greatest[way] : q;
                n[way] = q * 4.0f + offset[way];
                e[way] = (x[way] - n[way] * half) / pivot;
                c[way] += e[way] * e[way];
            }
            float *u = line_upper;
            memset(u, 0, sizeof line_upper);
            if (upper) memcpy(u + i + 1, upper + j * C + j + 1, (end - j - 1) * sizeof(float));
            for (long to = 0; to < S; to++) {
                long from = c[S + to] < c[to], way = from * S + to, parent = to / 2 + from * H;
                cost[to] = c[way];
                seen[j * S + to] = (signed char)floorf(n[way] * 0.5f);
                second[j * S + to] = (char)from;
                if (!upper) continue;
                const float *old = line[now][parent], *gone = error[now][parent], step = e[way];
                float *mine = line[then][to], *errors = error[then][to];
                for (long k = 0; k < STRETCH; k++) mine[k] = old[k] - step * u[k];
                memcpy(errors, gone, sizeof error[0][0]);
                errors[i] = step;
                origin[then][to] = origin[now][parent];
            }
            if (upper) now = then;
        }
        if (!upper || end == C) continue;
        for (long s = 0; s < S; s++)
            for (long k = end; k < C; k += WIDE) {
                long many = C - k < WIDE ? C - k : WIDE;
                const float *old = left + origin[now][s] * C + k;
                float sum[WIDE];
                memcpy(sum, old, many * sizeof(float));
                if (many == WIDE)
                    for (long i = 0; i < STRETCH; i++) {
                        const float e = error[now][s][i], *u = upper + (begin + i) * C + k;
                        for (long x = 0; x < WIDE; x++) sum[x] -= e * u[x];
                    }
                else
                    for (long i = 0; i < STRETCH; i++)
                        for (long x = 0; x < many; x++) sum[x] -= error[now][s][i] * upper[(begin + i) * C + k + x];
                memcpy(next + s * C + k, sum, many * sizeof(float));
            }
        float *swap = left; left = next; next = swap;
    }
    long at = 0;
    for (long s = 1; s < S; s++) at = cost[s] < cost[at] ? s : at;
    for (long j = C - 1; j >= 0; j--) { codes[j] = seen[j * S + at]; at = at / 2 + second[j * S + at] * H; }
}
void survivors(const float *w, const float *scale, const float *upper, const float *ways, signed char *codes,
               long N, long C, long S) {
    #pragma omp parallel
    {
        float *lines = malloc(2 * S * C * sizeof(float));
        signed char *seen = malloc(2 * S * C);
        #pragma omp for
        for (long n = 0; n < N; n++)
            row(w + n * C, scale + n * C, upper, ways, codes + n * C, C, S, lines, lines + S * C, seen,
                (char *)seen + S * C);
        free(lines); free(seen);
    }
}
