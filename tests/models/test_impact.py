import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from impact_pl.config import DecodingConfig, MaskRatioConfig, ModelConfig
from impact_pl.inference.generate import generate
from impact_pl.models.impact import Impact, drop_tokens
from impact_pl.models.spec import ImpactSpec
from tests.helpers.models import FEATURES, QUICK, TINY, Text, build, captions, latents, rng


@pytest.mark.parametrize(("size", "millions"), [("base", 193.0), ("large", 427.4)])
def test_parameter_counts_of_the_paper(size, millions):
    config = ModelConfig(**yaml.safe_load((Path(__file__).parents[2] / "conf/model" / f"{size}.yaml").read_text()))
    spec = ImpactSpec(config, 8, 16, [0.0] * 8, 1.0, text_features={"clap": (1, 512), "t5": (77, 1024)})
    with torch.device("meta"):
        model = Impact(spec)
    assert model.patch_dim == 128
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


def test_nano_has_about_ten_million():
    config = ModelConfig(**yaml.safe_load((Path(__file__).parents[2] / "conf/model/nano.yaml").read_text()))
    with torch.device("meta"):
        model = Impact(ImpactSpec(config, 64, 1, [0.0] * 64, 1.0, text_features={"minilm": (32, 384)}))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(10, rel=0.1)


def test_initialisation():
    torch.manual_seed(0)
    model = Impact(build().spec)
    x = latents()
    cond = model.embed_text(captions(), 2)
    mask = torch.ones(2, 12, dtype=torch.bool)
    hidden = model.encoder(model.patchify(x), mask, cond)
    prediction = model.head(torch.randn(2, 12, 4), torch.zeros(1).long(), model.head.cond_proj(hidden))
    assert (prediction.noise == 0).all()
    assert (prediction.variance == 0).all()
    assert model.encoder.enc2.patch_pos.std().item() == pytest.approx(0.02, rel=0.15)
    assert (model.encoder.input_norm.weight == 1).all()
    assert (model.encoder.enc1.blocks[0].attn.qkv.bias == 0).all()


def test_encoder_ignores_masked_content():
    model = build()
    cond = model.embed_text(captions(), 2)
    patches = model.patchify(latents())
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, [1, 5, 7]] = mask[1, [0, 2, 11]] = True
    other = torch.where(mask[..., None], torch.full_like(patches, torch.nan), patches)
    assert torch.equal(model.encoder(patches, mask, cond), model.encoder(other, mask, cond))
    kept = patches.clone()
    kept[0, 0] += 1  # a kept patch does matter, at every position of its row
    changed = model.encoder(kept, mask, cond) != model.encoder(patches, mask, cond)
    assert changed[0].any(dim=1).all()
    assert not changed[1].any()


def test_unequal_masks_and_too_many_patches_are_refused():
    model = build({})
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(ValueError, match="same count"):
        model.encoder(torch.zeros(2, 12, 4), mask, None)
    with pytest.raises(ValueError, match="max_patches=13"):
        generate(model, None, 13, 1, QUICK, rng())
    with pytest.raises(ValueError, match="another codec"):
        model.loss(torch.zeros(2, 5, 12, 1), None, rng())


def test_any_number_of_patches_up_to_the_maximum():
    model = build({})
    for frames in (1, 5, 12):
        assert torch.isfinite(model.loss(latents(frames=frames), None, rng()).loss)
        assert generate(model, None, frames, 2, QUICK, rng()).shape == (2, 4, frames, 1)


def test_loss_reads_masked_targets_only():
    """Rows of the loss follow the masked patches: K of them, drawn batch_mul times, K = ceil(N q) a clip."""
    model = build(mask_ratio=MaskRatioConfig(kind="fixed", value=0.5), diffusion_batch_mul=3)
    seen = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2].numel()))
    loss = model.loss(latents(), captions(), rng())
    assert seen == [2 * 6 * 3]
    assert loss.per_position.shape == loss.timesteps.shape == (36,)
    assert loss.mask_ratio == 0.5
    torch.testing.assert_close(loss.loss, loss.per_position.mean())


@pytest.mark.parametrize("padding", [-1, 1, 2])
@pytest.mark.parametrize("text_features", [{}, FEATURES])
def test_every_parameter_gets_a_gradient_even_with_all_masked(text_features, padding):
    model = build(text_features, mask_ratio=MaskRatioConfig(kind="fixed", value=1.0), text_padding=padding).train()
    model.loss(latents(), captions() if text_features else None, rng()).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_same_seed_same_loss_and_latents():
    model = build()
    first, again, other = (model.loss(latents(), captions(), rng(seed), 0.5) for seed in (1, 1, 2))
    assert torch.equal(first.per_position, again.per_position)
    assert not torch.equal(first.timesteps, other.timesteps)
    for order in ("random", "confidence"):
        config = dataclasses.replace(QUICK, order=order)
        runs = [generate(model, captions(), 12, 2, config, rng(seed)) for seed in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("padding", [-1, 1, 2])
def test_null_condition_is_a_mask_that_is_all_false(padding):
    model, text = build(text_padding=padding), captions()
    null = model.embed_text(Text(text.features, torch.zeros_like(text.mask)), 2)
    assert torch.equal(null.states, model.embed_text(None, 2).states)
    assert torch.equal(null.states, model.null_cond.expand(2, -1, -1))
    if padding > 0:
        assert torch.equal(null.text_mask, model.embed_text(None, 2).text_mask)
        assert null.text_mask.tolist() == [[True] * padding + [False] * (4 - padding)] * 2
    dropped = model.loss(latents(), text, rng(), caption_dropout=1.0)
    without = model.loss(latents(), Text(text.features, torch.zeros_like(text.mask)), rng(), caption_dropout=1.0)
    assert torch.equal(dropped.per_position, without.per_position)
    assert not torch.equal(dropped.per_position, model.loss(latents(), text, rng(), 1e-9).per_position)


def test_pooled_text_starts_at_nothing_and_does_not_depend_on_where_words_stand():
    torch.manual_seed(0)
    assert not any(parameter.any() for parameter in Impact(build(pooled_text=True).spec).text_pool.parameters())
    model, without = build(pooled_text=True), build(pooled_text=True)
    torch.nn.init.zeros_(without.text_pool["clap"].weight)
    torch.nn.init.zeros_(without.text_pool["words"].weight)
    text = Text(captions().features, torch.ones(2, 4, dtype=torch.bool))
    turned = Text(text.features | {"words": text.features["words"].flip(1)}, text.mask)
    added = [model.embed_text(each, 2).states - without.embed_text(each, 2).states for each in (text, turned)]
    torch.testing.assert_close(added[0], added[1])
    assert added[0].abs().sum() > 0
    torch.testing.assert_close(added[0], added[0][:, :1].expand_as(added[0]))
    null = model.embed_text(Text(text.features, torch.zeros_like(text.mask)), 2)
    assert torch.equal(null.states, model.embed_text(None, 2).states)


def test_token_dropout_keeps_the_first_position_and_never_adds_one():
    mask = torch.tensor([[True] * 30, [True] * 10 + [False] * 20, [False] * 30]).repeat(100, 1)
    text = Text({"words": torch.ones(300, 30, 1)}, mask)
    assert drop_tokens(text, 0.0, rng()) is text
    assert drop_tokens(None, 0.5, rng()) is None
    kept = drop_tokens(text, 1.0, rng()).mask
    assert not (kept & ~mask).any()
    assert torch.equal(kept[:, 0], mask[:, 0])
    shares = kept[::3].float().mean(dim=1)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.1)
    assert shares.min() < 0.2 < 0.8 < shares.max()
    assert drop_tokens(text, 0.2, rng()).mask[::3].float().mean().item() == pytest.approx(0.9, abs=0.02)


def test_padded_text_does_not_matter():
    model, text = build(), captions()
    noisy = Text({"clap": text.features["clap"], "words": text.features["words"].clone()}, text.mask)
    noisy.features["words"][:, 2] = 1e4  # position 3 of 4 in all, masked
    assert torch.equal(model.embed_text(text, 2).states, model.embed_text(noisy, 2).states)
    noisy.features["words"][:, 1] = 1e4
    assert not torch.equal(model.embed_text(text, 2).states, model.embed_text(noisy, 2).states)


def test_wrong_text_is_refused():
    text = captions()
    with pytest.raises(ValueError, match="text encoder"):
        build({"clap": (1, 6)}).embed_text(text, 2)
    with pytest.raises(ValueError, match="text encoder"):
        build({"clap": (1, 5), "tags": (2, 5)}).embed_text(text, 2)
    with pytest.raises(ValueError, match="text encoder"):
        build().embed_text(text, 3)
    with pytest.raises(ValueError, match="without text"):
        generate(build({}), text, 12, 2, QUICK, rng())


def test_a_model_of_some_features_leaves_the_others_out():
    model, text = build({"words": (3, 6)}), captions()
    alone = Text({"words": text.features["words"]}, text.mask[:, 1:])
    assert torch.equal(model.embed_text(text, 2).states, model.embed_text(alone, 2).states)
    assert model.embed_text(text, 2).states.shape == (2, 3, 32)


def test_guidance_changes_the_result_and_scale_one_is_none():
    model = build()
    run = lambda **config: generate(model, captions(), 12, 2, dataclasses.replace(QUICK, **config), rng())  # noqa: E731
    assert not torch.equal(run(guidance_scale=5.0), run(guidance_scale=1.0))
    assert torch.equal(run(guidance_scale=1.0), run(guidance_scale=1.0, guidance_schedule="constant"))
    null = lambda beta: generate(model, None, 12, 2, dataclasses.replace(QUICK, guidance_scale=beta), rng())  # noqa: E731
    assert torch.equal(null(5.0), null(1.0))


def test_more_iterations_than_patches():
    config = dataclasses.replace(QUICK, num_iterations=30)
    assert torch.isfinite(generate(build(), captions(), 12, 2, config, rng())).all()


def test_generate_leaves_the_mode_alone():
    model = build(dropout=0.5).train()
    first, again = (generate(model, captions(), 12, 2, QUICK, rng()) for _ in range(2))
    assert torch.equal(first, again)  # no dropout while generating
    assert model.training
    assert not first.requires_grad


def test_patches_of_a_two_dimensional_latent():
    spec = ImpactSpec(dataclasses.replace(TINY, patch_size=4), 8, 16, [0.0] * 8, 1.0)
    model = Impact(spec)
    x = torch.arange(8 * 12 * 16.0).view(1, 8, 12, 16)
    patches = model.patchify(x)
    assert patches.shape == (1, 12, 128)
    assert torch.equal(patches[0, 5], x[0, :, 4:8, 4:8].flatten())  # row-major over (time, frequency): 5 = (1, 1)
    assert torch.equal(model.unpatchify(patches), x)
    with pytest.raises(ValueError, match="multiple of patch_size"):
        model.patchify(x[:, :, :10])
    with pytest.raises(ValueError, match="does not divide"):
        Impact(dataclasses.replace(spec, latent_width=6))


def test_patches_of_a_latent_without_width_are_frames():
    model = build(patch_size=4)
    x = torch.arange(4 * 12.0).view(1, 4, 12, 1)
    patches = model.patchify(x)
    assert patches.shape == (1, 3, 16)
    assert torch.equal(patches[0, 1], x[0, :, 4:8, 0].flatten())
    assert torch.equal(model.unpatchify(patches), x)
    assert generate(model, captions(), 12, 2, QUICK, rng()).shape == (2, 4, 12, 1)


def test_whitening():
    model = build({})
    mean = torch.randn(2, 4, 12, 1, generator=rng())
    moments = torch.cat([mean, torch.zeros_like(mean)], dim=1)
    white = model.whiten(moments, rng())
    torch.testing.assert_close(white[:, 3], (mean[:, 3] - 2) / 2)
    torch.testing.assert_close(model.unwhiten(white), mean)
    drawn = model.whiten(torch.cat([torch.zeros(1, 4, 5000, 1), torch.full((1, 4, 5000, 1), 4.0)], dim=1), rng())
    assert drawn.std(dim=(0, 2, 3)).tolist() == pytest.approx([2.0] * 4, rel=0.05)  # 4 / latent_std


def test_unknown_head():
    with pytest.raises(ValueError, match="choose diffusion"):
        build(head="tree")


def test_second_stage_takes_every_weight_of_the_first():
    first, second = build({}), build()
    missing, unexpected = second.load_state_dict(first.state_dict(), strict=False)
    assert not unexpected
    new = ("null_cond", "encoder.enc1.text_pos", "encoder.enc2.text_pos")
    assert all(name in new or name.startswith("text_proj.") for name in missing)


def test_a_short_training_lowers_the_loss():
    model = build({}, max_patches=6).train()
    generator = rng()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x = latents(8, 6)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(x, None, generator).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    config = DecodingConfig(num_iterations=3, num_diffusion_steps=20)
    spread = [
        generate(model, None, 6, 32, dataclasses.replace(config, min_alpha_bar=a), rng()).std() for a in (1e-3, 0)
    ]
    assert spread[0] < 10  # of latents whose std is 2, after seconds of training
    assert spread[1] > 100  # from the last timestep the first step's error is never made good


@pytest.mark.parametrize("options", [{}, {"local_kernel": 3, "prediction": "velocity"}, {"text_padding": 1}])
def test_gradients_are_the_same_on_every_run_of_two_threads(options):
    """Of every parameter, bit for bit: sums that threads add to in the order in which they come would differ."""
    model = build(dim=192, max_patches=64, **options)
    clips, text = latents(batch=16, frames=64), captions(batch=16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [
            torch.autograd.grad(model.loss(clips, text, rng()).loss, list(model.parameters()), allow_unused=True)
            for _ in range(6)
        ]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for run in runs[1:] for pair in zip(runs[0], run, strict=True) if pair[0] is not None)


def test_a_masked_patch_sees_its_neighbours_before_attention():
    """With blocks that do nothing, a hidden vector is made of the kept patches within half a kernel."""
    model = build({}, local_kernel=3)
    for block in (*model.encoder.enc1.blocks, *model.encoder.enc2.blocks):
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)
        torch.nn.init.zeros_(block.mlp.fc2.weight)
        torch.nn.init.zeros_(block.mlp.fc2.bias)
    patches = torch.randn(1, 12, 4, generator=rng(), requires_grad=True)
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, 5] = True
    model.encoder(patches, mask, None, torch.tensor([[5]])).sum().backward()
    assert patches.grad[0].abs().sum(dim=1).nonzero().flatten().tolist() == [4, 6]
    with pytest.raises(ValueError, match="choose an odd number"):
        build({}, local_kernel=4)
