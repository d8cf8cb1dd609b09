"""The best path through a trellis: `states` survivors for each row, each with its own error feedback.

    cost'[s] = min over the two ways into s of  cost[from] + e^2,    e = (x[from] - n half) / U_jj
    x'[s][k] = x[from][k] - e U_jk  for the columns k to come          n = offset + 4 j, the nearest on that way

State s is reached from s // 2 and from s // 2 + states / 2. Feedback is lazy: within a stretch of columns, each
survivor has a line with its errors so far and the updated weights of the stretch; the columns after the stretch are
updated once at its end. `reference` handles all rows at once in torch, on any device; the C code handles one row after
another, which stays in the cache. They add in different orders, so they sometimes choose different paths of equal cost.
"""

import torch
from torch import Tensor

from pargolf.kernels.compiled import Compiled, at_hand_to_pack, c_source

Ways = tuple[Tensor, Tensor, Tensor]
"""For the n = offset + 4 j on the ways into each state: offset, smallest and largest j, each (2, states / 2, 2, 1). The
first two indices are the half and the number of the state before, the third is the last bit of the state after."""

_UNREACHED = 1e30
_STRETCH = 16  # columns
_ROOM = 1 << 23  # the most weights of survivors at a time, which limits memory
_C = c_source("survivors")


def best_path(w_NC: Tensor, scale_NC: Tensor, upper_CC: Tensor | None, ways: Ways) -> Tensor:
    """Codes (N, C), int8, of the cheapest path through each row from state 0; `upper_CC` None: no feedback."""
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
    """`best_path` in torch, with as many rows at a time as fit in memory."""
    rows = max(1, _ROOM // (2 * ways[0].shape[1] * w_NC.shape[1]))
    parts = zip(torch.split(w_NC, rows), torch.split(scale_NC, rows))
    return torch.cat([_walked(w, scale, upper_CC, ways) for w, scale in parts])


def _walked(w_NC: Tensor, scale_NC: Tensor, upper_CC: Tensor | None, ways: Ways) -> Tensor:
    """Go forward with survivors, then back along the best path."""
    (N, C), S, device = w_NC.shape, 2 * ways[0].shape[1], w_NC.device
    offset, least, greatest = (way.to(device) for way in ways)
    cost_SN = w_NC.new_full((S, N), _UNREACHED)
    cost_SN[0] = 0.0
    history: list[tuple[Tensor, Tensor]] = []
    first_K = torch.arange(S * N, device=device).reshape(S, N)[: S // 2].repeat_interleave(2, 0).reshape(-1)
    rest_KC = w_NC.expand(S, N, C).reshape(S * N, C)
    for begin, end in ((column, min(column + _STRETCH, C)) for column in range(0, C, _STRETCH)):
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
    """Values of each state, arranged for the states reached from it: (2, S / 2, 1, N), a view."""
    return x_SN.reshape(2, len(x_SN) // 2, 1, -1)


def _chosen(second_SN: Tensor, x_2SN: Tensor) -> Tensor:
    """The values of the chosen way into each state."""
    first_SN, other_SN = x_2SN.reshape(2, *second_SN.shape)
    return torch.where(second_SN, other_SN, first_SN)


def _back(cost_SN: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The codes on the way back from the cheapest last state."""
    half, at_1N, codes = len(cost_SN) // 2, cost_SN.argmin(0, keepdim=True), []
    for n_SN, second_SN in reversed(history):
        codes.append(n_SN.gather(0, at_1N))
        at_1N = at_1N // 2 + half * second_SN.gather(0, at_1N)
    return torch.floor(torch.cat(codes[::-1]).T * 0.5).to(torch.int8)
