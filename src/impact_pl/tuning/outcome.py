"""Make the sounds of the page, judge them, and write it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from impact_pl.audio import save_audio
from impact_pl.data.shards import LatentDataset
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.progress import progress
from impact_pl.tuning.clips import Clips
from impact_pl.tuning.judge import Ear, Heard, Judgement, judge
from impact_pl.tuning.page import write_page

OWN_SOUNDS = 24
MOST_OWN_CAPTIONS = 12
OLD_CAPTIONS, OLD_SEEDS = 10, 2
BATCH = 8


@dataclass(frozen=True)
class Take:
    """A sound to make, before and after tuning."""

    name: str
    caption: str
    seed: int
    is_own: bool


@dataclass(frozen=True)
class Outcome:
    """Figures of the page, and a line that sums them up."""

    judgement: Judgement
    summary: str


def distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def plan_takes(own: list[str], old: list[str]) -> list[Take]:
    """Choose captions and seeds: own captions in turn, then the first old ones."""
    own = own[:MOST_OWN_CAPTIONS]
    pairs = [(own[i % len(own)], i // len(own), True) for i in range(OWN_SOUNDS)]
    pairs += [(caption, seed, False) for seed in range(OLD_SEEDS) for caption in old[:OLD_CAPTIONS]]
    return [Take(f"{number:03d}", *pair) for number, pair in enumerate(pairs)]


def make_sounds(model: str, takes: list[Take], out: Path, device: str) -> list[Path]:
    """Generate the sounds that are not there yet, batch by batch."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{take.name}.flac" for take in takes]
    starts = [i for i in range(0, len(takes), BATCH) if not all(file.is_file() for file in files[i : i + BATCH])]
    if not starts:
        return files
    pipeline = ImpactPipeline.from_pretrained(model, device)
    left = sum(len(takes[start : start + BATCH]) for start in starts)
    with progress(f"sounds {out.name} tuning", len(takes), len(takes) - left, "sounds") as bar:
        for start in starts:
            batch = takes[start : start + BATCH]
            sounds = pipeline([t.caption for t in batch], seeds=[t.seed for t in batch], progress=False)
            for file, waveform in zip(files[start : start + BATCH], sounds.waveforms, strict=True):
                save_audio(file, waveform, sounds.sample_rate)
            bar.advance(len(batch))
    return files


def show_outcome(
    source: str,
    out: Path,
    clips: Clips,
    known: list[str],
    replay: Path | None,
    device: str,
    facts: dict[str, str],
    commands: str,
) -> Outcome:
    """Make the sounds of both models, judge them and write ``out/tune.html``.

    Args:
        source: Starting model.
        out: Folder of the tuning.
        clips: The clips.
        known: Captions of what the starting model could make.
        replay: Shards of its sounds, or None.
        device: Device to generate on.
        facts: Facts of the page.
        commands: Commands of the page.
    """
    held_out = [record.caption for record in clips.split("valid") if record.caption]
    trained = [record.caption for record in clips.split("train") if record.caption]
    takes = plan_takes(distinct([*held_out, *trained]), [caption for caption in known if caption not in trained])
    files = {
        when: make_sounds(model, takes, out / "sounds" / when, device)
        for when, model in (("before", source), ("after", str(out / "model")))
    }
    judgement = _judge(Ear(), takes, files, out, replay, device)
    chosen = [i for i, take in enumerate(takes) if take.seed == 0]  # none chosen by listening
    pairs = [(takes[i].caption, files["before"][i], files["after"][i]) for i in chosen]
    write_page(out / "tune.html", out.name, pairs, clips, judgement, out / "train" / "metrics.csv", facts, commands)
    own = judgement.recognised.get("own after")
    recognised = f"{own} of its own sounds are recognised; " if own else ""
    return Outcome(judgement, f"{recognised}{judgement.verdict.words}")


def _judge(
    ear: Ear, takes: list[Take], files: dict[str, list[Path]], out: Path, replay: Path | None, device: str
) -> Judgement:
    sets = {split: LatentDataset(out / "latents" / split) for split in ("train", "valid")}
    old = None if replay is None else LatentDataset(replay)
    codec = ImpactPipeline.from_pretrained(str(out / "model"), device).codec
    total = 2 * len(sets["train"]) + len(sets["valid"]) + len(old or ()) + 2 * len(takes)
    with progress("judging", total, unit="sounds") as bar:
        training, held_out = (ear.latents(sets[split], codec, bar) for split in ("train", "valid"))
        replayed = ear.latents(sets["train"], codec, bar)
        heard: dict[str, Heard] = {}
        for when in files:
            for kind, is_own in (("own", True), ("old", False)):
                chosen = [i for i, take in enumerate(takes) if take.is_own == is_own]
                if chosen:
                    captions = [takes[i].caption for i in chosen]
                    heard[f"{kind} {when}"] = ear.files([files[when][i] for i in chosen], captions, bar)
        references = None if old is None else ear.latents(old, codec, bar)
    return judge(training, held_out, replayed, references, heard, ear.missing)
