"""The best path through a trellis: `states` survivors a row, each with its own weights left after feedback.

    cost'[s] = min over the two ways into s of  cost[from] + e^2,    e = (x[from] - n half) / U_jj
    x'[s][k] = x[from][k] - e U_jk  for the columns k to come          n = offset + 4 j, the nearest on that way

State s is reached from s // 2 and from s // 2 + states / 2. Feedback is lazy: inside a stretch of columns every
survivor has a line with its errors so far and what is left of the weights to come; the columns after it follow once a
stretch. `reference` does all rows at once by torch, on any device; the C takes one row after the other, which stays in
the cache. They add in another order, so now and then they choose another one of two paths that cost the same.
"""

import torch
from torch import Tensor

from pargolf.kernels.compiled import Compiled, at_hand_to_pack

Ways = tuple[Tensor, Tensor, Tensor]
"""Of the n = offset + 4 j on the ways into each state: offset, least and greatest j, (2, states / 2, 2, 1) each; the
first index is where from, the second that state's number, the third the last bit of where to."""

_UNREACHED = 1e30
_STRETCH = 16  # columns
_ROOM = 1 << 23  # survivors' weights that are walked at once, which bounds memory
_C = """
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
"""


def best_path(w_NC: Tensor, scale_NC: Tensor, upper_CC: Tensor | None, ways: Ways) -> Tensor:
    """Codes (N, C), int8, along the path of least cost through each row, from state 0; `upper_CC` None: no feedback."""
    fast = at_hand_to_pack(w_NC)
    if isinstance(fast, Compiled):
        codes_NC = torch.empty(w_NC.shape, dtype=torch.int8)
        table = torch.cat([way.reshape(-1) for way in ways])
        upper_CC = None if upper_CC is None else upper_CC.contiguous()
        sizes = (*w_NC.shape, 2 * ways[0].shape[1])
        fast.call(_C, "survivors", w_NC.contiguous(), scale_NC.contiguous(), upper_CC, table, codes_NC, *sizes)
        return codes_NC
    return reference(w_NC, scale_NC, upper_CC, ways)


def reference(w_NC: Tensor, scale_NC: Tensor, upper_CC: Tensor | None, ways: Ways) -> Tensor:
    """`best_path` by torch, as many rows at once as fit in memory."""
    rows = max(1, _ROOM // (2 * ways[0].shape[1] * w_NC.shape[1]))
    parts = zip(torch.split(w_NC, rows), torch.split(scale_NC, rows))
    return torch.cat([_walked(w, scale, upper_CC, ways) for w, scale in parts])


def _walked(w_NC: Tensor, scale_NC: Tensor, upper_CC: Tensor | None, ways: Ways) -> Tensor:
    """Forward with survivors, then back along the best."""
    (N, C), S, device = w_NC.shape, 2 * ways[0].shape[1], w_NC.device
    offset, least, greatest = (way.to(device) for way in ways)
    cost_SN = w_NC.new_full((S, N), _UNREACHED)
    cost_SN[0] = 0.0
    history: list[tuple[Tensor, Tensor]] = []
    first_K = torch.arange(S * N, device=device).reshape(S, N)[: S // 2].repeat_interleave(2, 0).reshape(-1)
    rest_KC = w_NC.expand(S, N, C).reshape(S * N, C)
    for begin, end in ((at, min(at + _STRETCH, C)) for at in range(0, C, _STRETCH)):
        line_KB, origin_K = rest_KC[:, : end - begin].contiguous(), torch.arange(S * N, device=device)
        for i, j in enumerate(range(begin, end)):
            half_N, x_SN = scale_NC[:, j] * 0.5, line_KB[:, i].reshape(S, N)
            n_2SN = (_onward(x_SN / half_N) - offset).mul_(0.25).round_()
            n_2SN = torch.minimum(torch.maximum(n_2SN, least), greatest).mul_(4.0).add_(offset)
            error_2SN = _onward(x_SN) - n_2SN * half_N
            if upper_CC is not None:
                error_2SN /= upper_CC[j, j]
            cost_2SN = error_2SN.square().add_(_onward(cost_SN)).reshape(2, S, N)
            second_SN = cost_2SN[1] < cost_2SN[0]
            cost_SN = torch.minimum(cost_2SN[0], cost_2SN[1])
            history.append((_chosen(second_SN, n_2SN), second_SN))
            if upper_CC is None or j + 1 == C:
                continue
            error_K1 = _chosen(second_SN, error_2SN).reshape(-1, 1)
            parent_K = torch.add(first_K, second_SN.reshape(-1), alpha=S // 2 * N)
            line_KB, origin_K = line_KB.index_select(0, parent_K), origin_K.index_select(0, parent_K)
            line_KB[:, i : i + 1] = error_K1
            line_KB[:, i + 1 :].addcmul_(error_K1, upper_CC[j, j + 1 : end], value=-1)
        if end < C:
            rest_KC = rest_KC[:, end - begin :]
            if upper_CC is not None:
                rest_KC = rest_KC.index_select(0, origin_K).addmm_(line_KB, upper_CC[begin:end, end:], alpha=-1)
    return _back(cost_SN, history)


def _onward(x_SN: Tensor) -> Tensor:
    """What stands at each state, seen from the states reached: (2, S / 2, 1, N), a view."""
    return x_SN.reshape(2, len(x_SN) // 2, 1, -1)


def _chosen(second_SN: Tensor, x_2SN: Tensor) -> Tensor:
    """Of the values on both ways into each state, the one of the way taken."""
    first_SN, other_SN = x_2SN.reshape(2, *second_SN.shape)
    return torch.where(second_SN, other_SN, first_SN)


def _back(cost_SN: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Codes from the cheapest last state back."""
    half, at_1N, codes = len(cost_SN) // 2, cost_SN.argmin(0, keepdim=True), []
    for n_SN, second_SN in reversed(history):
        codes.append(n_SN.gather(0, at_1N))
        at_1N = at_1N // 2 + half * second_SN.gather(0, at_1N)
    return torch.floor(torch.cat(codes[::-1]).T * 0.5).to(torch.int8)
