"""`impact info`: describe a model folder, and check its weights against their checksum."""

import argparse
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from impact_pl.cli import options
from impact_pl.cli.facts import read_header
from impact_pl.cli.options import Parser
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import BUILTIN, FILES, ImpactSpec, find_model, read_spec, read_weights_sha256


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="impact info",
        description="Describe a model folder: size, latents, codec, text encoder, longest duration, own decoding.\n"
        "Reads the weights to compare them with the checksum in config.json.",
        epilog="examples:\n  impact info builtin\n  impact info runs/mine/text/model --json",
    )
    parser.add_argument("model", nargs="?", default=BUILTIN, help="model folder (default: builtin)")
    parser.add_argument("--train", action="store_true", help="estimate the memory of training it, without starting")
    parser.add_argument("--batch-size", type=options.positive_int, default=8, help="for --train (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact info``."""
    args = build_parser().parse_args(argv)
    folder = find_model(args.model)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: it is not a model folder, such as runs/NAME/model")
    spec = read_spec(folder / "config.json")
    facts = describe(folder, spec) | {"checksum": check_weights(folder)}
    if args.train:
        facts |= training_memory(spec, args.batch_size)
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' ') + ':':<14} {value}")


def check_weights(folder: Path) -> str:
    """Compare the weights with the checksum in config.json. UserError: they are damaged."""
    sha256 = read_weights_sha256(folder / "config.json")
    if sha256 is None:
        return "none in config.json: the weights cannot be checked"
    from impact_pl import checkpoint_io  # imported late; it needs torch

    checkpoint_io.check_weights(folder / "model.safetensors", sha256)
    return f"SHA-256 {sha256[:16]}... of the weights is that in config.json"


def describe(folder: Path, spec: ImpactSpec) -> dict[str, str]:
    """Describe the model by topic."""
    model, codec, weights = spec.model, spec.codec, folder / "model.safetensors"
    num_parameters, types = read_header(weights)
    frames, width = spec.patch_shape
    facts = {
        "folder": str(folder),
        "parameters": f"{num_parameters / 1e6:.1f} M ({', '.join(types)}), {weights.stat().st_size / 1e6:.1f} MB",
        "model": f"width {model.dim}, {model.depth} + {model.depth} blocks, {model.num_heads} heads; "
        f"{model.head} head of {model.head_depth} x {model.head_width}",
        "latents": f"{spec.latent_channels} channels x frames x {spec.latent_width}, in patches of {frames} x {width}",
        "codec": named(codec) + f", {codec.get('sample_rate')} Hz",
        "text_encoder": named(spec.text_encoder) if spec.text_encoder else "none: an unconditional model (stage 1)",
    }
    if codec.get("samples_per_latent"):
        rate = codec["sample_rate"] / codec["samples_per_latent"]
        longest = spec.num_frames or model.max_patches // (spec.latent_width // width) * frames
        facts["latents"] += f"; {rate:g} frames per second"
        facts["max_duration"] = f"{longest / rate:.2f} s" + (
            ", as the clips of its training" if spec.num_frames else ""
        )
    own = asdict(spec.own_decoding)
    facts["decoding"] = ", ".join(f"{key}={value}" for key, value in own.items() if key in spec.decoding) or "not noted"
    return facts


def training_memory(spec: ImpactSpec, batch_size: int) -> dict[str, str]:
    """Describe the memory of a training step: of all weights, with activation checkpointing, and of adapters."""
    from impact_pl.config import LoraConfig
    from impact_pl.training.memory import estimate_memory

    def said(**settings: Any) -> str:
        memory = estimate_memory(spec, batch_size, **settings)
        words = {"optimizer": "AdamW"}
        parts = ", ".join(f"{words.get(name, name)} {size / 1e9:.2f}" for name, size in vars(memory).items())
        return f"{memory.total / 1e9:.2f} GB at {batch_size} clips ({parts}); bf16-mixed: half of the activations"

    facts = {
        "training": said(),
        "checkpointed": f"trainer.activation_checkpointing=true: {said(activation_checkpointing=True)}",
    }
    if find_spec("peft") is not None:
        facts["lora"] = f"adapters of rank 16: {said(lora=LoraConfig(rank=16))}"
    return facts


def named(part: dict) -> str:
    """Format name and identity of a codec or text encoder."""
    return f"{part.get('name')} ({part.get('identity')})"
