import math
import signal
import time
from pathlib import Path

import pytest
import soundfile
import torch

from impact_pl.codecs.builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.codecs.registry import load_codec
from impact_pl.config import CodecConfig, DataConfig, OptimConfig, TrainConfig, TrainerConfig
from impact_pl.data.clips import draw_crops, load_clips
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.training import codec as training
from impact_pl.training.codec import EnergyDistance
from impact_pl.training.fit import train


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """A decoder of 16 dimensions on four short recordings."""
    generator = torch.Generator().manual_seed(0)
    records = []
    for i in range(4):
        swell = torch.linspace(0, 0.2 * (i + 1), 80_000)
        soundfile.write(tmp_path / f"{i}.wav", (swell * torch.randn(80_000, generator=generator)).numpy(), 16_000)
        records.append(Record(f"clip{i}", f"{i}.wav", split="valid" if i == 3 else "train"))
    write_manifest(tmp_path / "manifest.jsonl", records)
    return TrainConfig(
        stage="codec",
        runs_dir=str(tmp_path / "runs"),
        data=DataConfig(path=str(tmp_path / "manifest.jsonl"), batch_size=2),
        trainer=TrainerConfig(
            accelerator="cpu", precision="32-true", max_steps=4, validate_every_steps=4, log_every_steps=2
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=2, ema_decay=0.9),
        codec=CodecConfig(decoder_dim=16, decoder_depth=1, crop_seconds=0.3),
    )


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    path = f"{config.runs_dir}/{config.name}/checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(config, monkeypatch):
    config.name = "whole"
    assert train(config).exit_code == 0
    config.name = "stopped"
    step = training.CodecTraining.training_step

    def interrupt(self, batch, batch_idx):
        if self.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(training.CodecTraining, "training_step", interrupt)
    assert train(config).exit_code == 130
    monkeypatch.setattr(training.CodecTraining, "training_step", step)
    assert train(config).exit_code == 0
    stopped = weights(config)
    config.name = "whole"
    for name, value in weights(config).items():
        assert torch.equal(value, stopped[name]), name


def test_stopped_before_its_first_step_it_has_saved_nothing(config, monkeypatch, capsys):
    def load(*args):
        signal.raise_signal(signal.SIGTERM)
        return load_clips(*args)

    monkeypatch.setattr(training, "load_clips", load)
    assert train(config).exit_code == 143
    assert "before the first step; nothing to save" in capsys.readouterr().out
    assert not Path(config.runs_dir, "run", "checkpoints", "last.ckpt").exists()


def test_a_step_that_stands_still_wakes_the_guard(config, monkeypatch):
    """Its signal would end the process; a handler from before it takes its place here."""
    config.trainer.stall_minutes = 0.05
    rung: list[int] = []
    step = training.CodecTraining.training_step

    def stall(self, batch, batch_idx):
        rung.clear()  # a slow machine may have been late before
        if self.global_step == 3:
            time.sleep(4)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(training.CodecTraining, "training_step", stall)
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        assert train(config).exit_code == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung


def test_trained_folder_loads_and_init_from_keeps_the_latents(config, tmp_path):
    assert train(config).exit_code == 0
    folder = tmp_path / "runs" / "run" / "model"
    codec = load_codec(str(folder))
    assert codec.decode(codec.encode(torch.zeros(1, 6400))[:, :64]).shape == (1, 6400)
    metrics = (tmp_path / "runs" / "run" / "metrics.csv").read_text().splitlines()
    assert metrics[0].startswith("step,train/loss")
    assert float(metrics[-1].split(",")[-1]) > 0  # validation at the last step
    config.name, config.init_from = "more", str(folder)
    assert train(config).exit_code == 0
    more = load_codec(str(tmp_path / "runs" / "more" / "model"))
    assert more.identity == codec.identity
    assert not torch.equal(more.decoder.proj_out.weight, codec.decoder.proj_out.weight)


def test_a_decoder_continues_on_other_latents(config, tmp_path):
    """As experiment=vocoder does: all components of the mel spectrogram, and the built-in codec's decoder."""
    config.codec.latent_channels, config.init_from, config.trainer.max_steps = 256, "builtin", 1
    config.trainer.validate_every_steps, config.optim.warmup_steps = 0, 0
    assert train(config).exit_code == 0
    codec, builtin = load_codec(str(tmp_path / "runs" / "run" / "model")), load_codec("builtin")
    mel = codec.with_floor(codec.log_mel(torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))))
    latents = codec.encode(torch.randn(1, 6400, generator=torch.Generator().manual_seed(0)))[:, :256]
    torch.testing.assert_close(codec.decode_mel(latents), mel, atol=1e-3, rtol=0)
    change = (codec.decoder.proj_out.weight - builtin.decoder.proj_out.weight).abs().mean()
    assert 0 < change < 0.1 * builtin.decoder.proj_out.weight.abs().mean()
    config.codec.latent_channels = 257
    with pytest.raises(ValueError, match="choose at most 256"):
        train(config)


def test_training_lowers_the_distance(config):
    config.trainer.max_steps, config.optim.lr, config.optim.warmup_steps = 30, 3e-3, 5
    config.trainer.log_every_steps = config.trainer.validate_every_steps = 10
    train(config)
    rows = Path(config.runs_dir, "run", "metrics.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[-1]) for row in rows if row.split(",")[-1]]
    assert losses[-1] < losses[0]


def test_energy_distance_prefers_the_right_distribution_to_the_median():
    """Draws of the recording's own distribution beat both a wrong level and a fixed waveform."""
    distance, generator = EnergyDistance(16_000), torch.Generator().manual_seed(0)

    def noise(level: float) -> torch.Tensor:
        return level * torch.randn(4, 16_000, generator=generator)

    target = noise(0.1)
    right = distance(target, torch.cat([noise(0.1), noise(0.1)]), generator)
    louder = distance(target, torch.cat([noise(0.2), noise(0.2)]), generator)
    fixed = noise(0.1)
    without_variety = distance(target, torch.cat([fixed, fixed]), generator)
    assert right < 0.75 * without_variety
    assert right < 0.75 * louder


def test_energy_distance_of_the_recording_itself_is_the_dither_alone():
    generator = torch.Generator().manual_seed(0)
    target = 0.3 * torch.randn(2, 8000, generator=generator)
    assert EnergyDistance(16_000)(target, torch.cat([target, target]), generator) < 0.01


def test_crops_are_seeded_padded_and_in_range():
    clips = [torch.full((100,), 32767, dtype=torch.int16), torch.full((5000,), -32767, dtype=torch.int16)]
    crops, again = (draw_crops(clips, 64, 1000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(crops, again)
    assert crops.abs().max() <= 1.0
    loudest = crops.abs().amax(dim=1)
    assert loudest.min() >= 10 ** (-12 / 20) - 1e-4
    assert 0.2 < (loudest < 1).float().mean() < 0.8
    short = crops[crops[:, 0] > 0]
    assert len(short) > 0
    assert (short[:, 100:] == 0).all()


def test_user_errors(config, tmp_path):
    config.trainer.devices = 2
    with pytest.raises(ValueError, match="one device"):
        train(config)
    config.trainer.devices, path = 1, config.data.path
    for name, value in (("global_batch_size", 64), ("accumulate_grad_batches", 2)):
        before = getattr(config.trainer, name)
        setattr(config.trainer, name, value)
        with pytest.raises(ValueError, match=f"trainer.{name}={value}: the codec takes data"):
            train(config)
        setattr(config.trainer, name, before)
    config.data.path = ""
    with pytest.raises(ValueError, match=r"data\.path=manifest\.jsonl"):
        train(config)
    write_manifest(tmp_path / "valid.jsonl", [Record("clip3", "3.wav", split="valid")])
    config.data.path = str(tmp_path / "valid.jsonl")
    with pytest.raises(ValueError, match="no record of split 'train'"):
        train(config)
    config.data.path, config.init_from = path, str(tmp_path)
    with pytest.raises(ValueError, match="no codec"):
        train(config)


def test_another_codecs_checkpoint_is_refused(config):
    assert train(config).exit_code == 0
    config.codec.decoder_dim, config.trainer.max_steps = 32, 6
    with pytest.raises(ValueError, match=r"holds another training.*codec\.decoder_dim"):
        train(config)
    Path(config.runs_dir, "run", "checkpoints", "last.ckpt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        train(config)
    config.trainer.max_steps = 0
    with pytest.raises(ValueError, match=r"trainer\.max_steps=0"):
        train(config)


def test_a_finished_codec_training_is_kept(config):
    assert train(config).exit_code == 0
    before = weights(config)
    assert train(config).exit_code == 0
    config.trainer.max_steps = 2
    assert train(config).exit_code == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(config).items())


def test_unreadable_recordings_are_left_out(config, tmp_path, capsys):
    (tmp_path / "0.wav").write_bytes(b"RIFF, but no sound")
    clips, valid_clips = load_clips(config.data.path, 16_000)
    assert (len(clips), len(valid_clips)) == (2, 1)
    assert "1 unreadable recording(s) left out" in capsys.readouterr().out
    for i in range(1, 4):
        (tmp_path / f"{i}.wav").unlink()
    with pytest.raises(ValueError, match=r"unreadable: 4, the first: .*0\.wav"):
        load_clips(config.data.path, 16_000)


def test_default_sizes_fit_into_the_package():
    decoder = BuiltinCodec(BuiltinCodecSpec()).decoder
    num_parameters = sum(p.numel() for p in decoder.parameters())
    assert math.ceil(2 * num_parameters / 1e6) <= 20  # MB in float16
