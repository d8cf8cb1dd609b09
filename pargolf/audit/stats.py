"""The statistics of the record rule: a one-sided test that new runs beat old ones by a bar, in nats per token.

Welch: `t = (mean_old - mean_new - bar) / sqrt(s_new^2/n_new + s_old^2/n_old)`, degrees of freedom after Welch and
Satterthwaite; with only the record's published mean it is the one-sample test. The upper tail of Student's t is half
the regularised incomplete beta function `I_x(v/2, 1/2)` at `x = v / (v + t^2)`, summed as its continued fraction.
"""

import math
from collections.abc import Sequence

NATS = 0.005


def better_by(new: Sequence[float], old: Sequence[float], bar: float) -> float | None:
    """p that `old - new > bar` is chance; None with fewer than two new values, or no spread at all."""
    if len(new) < 2:
        return None
    mean_new, var_new = _moments(new)
    mean_old, var_old = _moments(old) if len(old) > 1 else (old[0], 0.0)
    a, b = var_new / len(new), (var_old / len(old) if len(old) > 1 else 0.0)
    if a + b <= 0:
        return None
    t = (mean_old - mean_new - bar) / math.sqrt(a + b)
    freedom = (a + b) ** 2 / (a**2 / (len(new) - 1) + (b**2 / (len(old) - 1) if len(old) > 1 else 0.0))
    return t_tail(t, freedom)


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) for Student's t."""
    half = 0.5 * _beta(freedom / (freedom + t * t), freedom / 2, 0.5)
    return half if t >= 0 else 1.0 - half


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def _beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function (continued fraction after Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            value *= c * d
        if abs(value - before) < 1e-14 * value:
            break
    return front * value
