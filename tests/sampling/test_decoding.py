import pytest
import torch

from impact_pl.config import PRESETS, DecodingConfig
from impact_pl.sampling.decoding import Budget, check_decoding, confidence, decode
from impact_pl.sampling.diffusion import make_schedule
from impact_pl.sampling.schedules import diffusion_steps_at, guidance_at


class Recorder:
    """The two callables of a model whose patch at position n is the number n; records what it was asked."""

    def __init__(self, certain=None):
        self.revealed, self.masks, self.scales, self.iterations = [], [], [], []
        self.certain = certain
        self.noise = torch.Generator().manual_seed(7)

    def encode(self, patches, mask, positions, num_kept, guided):
        assert ((~mask).sum(dim=1) == num_kept).all()
        assert mask.gather(1, positions).all()  # asks for masked patches only
        n = torch.arange(mask.shape[1]).expand_as(mask)
        assert torch.equal(patches[..., 0], torch.where(mask, 0, n + 1.0))  # what was revealed stays
        self.masks.append(mask)
        hidden = positions[..., None].float() + 1
        return hidden, hidden if guided else None

    def sample(self, hidden, null_hidden, guidance_scale, num_diffusion_steps):
        assert (null_hidden is None) == (guidance_scale == 1)
        if num_diffusion_steps == 3:  # a quick draw: spread grows with the position
            spread = self.certain(hidden) if self.certain else 1.0
            return hidden + spread * torch.randn(hidden.shape, generator=self.noise)
        self.revealed.append(hidden.flatten().long() - 1)
        self.scales.append(guidance_scale)
        return hidden

    def run(self, seed=0, num_patches=12, **config):
        config = DecodingConfig(**{"num_iterations": 4, "confidence_steps": 3, "guidance_scale": 5.0} | config)
        generator = torch.Generator().manual_seed(seed)
        progress = lambda iteration, total: self.iterations.append((iteration, total))  # noqa: E731
        return decode(self.encode, self.sample, torch.zeros(2, num_patches, 1), config, generator, progress)


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("num_iterations", [1, 4, 12, 30])
def test_every_patch_is_predicted_once_and_masks_nest(order, num_iterations):
    model = Recorder()
    patches = model.run(order=order, num_iterations=num_iterations)
    assert torch.equal(patches[..., 0], torch.arange(1.0, 13).expand(2, -1))
    assert sorted(torch.cat(model.revealed).tolist()) == sorted([*range(12)] * 2)
    for before, after in zip(model.masks, model.masks[1:], strict=False):
        assert not (after & ~before).any()
        assert (after.sum(dim=1) < before.sum(dim=1)).all()
    assert model.iterations == [(t, num_iterations) for t in range(1, num_iterations + 1)]


def test_the_order_follows_the_seed():
    first, again, other = Recorder(), Recorder(), Recorder()
    first.run(seed=1), again.run(seed=1), other.run(seed=2)
    assert torch.equal(torch.cat(first.revealed), torch.cat(again.revealed))
    assert not torch.equal(torch.cat(first.revealed), torch.cat(other.revealed))


def test_confidence_reveals_the_most_consistent_first(monkeypatch):
    monkeypatch.setattr("impact_pl.sampling.decoding.GUMBEL_SCALE", 0.0)
    model = Recorder(certain=lambda hidden: 2.0 ** (-hidden))  # the further right, the surer
    model.run(order="confidence", confidence_candidates=200)
    sizes = [len(positions) // 2 for positions in model.revealed]
    for row in range(2):
        revealed = [set(p.view(2, -1)[row].tolist()) for p in model.revealed]
        left = list(range(12))
        for positions, size in zip(revealed, sizes, strict=True):
            assert positions == set(left[-size:])
            left = left[:-size]


def test_confidence_is_minus_the_entropy_of_a_gaussian():
    """For draws of variance v the score is -1/2 log v, the log density's mean less a constant."""
    generator = torch.Generator().manual_seed(0)
    std = torch.tensor([0.1, 1.0, 7.0])

    def sample(hidden, null_hidden, guidance_scale, num_diffusion_steps):
        return hidden * torch.randn(*hidden.shape[:2], 500, generator=generator)

    score = confidence(std[None, :, None], sample, DecodingConfig(confidence_candidates=40))
    torch.testing.assert_close(score, -std.log()[None], rtol=0, atol=0.02)


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_adaptive_reveals_at_a_stroke_what_context_has_decided(order):
    model = Recorder()
    model.certain = lambda hidden: 1e-3 if model.revealed else 1.0  # after the first iteration nothing is open
    patches = model.run(order=order, reveal="adaptive", num_iterations=6, confidence_candidates=400)
    assert torch.equal(patches[..., 0], torch.arange(1.0, 13).expand(2, -1))
    assert [len(positions) // 2 for positions in model.revealed] == [2, 10]
    assert model.iterations[-1] == (6, 6)


def test_adaptive_is_linear_where_everything_stays_open_and_waits_for_the_most_uncertain_clip():
    alike = Recorder()
    alike.run(reveal="adaptive", num_iterations=6, confidence_candidates=400)
    sizes = [len(positions) // 2 for positions in alike.revealed]
    assert len(sizes) == 6
    assert max(sizes) <= 3  # 2, but for the chance in variances of 400 draws
    budget = Budget(2)
    decided, open_ = torch.full((1, 4), 9.0), torch.zeros(1, 4)
    assert budget.left(open_.repeat(2, 1)) == 2  # the first call sets what an iteration may cost: half of it
    assert budget.left(decided.repeat(2, 1)) == 0
    assert budget.left(torch.cat([decided, open_])) == 2


def test_guidance_schedules():
    assert guidance_at("cosine", 5.0, 0, 64) == 5
    assert guidance_at("cosine", 5.0, 64, 64) == 1
    cosine = [guidance_at("cosine", 5.0, t, 64) for t in range(65)]
    linear = [guidance_at("linear", 5.0, t, 64) for t in range(65)]
    assert cosine == sorted(cosine, reverse=True)
    assert linear == sorted(linear)
    assert linear[0] == 1
    assert linear[64] == pytest.approx(5)
    assert {guidance_at("constant", 5.0, t, 64) for t in range(65)} == {5}
    assert guidance_at("cosine", 3.0, 20, 60) == pytest.approx(1 + 2 * 3**0.5 / 2)


def test_guidance_in_the_loop_and_none_at_scale_one():
    model = Recorder()
    model.run(num_iterations=4)
    assert model.scales == [guidance_at("cosine", 5.0, t, 4) for t in (1, 2, 3, 4)]
    assert model.scales[-1] == 1
    unguided = Recorder()
    unguided.run(guidance_scale=1.0)
    assert unguided.scales == [1.0] * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_iterations", 0),
        ("num_diffusion_steps", 0),
        ("num_diffusion_steps", 1001),
        ("guidance_scale", -1.0),
        ("guidance_scale", float("nan")),
        ("temperature", -0.1),
        ("min_alpha_bar", 0.9),
        ("max_rms", -1.0),
        ("guidance_schedule", "sine"),
        ("order", "left"),
        ("reveal", "parabola"),
        ("solver", "euler"),
        ("engine", "steam"),
        ("precision", "int8"),
        ("final_diffusion_steps", 101),
        ("final_diffusion_steps", -1),
    ],
)
def test_impossible_decoding_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        check_decoding(DecodingConfig(**{field: value}), 1000)


@pytest.mark.parametrize("field", ["num_diffusion_steps", "confidence_steps"])
def test_min_alpha_bar_bounds_the_steps(field):
    """What passes the check has a schedule, and one step more has none."""
    most = len(make_schedule(1000, None, 1e-3))
    check_decoding(DecodingConfig(**{field: most}), 1000)
    with pytest.raises(ValueError, match=rf"{field} = {most + 1}: choose 1 to {most}, .* min_alpha_bar = 0\.001"):
        check_decoding(DecodingConfig(**{field: most + 1}), 1000)
    check_decoding(DecodingConfig(**{field: 1000}, min_alpha_bar=0.0), 1000)


def test_presets_can_be_decoded_with():
    for preset in PRESETS.values():
        check_decoding(DecodingConfig(**preset), 1000)
    assert PRESETS["exact"] == {}


def test_diffusion_steps_fall_evenly():
    steps = lambda **config: [diffusion_steps_at(DecodingConfig(**config), t) for t in range(1, 5)]  # noqa: E731
    assert steps(num_iterations=4) == [100] * 4
    assert steps(num_iterations=4, num_diffusion_steps=50, final_diffusion_steps=5) == [50, 35, 20, 5]
    assert diffusion_steps_at(DecodingConfig(num_iterations=1, final_diffusion_steps=5), 1) == 100


@pytest.mark.parametrize("config", [{"order": "confidence"}, {"reveal": "adaptive"}])
def test_confidence_needs_two_draws(config):
    with pytest.raises(ValueError, match="at least 2"):
        check_decoding(DecodingConfig(**config, confidence_candidates=1), 1000)
