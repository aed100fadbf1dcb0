"""Choose the sounds to compare: the same N in every row, each sound once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from impact_pl.data.lists import ClipList
from impact_pl.data.manifest import Record
from impact_pl.errors import UserError
from impact_pl.evaluation.estimates import Metric
from impact_pl.evaluation.sounds import Sounds, distinct, draw, part_of


@dataclass
class EvaluationRequest:
    """Sounds to compare. Sounds of different sets are matched by name (file stem, record id)."""

    generated: Sounds
    reference: Sounds
    floor: Sounds = field(default_factory=dict)  # {}: reference sounds that no row uses, if there are N of them
    baselines: dict[str, Sounds] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by sound name
    labels: dict[str, str] = field(default_factory=dict)  # by sound name, of generated and reference sounds
    paired: bool = True  # generated sounds and baselines have the names of their references
    duration: float | None = None  # seconds; None: the longest generated sound (YAMNet), or complete sounds
    padding: str = "silence"  # padding of shorter sounds, real or not: silence, or repeat
    num_samples: int | None = None  # None: as many as every row has
    seed: int = 0
    test_list: ClipList | None = None  # if given, the sets hold its clips, by clip id


def choose_sounds(
    request: EvaluationRequest, metrics: Sequence[Metric] = ()
) -> tuple[list[str], list[str], list[Record]]:
    """Draw the same N for every row: names of generated and reference sounds, and records of the real-vs-real baseline.

    A sound that occurs several times in a set (a manifest has one record per caption) is drawn once, and the first of
    the sounds generated for its captions represents it. Without a baseline set, unused sounds of the reference serve as
    one; if there are fewer than N, there is no baseline. N is never reduced for it.

    Raises:
        UserError: Names are unmatched, the sets do not allow N sounds per row, or one of ``metrics`` needs more sounds.
    """
    if request.test_list is not None and not request.paired:
        raise UserError("a test list pairs sounds by its clips: it cannot be combined with --unpaired")
    if request.paired:
        check_pairs(request)
    num = count_sounds(request)
    starved = next((metric for metric in metrics if num < metric.min_sounds), None)
    if starved is not None:
        raise UserError(
            f"{num} sounds per row: {starved.key} needs at least {starved.min_sounds}; give more, or omit its network"
        )
    generator = np.random.default_rng(request.seed)
    reference = distinct(request.reference)
    names = draw(list(distinct_generated(request)), num, generator)
    reference_names = names if request.paired else draw(list(reference), num, generator)
    pool = floor_pool(request)
    if not request.floor and request.test_list is None:
        used = {part_of(request.reference[name]) for name in reference_names}
        pool = [record for record in reference.values() if part_of(record) not in used]
    return names, reference_names, draw(pool, num, generator) if len(pool) >= num else []


def distinct_generated(request: EvaluationRequest) -> Sounds:
    """Select generated sounds, one per reference sound if they are paired."""
    sounds = request.generated
    return distinct({name: request.reference[name] for name in sounds} if request.paired else sounds)


def floor_pool(request: EvaluationRequest) -> list[Record]:
    """Select sounds of the baseline set that are not in the reference."""
    taken = {(record.path, record.start) for record in request.reference.values()}
    return [record for record in distinct(request.floor).values() if (record.path, record.start) not in taken]


def row_limits(request: EvaluationRequest) -> dict[str, int]:
    """Count the sounds that each set can contribute to its row."""
    limits = {"generated": len(distinct_generated(request)), "reference": len(distinct(request.reference))}
    for name, sounds in request.baselines.items():
        limits[f"baseline {name}"] = len(sounds if request.paired else distinct(sounds))
    return limits | ({"floor": len(floor_pool(request))} if request.floor else {})


def count_sounds(request: EvaluationRequest) -> int:
    """Determine N.

    Raises:
        UserError: The sets do not allow it, or both a test list and a number are given.
    """
    limits = row_limits(request)
    num = min(limits.values()) if request.num_samples is None else request.num_samples
    if request.test_list is not None:
        num = len(request.test_list.captions)
        if request.num_samples is not None:
            raise UserError(f"--num-samples {request.num_samples}: a test list is used as a whole; leave one out")
    if not 2 <= num <= min(limits.values()):
        counts = ", ".join(f"{name} {count}" for name, count in limits.items())
        raise UserError(f"{num} sounds per row: the sets allow 2 to {min(limits.values())} ({counts})")
    return num


def check_pairs(request: EvaluationRequest) -> None:
    """Check that every generated sound has one with its name in the reference and in each baseline.

    Raises:
        UserError: Some have none; the message names a few.
    """
    for label, sounds in {"the reference": request.reference, **request.baselines}.items():
        missing = sorted(set(request.generated) - set(sounds))
        if missing:
            where = label if sounds is request.reference else f"baseline {label!r}"
            raise UserError(
                f"{len(missing)} of {len(request.generated)} generated sounds have no sound of their name "
                f"in {where} ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); "
                "give matching names, or compare without pairs (--unpaired)"
            )
