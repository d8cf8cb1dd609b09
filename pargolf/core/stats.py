"""Statistics over seeds: the confidence interval of a mean, and the one-sided t test of the record rule.

    Welch     t = (mean(old) - mean(new) - bar) / sqrt(sd(new)^2 / n + sd(old)^2 / m), freedom after Satterthwaite
    paired    t = (mean(old - new) - bar) / (sd(old - new) / sqrt(n)), where both sides ran the same seeds

The bar of Parameter Golf is .005 nats per token at p < .01. Bits per byte are `nats / ln 2 * tokens / bytes`, so in
bits per byte the bar depends on the tokenizer: .00296 for sp1024, .00194 for sp8192, .00228 for CaseOps. The tail of
Student's t is half of the regularized incomplete beta function, a continued fraction (Abramowitz and Stegun 26.5.8).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pargolf.core.errors import UserError

BAR_NATS = 0.005
LEVEL = 0.01


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and confidence interval of the mean; the last two are None for a single value."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TTest:
    """One test: the gain beyond the bar in standard errors, degrees of freedom, one-sided p."""

    t: float
    freedom: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """New runs compared with old ones. Gains are positive when the new runs are better.

    `paired` is None unless both sides ran the same seeds; `welch` is None when the new side has no spread to measure.
    `low` and `high` are the 95 % interval of the gain in bits per byte, by the test that decides.
    """

    gain_bpb: float
    gain_nats: float
    bar_bpb: float
    low: float | None
    high: float | None
    welch: TTest | None
    paired: TTest | None

    @property
    def p(self) -> float | None:
        """The p that decides: of the paired test when there is one, else of Welch's."""
        test = self.paired or self.welch
        return None if test is None else test.p

    @property
    def met(self) -> bool:
        """Whether the gain is over the bar at p < .01."""
        return self.p is not None and self.p < LEVEL

    @property
    def words(self) -> str:
        """A sentence on whether the record rule is met, and if not, why."""
        rule = f"{BAR_NATS} nats per token ({self.bar_bpb:.5f} bits per byte) at p < {LEVEL}"
        if self.p is None:
            return f"The rule of {rule} cannot be tested: give two runs or more with different seeds."
        if self.met:
            return f"The rule of {rule} is met: p = {self.p:.2g}."
        if self.gain_bpb <= self.bar_bpb:
            return f"The rule of {rule} is not met: the mean gain is {self.gain_nats:.5f} nats."
        return f"The rule of {rule} is not met: p = {self.p:.2g}. More seeds would narrow it."


def spread(values: Sequence[float], *, confidence: float = 0.95) -> Spread:
    """Mean, spread and interval of the values. Raises `UserError` when there are none."""
    if not values:
        raise UserError("There are no runs to describe. Give at least one.")
    mean, variance = _moments(values)
    if variance is None:
        return Spread(1, mean, None, None, None)
    n = len(values)
    half = student_quantile(0.5 + confidence / 2, n - 1) * math.sqrt(variance / n)
    return Spread(n, mean, math.sqrt(variance), mean - half, mean + half)


def bar_in_bpb(tokens: int, data_bytes: int, *, nats: float = BAR_NATS) -> float:
    """Convert nats per token to bits per byte, for a tokenizer that makes `tokens` tokens of `data_bytes` bytes."""
    return nats / math.log(2) * tokens / data_bytes


def compare_scores(
    new: Mapping[int, float] | Sequence[float], old: Mapping[int, float] | Sequence[float], *, bar: float, nats: float
) -> Comparison:
    """Test whether `new` beats `old` by more than `bar`. Scores and bar are in bits per byte.

    new, old: scores, or a mapping from seed to score. A single old value counts as exact (a published mean).
    nats: nats per token of one bit per byte

    Raises `UserError` when a side is empty.
    """
    a, b = _values(new), _values(old)
    if not a or not b:
        raise UserError("Both sides of a comparison need at least one run.")
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    gain = mean_b - mean_a
    welch = paired = None
    error = 0.0
    if var_a is not None:
        share_a, share_b = var_a / len(a), (var_b or 0.0) / len(b)
        error = math.sqrt(share_a + share_b)
        if error > 0:
            own = share_a**2 / (len(a) - 1) + (share_b**2 / (len(b) - 1) if len(b) > 1 else 0.0)
            welch = _test(gain - bar, error, (share_a + share_b) ** 2 / own)
    if isinstance(new, Mapping) and isinstance(old, Mapping) and set(new) == set(old) and len(new) > 1:
        variance = _moments([old[seed] - new[seed] for seed in new])[1] or 0.0
        if variance > 0:
            error = math.sqrt(variance / len(new))
            paired = _test(gain - bar, error, len(new) - 1)
    test = paired or welch
    half = None if test is None else error * student_quantile(0.975, test.freedom)
    low, high = (None, None) if half is None else (gain - half, gain + half)
    return Comparison(gain, gain * nats, bar, low, high, welch, paired)


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) for Student's t with `freedom` > 0 degrees of freedom."""
    # For small t the second form's argument rounds to 1; the first form keeps its digits.
    square = t * t
    if square < freedom:
        inside = incomplete_beta(square / (freedom + square), 0.5, freedom / 2)
        tail = 0.5 * (1.0 - inside)
    else:
        tail = 0.5 * incomplete_beta(freedom / (freedom + square), freedom / 2, 0.5)
    return tail if t >= 0 else 1.0 - tail


def student_quantile(p: float, freedom: float) -> float:
    """The t with P(T <= t) = p, for p from .5 up to but not including 1; by bisection."""
    assert 0.5 <= p < 1.0
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 1.0 - p:
        low, high = high, 2.0 * high
    while (middle := 0.5 * (low + high)) not in (low, high):
        low, high = (middle, high) if student_tail(middle, freedom) > 1.0 - p else (low, middle)
    return middle


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), regularized, for 0 <= x <= 1 and a, b > 0."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d1 / (1 + d2 / (1 + ...)) of 26.5.8, by Lentz's two running ratios."""
    value = upper = 1.0
    lower = 0.0
    for k in range(1, 2000):
        m = k // 2
        if k % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        lower = 1.0 / (1.0 + d * lower)
        upper = 1.0 + d / upper
        value *= lower * upper
        if abs(lower * upper - 1.0) < 1e-15:
            break
    return value


def _test(beyond: float, error: float, freedom: float) -> TTest:
    t = beyond / error
    return TTest(t, freedom, student_tail(t, freedom))


def _values(scores: Mapping[int, float] | Sequence[float]) -> list[float]:
    return list(scores.values()) if isinstance(scores, Mapping) else list(scores)


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and unbiased variance; no variance for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
