import argparse

import pytest
import torch
from safetensors.torch import save_file

from impact_pl.config import ModelConfig
from impact_pl.models.impact import Impact
from impact_pl.models.mar import load_mar
from impact_pl.models.spec import ImpactSpec


def mar_weights(dim=16, depth=2, patches=16, buffer=4, patch_dim=3, head_width=8, head_depth=2, device=None):
    """Random weights with the names and shapes of a MAR checkpoint."""
    shapes = {
        "class_emb.weight": (10, dim),
        "fake_latent": (1, dim),
        "mask_token": (1, 1, dim),
        "encoder_pos_embed_learned": (1, patches + buffer, dim),
        "decoder_pos_embed_learned": (1, patches + buffer, dim),
        "diffusion_pos_embed_learned": (1, patches, dim),
        "diffloss.net.time_embed.mlp.0.weight": (head_width, 256),
    }
    linears = {"z_proj": (dim, patch_dim), "decoder_embed": (dim, dim)}
    norms = {"z_proj_ln": dim, "encoder_norm": dim, "decoder_norm": dim}
    for half in ("encoder", "decoder"):
        for i in range(depth):
            block = f"{half}_blocks.{i}."
            linears |= {block + "attn.qkv": (3 * dim, dim), block + "attn.proj": (dim, dim)}
            linears |= {block + "mlp.fc1": (4 * dim, dim), block + "mlp.fc2": (dim, 4 * dim)}
            norms |= {block + "norm1": dim, block + "norm2": dim}
    head = "diffloss.net."
    linears |= {head + "time_embed.mlp.0": (head_width, 256), head + "time_embed.mlp.2": (head_width, head_width)}
    linears |= {head + "cond_embed": (head_width, dim), head + "input_proj": (head_width, patch_dim)}
    linears |= {head + "final_layer.adaLN_modulation.1": (2 * head_width, head_width)}
    linears |= {head + "final_layer.linear": (2 * patch_dim, head_width)}
    for i in range(head_depth):
        block = f"{head}res_blocks.{i}."
        linears |= {block + "mlp.0": (head_width, head_width), block + "mlp.2": (head_width, head_width)}
        linears |= {block + "adaLN_modulation.1": (3 * head_width, head_width)}
        norms |= {block + "in_ln": head_width}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    generator = torch.Generator().manual_seed(0)
    if device == "meta":
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def build(text_features=None, channels=3, **config) -> Impact:
    shape = {"dim": 16, "depth": 2, "num_heads": 2, "max_patches": 16, "head_width": 8, "head_depth": 2}
    config = ModelConfig(**shape | config)
    return Impact(ImpactSpec(config, channels, 1, [0.0] * channels, 1.0, text_features=text_features or {}))


def test_takes_everything_when_everything_fits():
    weights = mar_weights()
    model = build()
    report = load_mar(model, weights)
    assert report.num_taken == report.num_total
    assert torch.equal(model.encoder.enc2.blocks[1].mlp.fc2.weight, weights["decoder_blocks.1.mlp.fc2.weight"])
    assert torch.equal(model.encoder.enc1.patch_pos, weights["encoder_pos_embed_learned"][:, 4:])
    assert torch.equal(
        model.head.blocks[1].modulation.bias, weights["diffloss.net.res_blocks.1.adaLN_modulation.1.bias"]
    )
    assert "fake_latent" in str(report)


@pytest.mark.parametrize("text_length", [2, 4, 7])
def test_text_positions_take_the_buffer_as_far_as_it_goes(text_length):
    model = build({"words": (text_length, 5)})
    before = model.encoder.enc1.text_pos.clone()
    buffer = mar_weights()["encoder_pos_embed_learned"][:, :4]
    report = load_mar(model, mar_weights())
    count = min(text_length, 4)
    assert torch.equal(model.encoder.enc1.text_pos[:, :count], buffer[:, :count])
    assert torch.equal(model.encoder.enc1.text_pos[:, count:], before[:, count:])
    assert ("encoder.enc1.text_pos[4:]" in report.not_taken) == (text_length == 7)


def test_other_patches_and_head_keep_the_blocks():
    model = build(channels=5, head_depth=1)
    report = load_mar(model, mar_weights())
    assert "encoder.patch_proj.weight" in report.not_taken
    assert not any(name.startswith("head.") for name in report.taken)
    assert sum(".blocks." in name for name in report.taken) == 4 * 12
    same_head = load_mar(build(channels=5), mar_weights())
    assert "head.input_proj.weight" in same_head.not_taken
    assert "head.blocks.0.fc1.weight" in same_head.taken


@pytest.mark.parametrize(("dim", "depth", "heads"), [(768, 12, 12), (1024, 16, 16)])
def test_shapes_of_the_released_checkpoints_fit_base_and_large(dim, depth, heads):
    """MAR's 16-number patches and deeper head stay out; blocks, norms, bridge and positions go in."""
    weights = mar_weights(dim, depth, 256, 64, 16, 1024, 6, device="meta")
    config = ModelConfig(dim=dim, depth=depth, num_heads=heads, patch_size=4)
    with torch.device("meta"):
        model = Impact(ImpactSpec(config, 8, 16, [0.0] * 8, 1.0))
        report = load_mar(model, weights)
    assert {name for name in report.not_taken if name.startswith("encoder.")} == {
        "encoder.patch_proj.weight",
        "encoder.enc1.text_pos",
        "encoder.enc2.text_pos",
    }
    assert not any(name.startswith("head.") for name in report.taken)
    assert report.num_taken > 0.85 * report.num_total


@pytest.mark.parametrize("container", ["bare", "model", "model_ema", "safetensors"])
def test_files(tmp_path, container):
    weights = mar_weights()
    path = tmp_path / ("mar.safetensors" if container == "safetensors" else "mar.pth")
    if container == "safetensors":
        save_file(weights, path)
    elif container == "bare":
        torch.save(weights, path)
    else:
        other = {name: value + 1 for name, value in weights.items()}
        torch.save({"model": other, "args": argparse.Namespace(lr=1)} | {container: weights}, path)
    model = build()
    load_mar(model, path)
    assert torch.equal(model.encoder.bridge.weight, weights["decoder_embed.weight"])


def test_files_that_are_no_mar_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="No MAR checkpoint at"):
        load_mar(build(), tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a checkpoint of torch that can be read"):
        load_mar(build(), tmp_path / "bad.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable weights file"):
        load_mar(build(), tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="not a MAR checkpoint"):
        load_mar(build(), {"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="width 16"):
        load_mar(build(dim=32), mar_weights())
