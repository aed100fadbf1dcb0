"""Describe a model and the decoding of its sounds from their files, without loading the model."""

import json
from pathlib import Path

from impact_pl.errors import UserError


def model_facts(config: Path | None) -> dict[str, str]:
    """Describe an exported model's sizes, codec and text encoder from its config.json and weights header."""
    if config is None:
        return {}
    config = config / "config.json" if config.is_dir() else config
    if not config.is_file():
        raise UserError(f"{config}: no such file; --model needs an exported model folder")
    try:
        spec = json.loads(config.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{config}: not JSON ({error.msg})") from error
    model, codec, text = spec.get("model", {}), spec.get("codec", {}), spec.get("text_encoder") or {}
    facts = {}
    if {"dim", "depth", "num_heads"} <= set(model):
        size = count_parameters(config.with_name("model.safetensors"))
        facts["Model"] = (
            f"{size}width {model['dim']}, {model['depth']} + {model['depth']} blocks, {model['num_heads']} heads; "
            f"{model.get('head', 'diffusion')} head of {model.get('head_depth')} x {model.get('head_width')}"
        )
    if codec:
        rate, hop = codec.get("sample_rate"), codec.get("samples_per_latent")
        grid = (
            f", {rate / hop:g} latents a second of {spec.get('latent_channels')} x {spec.get('latent_width')} numbers"
            if hop
            else ""
        )
        facts["Codec"] = f"{codec.get('name')} ({codec.get('identity')}), {rate} Hz{grid}"
    if text:
        facts["Text encoder"] = f"{text.get('name')} ({text.get('identity')})"
    return facts


def count_parameters(weights: Path) -> str:
    """Format the number of parameters as ``"10.2 M parameters, "``, or an empty string without weights."""
    return f"{read_header(weights)[0] / 1e6:.1f} M parameters, " if weights.is_file() else ""


def read_header(weights: Path) -> tuple[int, list[str]]:
    """Read the number of parameters and their dtypes from a safetensors file's header.

    Raises:
        UserError: It is not a safetensors file.
    """
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total, types = 0, set()
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for length in tensor["shape"]:
                    count *= length
                total += count
                types.add(str(tensor["dtype"]))
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(f"{weights}: not a safetensors file") from error
    return total, sorted(types)


def generation_facts(folder: Path | None) -> dict[str, str]:
    """Describe how the generated sounds were decoded, as recorded next to them."""
    log = folder / "generated.jsonl" if folder else None
    if log is None or not log.is_file():
        return {}
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    entry = json.loads(lines[-1]) if lines else {}
    words = {
        "num_iterations": "{} iterations",
        "num_diffusion_steps": "{} diffusion steps",
        "guidance_scale": "guidance {}",
        "order": "{} order",
        "temperature": "temperature {}",
        "seed": "seed {}",
    }
    said = [text.format(entry[key]) for key, text in words.items() if entry.get(key) is not None]
    return {"Decoding": ", ".join(said)} if said else {}
