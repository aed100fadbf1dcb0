"""Decide whether claims hold. One rule computes every verdict from the metrics of the seeds.

Two rows are compared seed by seed (equal seeds share data order, captions and noise): d_s are the differences, d their
mean over n seeds, SE = std(d_s) / sqrt(n), and the 95 % interval is d +- t SE, with Student's t for n - 1 degrees of
freedom (4.30 for three seeds, 2.78 for five).

- "A is better than B" **holds** if the interval is on A's side of zero, and is **reversed** if it is on B's side.
- "A is as good as B" **holds** if the entire interval says that A is worse by at most the claim's margin (a fraction of
  B's mean), and **does not hold** if the entire interval says that A is worse by more.
- Otherwise it is **not resolved**: this number of seeds, at this size, cannot decide.

Latency is measured on one model, so its n counts repeats.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ConfigDict

from impact_pl.errors import UserError
from impact_pl.files import check_value
from lab.ablation.plan import CONF, SIZES, Plan
from lab.ablation.results import METRICS, Rows

HOLDS, REVERSED, FAILS = "holds", "reversed", "does not hold"
UNRESOLVED, NOT_RUN = "not resolved", "not run"
LEVEL = 0.95


@dataclass
class Claim:
    """Claim of a source about two rows (or settings).

    Attributes:
        text: The claim, in a sentence.
        source: Who makes it: S1 (IMPACT), S2 (AudioMNTP), MAR, N, or another source.
        published: The source's own numbers.
        better, worse: The claim that the first is better than the second; or
        good, as_good_as: that the first is as good as the second, or worse by at most ``margin``.
        metrics: Metrics to decide it on, with one verdict each.
        margin: Fraction of the second's mean.
        size: The only plan that can decide it; empty: any that has the rows.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    text: str
    source: str
    metrics: list[str]
    published: str = ""
    better: str = ""
    worse: str = ""
    good: str = ""
    as_good_as: str = ""
    margin: float = 0.1
    size: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        return (self.better, self.worse) if self.better else (self.good, self.as_good_as)


@dataclass(frozen=True)
class Difference:
    """Difference between the first and the second row, over the seeds that both have.

    Attributes:
        mean: Mean of the differences, in the metric's unit.
        half: Half the width of their 95 % interval.
        spread: Standard deviation of the rows over seeds (root mean square of both).
        num: Number of seeds.
    """

    mean: float
    half: float
    spread: float
    num: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def in_spreads(self) -> float:
        """Mean in units of the spread over seeds."""
        return self.mean / self.spread if self.spread else math.copysign(math.inf, self.mean) if self.mean else 0.0


@dataclass(frozen=True)
class Verdict:
    """Result of testing a claim on one metric."""

    claim: Claim
    metric: str
    verdict: str
    difference: Difference | None = None  # None: not run
    means: tuple[float, float] | None = None


def judge(claims: Sequence[Claim], plan: Plan, rows: Rows) -> list[Verdict]:
    """Return a verdict for each claim and each of its metrics.

    Args:
        claims: From lab/ablation/conf/claims.yaml.
        plan: Plan that resolves the names of rows and settings.
        rows: From results.json.
    """
    return [judge_one(claim, metric, plan, rows) for claim in claims for metric in claim.metrics]


def judge_one(claim: Claim, metric: str, plan: Plan, rows: Rows) -> Verdict:
    names = [plan.resolve(name) for name in claim.pair]
    first, second = (rows.get(name, {}).get(metric, {}) for name in names)
    common = sorted(set(first) & set(second))
    if len(common) < 2 or names[0] == names[1]:  # both may be the plan's own decoding
        return Verdict(claim, metric, NOT_RUN)
    pairs = [first[seed] for seed in common], [second[seed] for seed in common]
    difference = compare(*pairs)
    means = statistics.fmean(pairs[0]), statistics.fmean(pairs[1])
    verdict = decide(difference, METRICS[metric][2], None if claim.better else claim.margin * abs(means[1]))
    return Verdict(claim, metric, verdict, difference, means)


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compute the difference of two rows' values, seed by seed, for at least two seeds."""
    from scipy.stats import t as students_t

    differences = [a - b for a, b in zip(first, second, strict=True)]
    num = len(differences)
    error = statistics.stdev(differences) / math.sqrt(num)
    quantile = float(students_t.ppf(0.5 + LEVEL / 2, num - 1))
    spread = math.sqrt((statistics.variance(first) + statistics.variance(second)) / 2)
    return Difference(statistics.fmean(differences), quantile * error, spread, num)


def decide(difference: Difference, more_is_better: bool, margin: float | None) -> str:
    """Apply the rule: *better than* without a margin, *as good as* with one."""
    low, high = (difference.low, difference.high) if more_is_better else (-difference.high, -difference.low)
    if margin is None:
        return HOLDS if low > 0 else REVERSED if high < 0 else UNRESOLVED
    return HOLDS if low >= -margin else FAILS if high < -margin else UNRESOLVED


def load_claims() -> list[Claim]:
    """Read and check lab/ablation/conf/claims.yaml."""
    return make_claims(yaml.safe_load((CONF / "claims.yaml").read_text(encoding="utf-8")))


def make_claims(values: list[dict[str, Any]]) -> list[Claim]:
    """Build claims from plain values.

    Raises:
        UserError: A claim has another form, names an unknown metric, or not exactly one pair of rows.
    """
    claims = check_value(values, list[Claim], "claims.yaml")
    for claim in claims:
        unknown = [metric for metric in claim.metrics if metric not in METRICS]
        if unknown or not claim.metrics:
            raise UserError(f"claim {claim.text!r}: metrics {claim.metrics}, choose from {', '.join(METRICS)}")
        if bool(claim.better and claim.worse) == bool(claim.good and claim.as_good_as):
            raise UserError(f"claim {claim.text!r}: give either better and worse, or good and as_good_as")
        if claim.size not in ("", *SIZES):
            raise UserError(f"claim {claim.text!r}: size {claim.size!r}, choose from {', '.join(SIZES)}")
    return claims
