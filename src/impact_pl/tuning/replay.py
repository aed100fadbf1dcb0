"""Sounds of the starting model as shards of latents, mixed into the training so that it keeps what it can do."""

import dataclasses
from pathlib import Path

import torch

from impact_pl.config import with_preset
from impact_pl.data.index import INDEX_NAME, ShardIndex
from impact_pl.data.shards import ShardWriter, describe_shard
from impact_pl.errors import UserError
from impact_pl.files import read_lines
from impact_pl.inference.engine import build_engine
from impact_pl.inference.generate import generate
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.spec import BUILTIN, find_model
from impact_pl.partial import sweep_partials
from impact_pl.precompute.precompute import encode_captions
from impact_pl.progress import progress
from impact_pl.randomness import clip_generators

CAPTIONS_NAME = "captions.txt"  # in a model folder: what the model can make
BUILTIN_CAPTIONS = Path(__file__).parents[1] / "assets" / CAPTIONS_NAME
FIRST_SEED = 1000  # the sounds on the page have others
SEEDS = 8
BATCH = 8


def known_captions(source: str) -> list[str]:
    """Read the captions of what a model can make from captions.txt in its folder; the built-in model's is in assets.

    Raises:
        UserError: The folder has none.
    """
    path = BUILTIN_CAPTIONS if source == BUILTIN else find_model(source) / CAPTIONS_NAME
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; write there, one per line, captions of sounds that the model should not forget, or "
            "tune with --replay none"
        )
    captions = [line.strip() for line in read_lines(path) if line.strip()]
    if not captions:
        raise UserError(f"{path}: holds no caption")
    return captions


@torch.inference_mode()
def write_replay(pipeline: ImpactPipeline, captions: list[str], like: Path, out: Path) -> None:
    """Generate every caption with several seeds, and write the latents as shards, one per seed.

    The codec is not needed. Shards that exist are kept, so an interrupted call continues.

    Args:
        pipeline: The starting model.
        captions: What it can make.
        like: Folder of own shards, whose index tells codec, text encoder and shape.
        out: Folder to write.
    """
    if (out / INDEX_NAME).is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    sweep_partials(out)
    index, encoder, model = ShardIndex.load(like), pipeline.text_encoder, pipeline.model
    assert encoder is not None  # a model that is tuned has captions
    decoding = with_preset(model.spec.own_decoding, "fast", {})
    engine, frames = build_engine(model, decoding), index.latents["shape"][1]
    features = encode_captions(encoder, captions)
    paths = [out / f"{number:06d}.tar" for number in range(SEEDS)]
    done = sum(path.is_file() for path in paths)
    with progress("sounds of the starting model", SEEDS * len(captions), done * len(captions), "sounds") as bar:
        for number, path in enumerate(paths):
            if path.is_file():
                continue
            with ShardWriter(path) as writer:
                for first in range(0, len(captions), BATCH):
                    batch = captions[first : first + BATCH]
                    seeds = [FIRST_SEED + number] * len(batch)
                    text = encoder.encode(batch).to(pipeline.device)
                    generators = clip_generators(seeds, batch, "latents")
                    latents = generate(model, text, frames, len(batch), decoding, generators, engine=engine).cpu()
                    for i, (caption, mean) in enumerate(zip(batch, latents, strict=True), start=first):
                        moments = torch.cat([mean, torch.zeros_like(mean)])  # (2C, H, W): no spread
                        meta = {"id": f"{caption} {seeds[0]}", "caption": caption, "source": "generated"}
                        writer.add(f"{number:03d}-{i:03d}", moments, features[caption], {**meta, "split": "train"})
                    bar.advance(len(batch))
    entries = [describe_shard(path) for path in paths]
    dataclasses.replace(index, shards=entries).save(out)
