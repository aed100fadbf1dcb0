"""Other systems in one run on one machine: seconds from a caption's features to 10 s of sound.

A system's repeated part is timed in the middle of its steps and multiplied by their number, or run from the first to
the last with ``whole``; what makes sound of the result is timed with it.
"""

import torch

from impact_pl.benchmark.peer_models import PEERS, Peer
from impact_pl.benchmark.subject import Subject
from impact_pl.benchmark.timing import median_seconds, seconds_of
from impact_pl.precision import PRECISIONS


def measure(name: str, precision: str, batch: int, device: torch.device, repeats: int, whole: bool) -> dict:
    """A row of a record."""
    torch.manual_seed(0)
    # Not in inference mode: with weights made in it a pass of MAGNeT in bf16 took 15 times as long on a CPU.
    peer = PEERS[name](batch, PRECISIONS[precision], device)
    with torch.inference_mode():
        steps = run_steps(peer, device) if whole else peer.steps * middle_step(peer, repeats, device)
        sound = median_seconds(peer.finish, repeats, device)
    return {
        "system": name,
        "precision": precision,
        "batch": batch,
        "parameters": peer.parameters,
        "steps": peer.steps,
        "whole": whole,
        "steps_seconds": steps,
        "sound_seconds": sound,
        "seconds": steps + sound,
    }


def middle_step(peer: Peer, repeats: int, device: torch.device) -> float:
    """Seconds of the step in the middle, which is the mean step also where steps grow with their number."""
    middle = peer.steps // 2
    peer.start(middle)
    return median_seconds(lambda: peer.step(middle), repeats, device)


def run_steps(peer: Peer, device: torch.device) -> float:
    """Seconds of all steps, after one that is not counted."""

    def run() -> None:
        for index in range(peer.steps):
            peer.step(index)

    peer.start(0)
    peer.step(0)
    peer.start(0)
    return seconds_of(run, device)


def own_row(subject: Subject, row: dict) -> dict:
    """A row of ``latency`` as one of this record: text left out, as for all."""
    sound = row["parts"]["codec"]["seconds"]
    size = f"{row['iterations']} x {row['diffusion_steps']}"
    return {
        "system": f"IMPACT {subject.name}, {row['way'].split(',')[0]}, {size}",
        "ours": True,
        "precision": row["precision"],
        "batch": row["batch"],
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
        "steps": row["iterations"],
        "whole": row["whole"],
        "steps_seconds": row["generation_seconds"],
        "sound_seconds": sound,
        "seconds": row["generation_seconds"] + sound,
        "iterations": row["iterations"],
        "diffusion_steps": row["diffusion_steps"],
    }
