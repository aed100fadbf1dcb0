"""Initialise an Impact model from a MAR checkpoint (LTH14/mar), an image model with the same blocks (IMPACT App. D.3).

MAR puts its class embedding into 64 "buffer" positions before the patches. Impact has its L text positions there.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from impact_pl.checkpoint_io import read_checkpoint, state_dict
from impact_pl.errors import UserError, first_line
from impact_pl.models.impact import Impact

# MAR's names -> ours, by the first rule that matches. Names without a rule (class and null embeddings) are dropped.
RENAMES = (
    (r"^z_proj_ln\.", "encoder.input_norm."),
    (r"^z_proj\.", "encoder.patch_proj."),
    (r"^encoder_blocks\.", "encoder.enc1.blocks."),
    (r"^encoder_norm\.", "encoder.enc1.norm."),
    (r"^decoder_embed\.", "encoder.bridge."),
    (r"^decoder_blocks\.", "encoder.enc2.blocks."),
    (r"^decoder_norm\.", "encoder.enc2.norm."),
    (r"^mask_token$", "encoder.mask_embed"),
    (r"^diffusion_pos_embed_learned$", "encoder.diffusion_pos"),
    (r"^diffloss\.net\.time_embed\.mlp\.", "head.time_embed."),
    (r"^diffloss\.net\.cond_embed\.", "head.cond_proj."),
    (r"^diffloss\.net\.input_proj\.", "head.input_proj."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.in_ln\.", r"head.blocks.\1.norm."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.mlp\.0\.", r"head.blocks.\1.fc1."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.mlp\.2\.", r"head.blocks.\1.fc2."),
    (r"^diffloss\.net\.res_blocks\.(\d+)\.adaLN_modulation\.1\.", r"head.blocks.\1.modulation."),
    (r"^diffloss\.net\.final_layer\.adaLN_modulation\.1\.", "head.final_modulation."),
    (r"^diffloss\.net\.final_layer\.linear\.", "head.final_proj."),
)
POSITIONS = {"encoder_pos_embed_learned": "encoder.enc1", "decoder_pos_embed_learned": "encoder.enc2"}


@dataclass
class MarReport:
    """Result of :func:`load_mar`: parameters copied, and parameters of either model not copied, with reasons."""

    taken: list[str]
    not_taken: dict[str, str]
    num_taken: int  # counts numbers, not tensors
    num_total: int

    def __str__(self) -> str:
        lines = [
            f"MAR checkpoint: {len(self.taken)} tensors, {self.num_taken / 1e6:.1f} M of {self.num_total / 1e6:.1f} M "
            "parameters taken over."
        ]
        for reason in dict.fromkeys(self.not_taken.values()):
            names = [name for name, why in self.not_taken.items() if why == reason]
            lines.append(f"  not taken ({reason}): {', '.join(names)}")
        return "\n".join(lines)


def load_mar(model: Impact, source: str | Path | dict[str, Tensor]) -> MarReport:
    """Copy every parameter of a MAR checkpoint that fits into ``model``.

    Blocks and norms fit when width and depth match MAR's. Patch positions are copied as far as both models have them;
    MAR's belong to a 16 x 16 image grid, so they are only a starting point. Text positions, which stage 1 lacks, are
    filled from MAR's buffer as far as it reaches. The diffusion head is copied when it has MAR's width and depth, and
    its input and output layers only when the patches have MAR's size (16 numbers; IMPACT's have 128).

    Args:
        model: The model to initialise, modified in place.
        source: A .safetensors file, a torch file (a state dict, or one under "model_ema" or "model"), or a state dict.

    Raises:
        UserError: The file is unreadable, is not a MAR checkpoint, or contains nothing that fits.
    """
    weights = source if isinstance(source, dict) else _read(Path(source))
    renamed, not_taken = _rename(weights)
    own = model.state_dict()
    head_fits = model.spec.model.head == "diffusion" and _shape_of_head(renamed) == _shape_of_head(own)
    taken = {}
    for name, value in renamed.items():
        if name not in own:
            not_taken[name] = "this model has no such parameter"
        elif name.startswith("head.") and not head_fits:
            not_taken[name] = "the head is another one, or has another width or depth"
        elif name.endswith("_pos") and value.shape[2] == own[name].shape[2]:
            count = min(value.shape[1], own[name].shape[1])
            taken[name] = torch.cat([value[:, :count].to(own[name]), own[name][:, count:]], dim=1)
            if count < own[name].shape[1]:
                not_taken[f"{name}[{count}:]"] = f"MAR has {count} such positions, this model {own[name].shape[1]}"
        elif value.shape != own[name].shape:
            not_taken[name] = f"shape {tuple(value.shape)}, here {tuple(own[name].shape)}"
        else:
            taken[name] = value
    not_taken.update({name: "MAR has no such parameter" for name in own if name not in renamed})
    if not any(".blocks." in name and name.startswith("encoder.") for name in taken):
        raise UserError(_no_fit(model, renamed))
    model.load_state_dict(taken, strict=False)
    return MarReport(
        list(taken), not_taken, sum(v.numel() for v in taken.values()), sum(v.numel() for v in own.values())
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"No MAR checkpoint at {path}: give a .safetensors or .pth file.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a readable weights file ({first_line(error)})") from error
    content = read_checkpoint(path, [argparse.Namespace])  # MAR stores its arguments next to the weights
    named = next((content[key] for key in ("model_ema", "model") if isinstance(content.get(key), dict)), content)
    return state_dict(named, path)


def _rename(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename MAR's weights to our names, and list the names that have no counterpart."""
    if "diffusion_pos_embed_learned" not in weights:
        raise UserError("This is not a MAR checkpoint: it has no diffusion_pos_embed_learned.")
    num_patches = weights["diffusion_pos_embed_learned"].shape[1]
    renamed, not_taken = {}, {}
    for name, value in weights.items():
        if name in POSITIONS:
            buffer = value.shape[1] - num_patches
            renamed[f"{POSITIONS[name]}.text_pos"] = value[:, :buffer]
            renamed[f"{POSITIONS[name]}.patch_pos"] = value[:, buffer:]
            continue
        rule = next(((pattern, ours) for pattern, ours in RENAMES if re.search(pattern, name)), None)
        if rule is None:
            not_taken[name] = "class conditioning of images"
        else:
            renamed[re.sub(*rule, name)] = value
    return renamed, not_taken


def _shape_of_head(weights: dict[str, Tensor]) -> tuple[int, int]:
    """Return (width, depth) of the diffusion head from weights under our names."""
    blocks = [value for name, value in weights.items() if re.fullmatch(r"head\.blocks\.\d+\.fc1\.bias", name)]
    return (len(blocks[0]), len(blocks)) if blocks else (0, 0)


def _no_fit(model: Impact, renamed: dict[str, Tensor]) -> str:
    dims = {value.shape[-1] for name, value in renamed.items() if name.endswith("enc1.norm.weight")}
    return (
        f"No transformer block of this MAR checkpoint (width {', '.join(map(str, dims)) or 'unknown'}) fits a model of "
        f"width {model.spec.model.dim}: mar_base goes with model=base, mar_large with model=large."
    )
