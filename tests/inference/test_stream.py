"""Streams with the shipped model: chunks that join, captions that change, constant memory, mistakes."""

import pytest
import torch

from impact_pl import ImpactPipeline, UserError
from impact_pl.inference.stream import Limiter
from impact_pl.randomness import PositionalNoise

QUICK = {"num_iterations": 4, "num_diffusion_steps": 3}
TIMELINE = [(0, "rain"), (7.3, "a dog barks"), (9.9, "rain and thunder")]


@pytest.fixture(scope="module")
def pipeline() -> ImpactPipeline:
    return ImpactPipeline.from_pretrained()


@pytest.fixture
def windows(pipeline, monkeypatch):
    """What the model was asked: caption, number of known patches, of drawn patches."""
    asked, fill = [], pipeline.fill

    def watch(latents, known, captions, *args, **options):
        asked.append((captions[0], known.num_known, known.num_drawn))
        return fill(latents, known, captions, *args, **options)

    monkeypatch.setattr(pipeline, "fill", watch)
    return asked


def test_chunks_make_one_sound_of_the_duration(pipeline, windows):
    chunks = list(pipeline.stream(TIMELINE, 14.03, **QUICK))
    assert len(chunks) > 3
    assert sum(chunk.waveforms.shape[1] for chunk in chunks) == round(14.03 * 16_000)
    assert {chunk.sample_rate for chunk in chunks} == {16_000}
    assert [caption for caption, _, _ in windows] == ["rain"] * 2 + ["a dog barks"] * 2 + ["rain and thunder"] * 2
    assert sum(drawn for *_, drawn in windows) == 176  # 14.03 s in patches of 80 ms
    assert windows[0][1:] == (0, 64)
    assert all(known + drawn == 64 and drawn <= 32 for _, known, drawn in windows[1:])


def test_chunks_are_what_decoding_at_once_gives(pipeline, monkeypatch):
    latents, decode_stream = [], pipeline.codec.decode_stream

    def watch(chunks, noise):
        return decode_stream((latents.append(chunk) or chunk for chunk in chunks), noise)

    monkeypatch.setattr(pipeline.codec, "decode_stream", watch)
    monkeypatch.setattr(Limiter, "__call__", lambda self, waveforms: waveforms)
    joined = torch.cat([chunk.waveforms for chunk in pipeline.stream("rain", 12.0, seed=3, **QUICK)], dim=1)
    whole = pipeline.codec.decode(torch.cat(latents, dim=2), PositionalNoise([3], ["rain"], "stream codec"))
    torch.testing.assert_close(joined, whole[:, : joined.shape[1]], rtol=0, atol=1e-5)


def test_same_seed_same_stream(pipeline):
    first, again, other = (next(iter(pipeline.stream("rain", seed=seed, **QUICK))) for seed in (1, 1, 2))
    assert torch.equal(first.waveforms, again.waveforms)
    assert not torch.equal(first.waveforms, other.waveforms)


def test_an_endless_stream_holds_no_more_than_a_window(pipeline, windows):
    stream = pipeline.stream("rain", **QUICK)
    lengths = [next(stream).waveforms.shape[1] for _ in range(8)]
    assert len(windows) == 8  # the first sound came after one window
    assert max(known + drawn for _, known, drawn in windows) == 64
    assert max(lengths) <= 16_000 * pipeline.max_duration
    stream.close()


def test_a_stream_is_turned_down_not_clipped():
    limit = Limiter(4)
    assert torch.equal(limit(torch.tensor([[0.5, -0.5]])), torch.tensor([[0.5, -0.5]]))
    loud = limit(torch.tensor([[0.1] * 8 + [2.0]]))
    assert loud.max() == 1
    assert (loud[0, :4].diff() < 0).all()
    torch.testing.assert_close(limit(torch.tensor([[1.0] * 8])), torch.full((1, 8), 0.5))


@pytest.mark.parametrize(
    ("timeline", "duration", "message"),
    [
        ([], 10, "give a caption at 0 seconds"),
        ([(1, "rain")], 10, "starts at 1"),
        ([(0, "rain"), (5, "wind"), (5, "hail")], 10, "5 s after 5 s: give times in ascending order"),
        ([(0, "rain"), (20, "wind")], 10, "duration 10 s: give seconds above 20"),
        ("rain", 0, "duration 0 s"),
    ],
)
def test_timelines_that_make_no_sense(pipeline, timeline, duration, message):
    with pytest.raises(UserError, match=message):
        pipeline.stream(timeline, duration, **QUICK)
