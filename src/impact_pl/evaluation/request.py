"""What is compared, and which sounds of it: the same N for every row, each sound once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from impact_pl.data.lists import ClipList
from impact_pl.data.manifest import Record
from impact_pl.errors import UserError
from impact_pl.evaluation.figures import Figure
from impact_pl.evaluation.sounds import Sounds, distinct, draw, part_of


@dataclass
class EvaluationRequest:
    """What to compare. Sounds of different sets belong together when their names (file stem, record id) are equal."""

    generated: Sounds
    reference: Sounds
    floor: Sounds = field(default_factory=dict)  # {}: reference sounds that no row uses; with a test list: no floor
    baselines: dict[str, Sounds] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by sound name
    labels: dict[str, str] = field(default_factory=dict)  # by sound name, of generated and reference sounds
    paired: bool = True  # generated sounds and baselines have the names of their references
    duration: float | None = None  # seconds; None: the longest generated sound for YAMNet, whole sounds for others
    padding: str = "silence"  # what follows shorter sounds, real or not: silence, or repeat
    num_samples: int | None = None  # None: as many as every row has
    seed: int = 0
    test_list: ClipList | None = None  # the sets hold its clips, by clip id


def choose_sounds(
    request: EvaluationRequest, figures: Sequence[Figure] = ()
) -> tuple[list[str], list[str], list[Record]]:
    """Draw the same N for every row: names of generated sounds, names of reference sounds, records of the floor.

    A sound that stands in a set several times (a manifest has one record a caption) is one sound: it is drawn once, and
    of the sounds generated for its captions the first stands for it.

    Raises:
        ValueError: unmatched names, or sets that do not allow N sounds a row, or too few sounds for one of ``figures``.
    """
    if request.test_list is not None and not request.paired:
        raise UserError("a test list pairs sounds by its clips: it cannot be combined with --unpaired")
    if request.paired:
        check_pairs(request)
    reference = distinct(request.reference)
    paired_with = {name: request.reference[name] for name in request.generated} if request.paired else request.generated
    generated = list(distinct(paired_with))
    taken = {(record.path, record.start) for record in reference.values()}
    floor = [record for record in distinct(request.floor).values() if (record.path, record.start) not in taken]
    halved = not request.floor and request.test_list is None
    limits = [
        len(generated),
        *(len(sounds if request.paired else distinct(sounds)) for sounds in request.baselines.values()),
    ]
    limits += [len(reference) // 2] if halved else [len(reference)]
    limits += [len(floor)] if request.floor else []
    num = wanted(request, limits, halved)
    starved = next((figure for figure in figures if num < figure.fewest), None)
    if starved is not None:
        raise UserError(
            f"{num} sounds a row: {starved.key} needs at least {starved.fewest}; give more, or leave its network out"
        )
    generator = np.random.default_rng(request.seed)
    names = draw(generated, num, generator)
    reference_names = names if request.paired else draw(list(reference), num, generator)
    if halved:
        used = {part_of(request.reference[name]) for name in reference_names}
        floor = [record for record in reference.values() if part_of(record) not in used]
    return names, reference_names, draw(floor, num, generator) if floor else []


def check_pairs(request: EvaluationRequest) -> None:
    """Every generated sound needs one of its name in the reference and in each baseline.

    Raises:
        ValueError: some have none; a few are named.
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


def wanted(request: EvaluationRequest, limits: list[int], halved: bool) -> int:
    """N, within what the sets allow.

    Raises:
        ValueError: they do not allow it, or a test list and a number are both given.
    """
    num = min(limits) if request.num_samples is None else request.num_samples
    if request.test_list is not None:
        num = len(request.test_list.captions)
        if request.num_samples is not None:
            raise UserError(f"--num-samples {request.num_samples}: a test list is used as a whole; leave one out")
    if not 2 <= num <= min(limits):
        raise UserError(
            f"{num} sounds a row: the sets allow 2 to {min(limits)} (generated, baselines, then "
            f"{'half the reference, as no floor set is given' if halved else 'reference, then the floor'}: {limits})"
        )
    return num
