"""Every head behind one interface: saved and loaded, decoded under both orders, guided; and each one's own facts."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file

from impact_pl.config import DecodingConfig, MaskRatioConfig, ModelConfig
from impact_pl.inference.engine import Engine
from impact_pl.inference.generate import generate
from impact_pl.models.heads import HEADS, AttentionHead, DiffusionHead, DiscreteHead, MseHead
from impact_pl.models.heads.base import Sampling
from impact_pl.models.heads.discrete import ResidualQuantizer
from impact_pl.models.impact import Impact
from impact_pl.sampling.diffusion import make_schedule, variational_bound
from tests.helpers.models import CODES, QUICK, build, captions, latents, model_with, rng

CONFIG = ModelConfig(dim=32, head_width=32, head_depth=1, **CODES)
LEARNED_FROM_DATA = [name for name, head in HEADS.items() if head.teacher is None]
ORDERS = [
    (head, order) for head in HEADS for order in ("random", "confidence") if (head, order) != ("mse", "confidence")
]


def train_head(head: torch.nn.Module, hidden: torch.Tensor, target: torch.Tensor, steps: int, draws: int) -> None:
    """``steps`` of Adam on the same hidden vectors and patches, with ``draws`` timesteps a patch."""
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    generator = rng()
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(hidden, target, generator, draws)[0].mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", HEADS)
def test_save_and_load(name, tmp_path):
    model = model_with(name)
    model.save_pretrained(tmp_path)
    loaded = Impact.from_pretrained(tmp_path)
    assert type(loaded.head) is HEADS[name]
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    first, second = (generate(m, captions(), 12, 2, QUICK, rng()) for m in (model, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_generates_under_both_orders(name, order):
    model = model_with(name)
    config = dataclasses.replace(QUICK, order=order)
    runs = [generate(model, captions(), 12, 2, config, rng(seed)) for seed in (1, 1, 2)]
    assert runs[0].shape == (2, 4, 12, 1)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_head_without_confidence_says_so():
    with pytest.raises(ValueError, match=r"'mse' is deterministic .* choose order = random"):
        generate(model_with("mse"), captions(), 12, 2, dataclasses.replace(QUICK, order="confidence"), rng())


@pytest.mark.parametrize("name", ["mse", "discrete"])
def test_a_head_without_spread_reveals_nothing_adaptively(name):
    with pytest.raises(ValueError, match=f"reveal = adaptive, but head '{name}'"):
        generate(model_with(name), captions(), 12, 2, dataclasses.replace(QUICK, reveal="adaptive"), rng())


@pytest.mark.parametrize("name", ["mse", "discrete", "consistency"])
def test_a_head_that_takes_no_solver_says_so(name):
    with pytest.raises(ValueError, match=f"solver = ddim, but head '{name}' .* choose ancestral"):
        generate(model_with(name), captions(), 12, 2, dataclasses.replace(QUICK, solver="ddim"), rng())


@pytest.mark.parametrize("name", HEADS)
def test_guidance_of_scale_one_is_none(name):
    head = model_with(name).head
    hidden, null_hidden = torch.randn(2, 2, 6, 32, generator=rng())
    draw = lambda null, scale: head.sample(hidden, null, Sampling(scale, 4), rng())  # noqa: E731
    torch.testing.assert_close(draw(null_hidden, 1.0), draw(None, 5.0))
    assert not torch.equal(draw(null_hidden, 5.0), draw(None, 1.0))
    # Scale 0 is the null condition's answer alone; for diffusion only the noise's: the variance stays conditional.
    if name in ("mse", "discrete"):
        torch.testing.assert_close(draw(null_hidden, 0.0), head.sample(null_hidden, None, Sampling(1.0, 4), rng()))


@pytest.mark.parametrize("name", HEADS)
def test_passes_are_those_that_sampling_takes(name):
    head, taken = model_with(name).head, []
    head.blocks[0].register_forward_hook(lambda *args: taken.append(1))
    head.sample(*torch.randn(2, 2, 6, 32, generator=rng()), Sampling(3.0, 7), rng())
    assert len(taken) == head.num_passes(7) == {"mse": 1, "discrete": 2}.get(name, 7)


@pytest.mark.parametrize("name", LEARNED_FROM_DATA)
def test_every_parameter_gets_a_gradient(name):
    model = model_with(name, mask_ratio=MaskRatioConfig(kind="fixed", value=1.0)).train()
    loss = model.loss(latents(), captions(), rng())
    loss.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    draws = 4 if name in ("diffusion", "attention") else 1  # batch_mul, each with a loss of its own
    assert loss.per_position.shape == (2 * 12 * draws,)
    assert (loss.timesteps is None) == (name in ("mse", "discrete"))


@pytest.mark.parametrize("name", LEARNED_FROM_DATA)
def test_overfits_one_patch_a_position(name):
    """Eight hidden vectors, eight patches: what is drawn in the end is nearest to the patch that belongs there."""
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, head=name, head_width=64, head_depth=2)
    head = HEADS[name](config, 4)
    target = torch.randn(1, 8, 4, generator=rng())
    hidden = torch.randn(1, 8, 32, generator=rng(1))
    head.fit(target[0], rng())
    train_head(head, hidden, target, steps=200, draws=8)
    with torch.no_grad():
        drawn = head.sample(hidden, None, Sampling(1.0, 50, min_alpha_bar=1e-3), rng())
    distance = torch.cdist(drawn[0], target[0])
    assert distance.argmin(dim=1).tolist() == list(range(8))
    assert distance.diagonal().mean() < 0.5 * torch.cdist(target[0], target[0]).mean()


def test_loss_of_a_predicted_velocity_is_its_error():
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, prediction="velocity")
    head = DiffusionHead(config, 4)
    torch.nn.init.normal_(head.final_proj.weight)
    hidden, target, noise = torch.randn(1, 6, 32), torch.randn(1, 6, 4), torch.randn(1, 6, 4)
    timesteps = torch.tensor([[0, 10, 500, 900, 978, 999]])
    losses, _ = head.loss_at(hidden, target, timesteps, noise)
    schedule = make_schedule(1000)
    signal, rest = schedule.sqrt_alpha_bars[timesteps, None], schedule.sqrt_one_minus_alpha_bars[timesteps, None]
    noisy = signal * target + rest * noise
    prediction = head(noisy, timesteps, head.cond_proj(hidden))
    velocity = (prediction.noise - rest * noisy) / signal  # what the network said
    error = (velocity - (signal * noise - rest * target)).square().mean(dim=-1)
    bound = variational_bound(schedule, prediction, target, noisy, timesteps)
    torch.testing.assert_close(losses, error + bound, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="choose noise, velocity"):
        DiffusionHead(dataclasses.replace(CONFIG, prediction="v"), 4)


# Direct regression


def test_mse_is_the_mean_squared_error_and_samples_are_the_regression():
    head = MseHead(CONFIG, 4)
    hidden, target = torch.randn(2, 6, 32, generator=rng()), torch.randn(2, 6, 4, generator=rng())
    losses, timesteps = head.loss(hidden, target, rng(), 4)
    torch.testing.assert_close(losses, ((head(hidden) - target) ** 2).mean(dim=-1))
    assert timesteps is None
    assert torch.equal(head.sample(hidden, None, Sampling(1.0, 3), rng()), head(hidden))
    other = torch.randn(2, 6, 32, generator=rng(1))
    by_hand = head(other) + 3 * (head(hidden) - head(other))
    torch.testing.assert_close(head.sample(hidden, other, Sampling(3.0, 3), rng()), by_hand)


# Attention


def attention_head(width: int = 128) -> AttentionHead:
    torch.manual_seed(0)
    head = AttentionHead(dataclasses.replace(CONFIG, head="attention", head_width=width, head_depth=2), 4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head.eval()


def test_attention_does_not_mind_the_order_of_positions_but_sees_them_all():
    head = attention_head()
    assert head.blocks[0].attn.num_heads == 2  # 64 wide each
    noisy, hidden = torch.randn(2, 6, 4, generator=rng()), torch.randn(2, 6, 32, generator=rng(1))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    predict = lambda noisy, hidden: head(noisy, torch.tensor([500]), head.cond_proj(hidden)).noise  # noqa: E731
    torch.testing.assert_close(predict(noisy[:, order], hidden[:, order]), predict(noisy, hidden)[:, order])
    noisy[0, 2] += 1  # every position of that clip answers, none of the other clip
    changed = (predict(noisy, hidden) - predict(torch.randn(2, 6, 4, generator=rng()), hidden)).abs().sum(dim=-1)
    assert (changed[0] > 1e-6).all()
    assert (changed[1] == 0).all()


def test_attention_is_a_diffusion_head_in_all_else():
    """With closed gates its blocks do nothing: loss and samples are those of a diffusion head without blocks."""
    head = attention_head(32)
    with torch.no_grad():
        for block in head.blocks:
            block.modulation.weight.zero_(), block.modulation.bias.zero_()
    plain = DiffusionHead(dataclasses.replace(CONFIG, head_depth=0), 4)
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("blocks.")})
    hidden, null_hidden = torch.randn(2, 2, 6, 32, generator=rng())
    ours, theirs = (h.sample(hidden, null_hidden, Sampling(3.0, 10, 0.9, 1e-3), rng()) for h in (head, plain))
    torch.testing.assert_close(ours, theirs)
    target = torch.randn(2, 6, 4, generator=rng())
    losses, timesteps = head.loss(hidden, target, rng(), 3)
    assert losses.shape == timesteps.shape == (6, 6)
    assert (timesteps == timesteps[:, :1]).all()  # one for a clip, as when sampling
    assert len(timesteps[:, 0].unique()) > 1
    noise_generator = rng()
    torch.randint(1000, (6, 1), generator=noise_generator)
    noise = torch.randn(6, 6, 4, generator=noise_generator)
    torch.testing.assert_close(losses, plain.loss_at(hidden, target.repeat(3, 1, 1), timesteps, noise)[0])


def test_attention_refuses_a_width_that_it_cannot_divide():
    with pytest.raises(ValueError, match=r"head_width = 100: .* multiple of 64"):
        build(head="attention", head_width=100)


# Discrete tokens


def test_a_codebook_finds_well_separated_patches():
    centres = 10 * torch.randn(8, 4, generator=rng())
    patches = centres.repeat(20, 1) + 0.01 * torch.randn(160, 4, generator=rng(1))
    quantizer = ResidualQuantizer(1, 16, 4)  # twice as many codes as centres: no centre is left out
    quantizer.fit(patches, rng())
    codes = quantizer.encode(patches)
    assert codes.shape == (160, 1)
    assert (quantizer.decode(codes) - patches).abs().max() < 0.1


def test_residual_codebooks_refine():
    patches = torch.randn(2000, 4, generator=rng())
    quantizer = ResidualQuantizer(4, 16, 4)
    quantizer.fit(patches, rng())
    codes = quantizer.encode(patches.view(10, 200, 4))
    assert codes.shape == (10, 200, 4)
    errors = [
        (quantizer.decode(codes[..., :q]) - patches.view(10, 200, 4)).square().mean().item() for q in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.15 * errors[0] < 0.15
    again = ResidualQuantizer(4, 16, 4)
    again.fit(patches, rng())
    assert torch.equal(quantizer.codebooks, again.codebooks)  # so all processes have the same


def test_codebooks_have_to_be_fitted_and_need_patches():
    with pytest.raises(ValueError, match="not been fitted"):
        build(head="discrete", **CODES).loss(latents(), captions(), rng())
    with pytest.raises(ValueError, match=r"5 patches in the training set, too few for model\.codebook_size = 8"):
        DiscreteHead(CONFIG, 4).fit(torch.randn(5, 4), rng())


def test_a_head_that_knows_nothing_has_the_loss_log_s():
    model = Impact(model_with("discrete").spec)  # final layers zero again
    model.head.fit(torch.randn(64, 4, generator=rng()), rng())
    loss = model.loss(latents(), captions(), rng())
    torch.testing.assert_close(loss.per_position, torch.full_like(loss.per_position, math.log(8)))


def test_the_loss_is_the_log_probability_of_the_codes_that_sampling_would_draw():
    """Loss of a drawn patch = -log probability that its proposal had, a code."""
    head = model_with("discrete").head
    hidden = torch.randn(2, 6, 32, generator=rng())
    patches, log_probability = head.propose(hidden, None, Sampling(temperature=0.0), rng())
    reencoded = head.quantizer.decode(head.quantizer.encode(patches)) == patches  # greedy RVQ need not find them again
    same = reencoded.all(dim=-1)
    assert same.any()
    losses, _ = head.loss(hidden, patches, rng())
    torch.testing.assert_close(-2 * losses[same], log_probability[same])


def test_draws_follow_the_logits():
    head = model_with("discrete", num_codebooks=1).head
    hidden = torch.randn(1, 1, 32, generator=rng()).repeat(1, 20_000, 1)
    patches, log_probability = head.propose(hidden, None, Sampling(), rng())
    codes = head.quantizer.encode(patches)[0, :, 0]
    share = codes.bincount(minlength=8) / 20_000
    probability = head(head.hidden_proj(hidden[:, :1]), torch.zeros(1, 1, 4), 0).softmax(dim=-1)[0, 0]
    torch.testing.assert_close(share, probability, atol=0.02, rtol=0)
    torch.testing.assert_close(log_probability[0].exp(), probability[codes])
    likeliest = head.propose(hidden[:, :3], None, Sampling(temperature=0.0), rng())[0]
    assert (head.quantizer.encode(likeliest) == probability.argmax()).all()


def test_confident_tokens_come_first(monkeypatch):
    """Revealed positions are those whose drawn tokens had the highest probability, and these tokens stay."""
    monkeypatch.setattr("impact_pl.sampling.decoding.GUMBEL_SCALE", 0.0)
    model = model_with("discrete")
    proposals, masks = [], []
    propose = model.head.propose

    def watch_proposals(*args):
        proposals.append(propose(*args))
        return proposals[-1]

    def watch_masks(patches, mask, cond, positions, num_kept):
        masks.append((patches, mask, positions))
        return model.encoder(patches, mask, cond, positions, num_kept)

    monkeypatch.setattr(model.head, "propose", watch_proposals)
    config = DecodingConfig(num_iterations=3, guidance_scale=1.0, order="confidence")
    generate(model, captions(), 12, 2, config, rng(), engine=Engine(watch_masks, model.head))
    for (drawn, score), (_, before, positions), (patches, after, _) in zip(proposals, masks, masks[1:], strict=False):
        for row in range(2):
            revealed = before[row] & ~after[row]
            stays = after[row].gather(0, positions[row])
            assert score[row][~stays].min() >= score[row][stays].max()
            assert torch.equal(patches[row][positions[row][~stays]], drawn[row][~stays])
            assert revealed.sum() == (~stays).sum()


def test_the_encoder_sees_in_training_what_it_sees_in_decoding():
    model = model_with("discrete")
    x = latents()
    quantised = model.unpatchify(model.head.visible(model.patchify(x)))
    assert not torch.equal(x, quantised)
    seen = []
    model.encoder.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    model.loss(x, captions(), rng())
    assert torch.equal(seen[0], model.patchify(quantised))
    generated = model.patchify((generate(model, captions(), 12, 2, QUICK, rng()) - model._latent_mean(x)) / 2.0)
    sums = (model.head.quantizer.codebooks[0][:, None] + model.head.quantizer.codebooks[1]).flatten(0, 1)
    assert (generated[..., None, :] - sums).abs().amax(dim=-1).amin(dim=-1).max() < 1e-5


def test_without_noise_in_its_steps_temperature_is_that_of_the_start():
    head = model_with("diffusion").head
    hidden = torch.randn(2, 6, 32, generator=rng())
    seen = []
    head.input_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for temperature in (1.0, 0.5):
        head.sample(hidden, None, Sampling(1.0, 4, temperature, 1e-3, "ddim"), rng())
    torch.testing.assert_close(seen[4], 0.5 * seen[0])
