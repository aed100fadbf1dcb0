"""Decide whether claims hold: verdicts are computed from the metrics of the seeds by one rule, and nowhere typed.

The rule. Two rows are compared seed by seed (seed s of one has the data order, captions and noise of seed s of the
other): d_s are the differences, d their mean over n seeds, SE = std(d_s) / sqrt(n), and the interval
d +- t SE of 95 %, t being Student's for n - 1 degrees of freedom (4.30 for three seeds, 2.78 for five).

- "A is better than B" **holds** where the interval lies on A's side of zero, and is **reversed** where it lies on B's.
- "A is as good as B" **holds** where all of the interval says that A is worse by no more than the claim's margin (a
  share of B's mean), and **does not hold** where all of it says that A is worse by more.
- Else it is **not resolved**: so many seeds, at this size, cannot tell.

Latency is measured on one model, so its n are repeats.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from impact_pl.errors import UserError
from lab.ablation.plan import CONF, SIZES, Plan
from lab.ablation.results import METRICS, Rows

HOLDS, REVERSED, FAILS = "holds", "reversed", "does not hold"
UNRESOLVED, NOT_RUN = "not resolved", "not run"
LEVEL = 0.95


@dataclass
class Claim:
    """Something that a source says of two rows (or settings).

    Attributes:
        text: the claim, in a sentence.
        source: who makes it: S1 (IMPACT), S2 (AudioMNTP), MAR, N, or who else.
        published: the source's own numbers.
        better, worse: the claim is that the first is better than the second; or
        good, as_good_as: that the first is as good as the second, or worse by no more than ``margin``.
        metrics: on which it is judged, one verdict each.
        margin: a share of the second's mean.
        size: the only plan that can judge it; empty: any that has the rows.
    """

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
    """First less second, over the seeds that both have.

    Attributes:
        mean: of the differences, in the metric's unit.
        half: half the width of their 95 % interval.
        spread: the two rows' standard deviation over seeds (root mean square of both).
        num: seeds.
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
        """The mean in units of the seeds' spread."""
        return self.mean / self.spread if self.spread else math.copysign(math.inf, self.mean) if self.mean else 0.0


@dataclass(frozen=True)
class Verdict:
    """A claim, judged on one metric."""

    claim: Claim
    metric: str
    verdict: str
    difference: Difference | None = None  # None: not run
    means: tuple[float, float] | None = None


def judge(claims: Sequence[Claim], plan: Plan, rows: Rows) -> list[Verdict]:
    """A verdict for each claim and each of its metrics.

    Args:
        claims: of lab/ablation/conf/claims.yaml.
        plan: by which the names of rows and settings are understood.
        rows: of results.json.
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
    more_is_better = METRICS[metric][2]
    if claim.better:
        verdict = is_better(difference, more_is_better)
    else:
        verdict = is_as_good(difference, more_is_better, claim.margin * abs(means[1]))
    return Verdict(claim, metric, verdict, difference, means)


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two rows' values, seed by seed; at least two seeds."""
    from scipy.stats import t as students_t

    differences = [a - b for a, b in zip(first, second, strict=True)]
    num = len(differences)
    error = statistics.stdev(differences) / math.sqrt(num)
    quantile = float(students_t.ppf(0.5 + LEVEL / 2, num - 1))
    spread = math.sqrt((statistics.variance(first) + statistics.variance(second)) / 2)
    return Difference(statistics.fmean(differences), quantile * error, spread, num)


def is_better(difference: Difference, more_is_better: bool) -> str:
    worst, best = advantage(difference, more_is_better)
    return HOLDS if worst > 0 else REVERSED if best < 0 else UNRESOLVED


def is_as_good(difference: Difference, more_is_better: bool, margin: float) -> str:
    worst, best = advantage(difference, more_is_better)
    return HOLDS if worst >= -margin else FAILS if best < -margin else UNRESOLVED


def advantage(difference: Difference, more_is_better: bool) -> tuple[float, float]:
    """By how much the first is better, at worst and at best."""
    return (difference.low, difference.high) if more_is_better else (-difference.high, -difference.low)


def load_claims() -> list[Claim]:
    """Read and check lab/ablation/conf/claims.yaml."""
    return make_claims(yaml.safe_load((CONF / "claims.yaml").read_text(encoding="utf-8")))


def make_claims(values: list[dict[str, Any]]) -> list[Claim]:
    """Claims of plain values.

    Raises:
        UserError: one names an unknown metric, or not one pair of rows.
    """
    claims = [Claim(**each) for each in values]
    for claim in claims:
        unknown = [metric for metric in claim.metrics if metric not in METRICS]
        if unknown or not claim.metrics:
            raise UserError(f"claim {claim.text!r}: metrics {claim.metrics}, choose from {', '.join(METRICS)}")
        if bool(claim.better and claim.worse) == bool(claim.good and claim.as_good_as):
            raise UserError(f"claim {claim.text!r}: give either better and worse, or good and as_good_as")
        if claim.size not in ("", *SIZES):
            raise UserError(f"claim {claim.text!r}: size {claim.size!r}, choose from {', '.join(SIZES)}")
    return claims
