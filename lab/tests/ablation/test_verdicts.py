"""The rule of the verdicts, on numbers whose answer is known."""

import math

import pytest

from lab.ablation.plan import make_plan
from lab.ablation.verdicts import (
    FAILS,
    HOLDS,
    NOT_RUN,
    REVERSED,
    UNRESOLVED,
    Claim,
    compare,
    judge,
    load_claims,
    make_claims,
)

T_OF_TWO = 4.302653  # Student's t, 97.5 %, 2 degrees of freedom
PLAN = make_plan(
    {
        "seeds": 3,
        "clip_seconds": 1.0,
        "num_samples": 2,
        "pretrain_steps": 1,
        "text_steps": 1,
        "decoding": {"num_iterations": 16},
        "rows": {"full": {}, "other": {}},
    },
    "test",
)


def verdict(full: list[float], other: list[float], metric: str = "fd_yamnet", **claim) -> str:
    values = [{str(seed): value for seed, value in enumerate(each)} for each in (full, other)]
    rows = {"full": {metric: values[0]}, "other": {metric: values[1]}}
    claim = claim or {"better": "full", "worse": "other"}
    (found,) = judge([Claim("a claim", "S1", [metric], **claim)], PLAN, rows)
    return found.verdict


def test_the_interval_is_students():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    found = compare([11, 12, 13], [10, 10, 10])
    assert found.mean == pytest.approx(2)
    assert found.half == pytest.approx(T_OF_TWO / math.sqrt(3), rel=1e-6)
    assert found.spread == pytest.approx(math.sqrt(0.5))  # variances 1 and 0
    assert found.in_spreads == pytest.approx(2 / math.sqrt(0.5))
    assert (found.low, found.high) == pytest.approx((2 - found.half, 2 + found.half))


def test_seeds_are_compared_with_themselves():
    """Seeds far apart, differences near each other: resolved, as two heaps of numbers it would not be."""
    assert verdict([10, 50, 90], [12, 52.1, 91.9]) == HOLDS
    assert verdict([50, 10, 90], [12, 52.1, 91.9]) == UNRESOLVED


@pytest.mark.parametrize(
    ("full", "other", "metric", "expected"),
    [
        ([10, 11, 12], [20, 21.5, 22], "fd_yamnet", HOLDS),  # less is better
        ([20, 21.5, 22], [10, 11, 12], "fd_yamnet", REVERSED),
        ([0.5, 0.55, 0.6], [0.2, 0.26, 0.3], "accuracy", HOLDS),  # more is better
        ([0.2, 0.26, 0.3], [0.5, 0.55, 0.6], "accuracy", REVERSED),
        ([10, 11, 12], [10.5, 10.6, 12.3], "fd_yamnet", UNRESOLVED),
        ([10, 10, 10], [10, 10, 10], "fd_yamnet", UNRESOLVED),
        ([10], [20], "fd_yamnet", NOT_RUN),
    ],
)
def test_better(full, other, metric, expected):
    assert verdict(full, other, metric) == expected


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        ([100, 101, 102], HOLDS),  # 0 +- 2.5 around 101, margin 10
        ([90, 101, 112], UNRESOLVED),
        ([120, 121.5, 122], FAILS),  # worse by 20
        ([80, 81.5, 82], HOLDS),  # better by 20
    ],
)
def test_as_good_as(full, expected):
    assert verdict(full, [101, 101, 101], good="full", as_good_as="other", margin=0.1) == expected


def test_a_setting_that_is_the_plans_own_is_the_row():
    values = {"0": 1.0, "1": 2.0}
    rows = {"full": {"kl": values}, "full/num_iterations=4": {"kl": {"0": 3.0, "1": 4.1}}}
    claims = [Claim("x", "S1", ["kl"], better="full/num_iterations=16", worse="full/num_iterations=4")]
    (found,) = judge(claims, PLAN, rows)
    assert found.means == pytest.approx((1.5, 3.55))
    assert found.verdict == HOLDS
    rows["full/num_iterations=4"]["kl"] = {"0": 3.0, "7": 4.0}  # one seed in common tells nothing
    assert judge(claims, PLAN, rows)[0].verdict == NOT_RUN


def test_a_setting_is_not_compared_with_itself():
    claims = [Claim("x", "S1", ["kl"], better="full", worse="full/num_iterations=16")]  # which is the plan's own
    assert judge(claims, PLAN, {"full": {"kl": {"0": 1.0, "1": 2.0}}})[0].verdict == NOT_RUN


def test_claims_are_read_and_checked():
    claims = load_claims()
    assert {"S1", "N"} <= {claim.source for claim in claims}
    good = {"text": "x", "source": "S1", "metrics": ["kl"], "better": "full", "worse": "other"}
    assert make_claims([good])[0].pair == ("full", "other")
    for change, message in [
        ({"metrics": ["fad"]}, r"metrics \['fad'\], choose from fd_yamnet"),
        ({"metrics": []}, "metrics"),
        ({"good": "full", "as_good_as": "other"}, "give either"),
        ({"worse": ""}, "give either"),
        ({"size": "tiny"}, "size .tiny., choose from smoke"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_claims([good | change])
