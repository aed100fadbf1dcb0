"""Select the clips and captions of an ablation."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from impact_pl.data.manifest import Record, read_manifest, write_manifest
from impact_pl.errors import UserError
from impact_pl.evaluation.labels import labels_of
from impact_pl.precompute.segments import record_seconds
from lab.ablation.plan import Plan

SEED = 0  # of the choice, which is the same for every row, setting and seed


def write_clips(plan: Plan, data: Path, path: Path) -> None:
    """Write a manifest of the clips of ``data`` that last at least ``plan.shortest_seconds``.

    Raises:
        UserError: There are none.
    """
    records = [record for record in read_manifest(data) if record_seconds(record) >= plan.shortest_seconds]
    if not records:
        raise UserError(f"{data}: no recording lasts {plan.shortest_seconds:g} s, which the plan asks for")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, records)


def write_captions(plan: Plan, manifest: Path, path: Path) -> dict[str, Any]:
    """Write the manifest of the chosen clips. Return how many have a ``label``, and an identity of the ``data``.

    Raises:
        UserError: See :func:`choose_clips`.
    """
    records = read_manifest(manifest)
    chosen = choose_clips(plan, records, str(manifest))
    write_manifest(path, chosen)
    labelled = len(labels_of({record.id: record for record in chosen}))
    said = [[record.id, record.split, record.caption, record.start, record.duration] for record in records]
    return {"labelled": labelled, "data": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}


def choose_clips(plan: Plan, records: list[Record], where: str) -> list[Record]:
    """Choose up to ``num_samples`` captioned held-out clips, starting with ``num_labelled`` of those with a label.

    Raises:
        UserError: There are fewer than two.
    """
    captioned = [record for record in records if record.split != "train" and record.caption]
    order = np.random.default_rng(SEED).permutation(len(captioned))
    known = labels_of({record.id: record for record in captioned})
    labelled = [index for index in order if captioned[index].id in known][: plan.num_labelled]
    others = [index for index in order if index not in labelled]
    chosen = sorted([*labelled, *others][: plan.num_samples])
    if len(chosen) < 2:
        raise UserError(f"{where}: {len(chosen)} captioned clips in the splits valid and test; at least two are needed")
    return [captioned[index] for index in chosen]
