"""Whose captions an ablation generates sounds for."""

from pathlib import Path

import numpy as np

from impact_pl.ablation.plan import Plan
from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.evaluation.labels import labels_of

SEED = 0  # of the choice, which is the same for every row, setting and seed


def write_captions(plan: Plan, manifest: Path, path: Path) -> int:
    """Write the manifest of the chosen clips and return how many of them have a label.

    Raises:
        ValueError: as :func:`choose_clips`.
    """
    records = choose_clips(plan, read_manifest(manifest), str(manifest))
    write_manifest(path, records)
    return len(labels_of({record.id: record for record in records}))


def choose_clips(plan: Plan, records: list[Record], where: str) -> list[Record]:
    """``num_samples`` captioned clips of the split, or all there are: ``num_labelled`` of those with a label first.

    Raises:
        ValueError: fewer than two.
    """
    captioned = [record for record in records if record.split == plan.split and record.caption]
    order = np.random.default_rng(SEED).permutation(len(captioned))
    known = labels_of({record.id: record for record in captioned})
    labelled = [index for index in order if captioned[index].id in known][: plan.num_labelled]
    others = [index for index in order if index not in labelled]
    chosen = sorted([*labelled, *others][: plan.num_samples])
    if len(chosen) < 2:
        raise ValueError(f"{where}: {len(chosen)} captioned clips of split {plan.split!r}; at least two are compared")
    return [captioned[index] for index in chosen]
