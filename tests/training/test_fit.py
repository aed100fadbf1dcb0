"""What a training does beside learning: stop on NaN, keep checkpoints whole, log, sample."""

import csv
import errno
import io
import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impact_pl.config import DecodingConfig, TrainerConfig
from impact_pl.data.index import ShardIndex
from impact_pl.data.shards import LatentDataset, describe_shard
from impact_pl.training.checkpoint import read_checkpoint
from impact_pl.training.fit import train
from impact_pl.training.log import BucketMeans, bucket_names, git_revision
from impact_pl.training.loggers import MetricsTable, build_loggers
from impact_pl.training.strategies import check_devices, resolve_precision
from tests.helpers.latents import write_latents
from tests.helpers.tensorboard_server import serve


def rows(config) -> list[dict[str, str]]:
    with (Path(config.runs_dir) / config.name / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def last(config) -> Path:
    return Path(config.runs_dir) / config.name / "checkpoints" / "last.ckpt"


def test_training_learns(config):
    """Eleven clips: the loss of the first and the last steps differ clearly, in training and validation."""
    config.trainer.max_steps, config.trainer.validate_every_steps = 200, 100
    config.optim.lr, config.model.dropout = 3e-3, 0.0
    assert train(config).exit_code == 0
    loss = [float(row["train/loss"]) for row in rows(config) if row["train/loss"]]
    assert sorted(loss[-40:])[20] < 0.9 * sorted(loss[:40])[20]


def test_figures_and_their_columns(config):
    config.trainer.log_every_steps, config.trainer.accumulate_grad_batches = 2, 2
    assert train(config).exit_code == 0
    table = rows(config)
    assert [(int(row["step"]), bool(row["valid/loss"])) for row in table] == [
        (2, False),
        (4, False),
        (4, True),
        (6, False),
    ]
    first = table[0]
    assert float(first["train/lr"]) == pytest.approx(1e-2 * 2 / 3, rel=1e-5)  # of step 2, in the warm-up
    assert float(first["train/total_grad_norm"]) > 0
    assert float(first["usage/clips_per_second"]) > 0
    assert 0 < float(first["usage/data_wait_share"]) < 1
    assert 0.05 < float(first["usage/peak_memory_gb"]) < 100
    assert all(first[name] for name in bucket_names(1000)[1:5])
    events = EventAccumulator(str(last(config).parent.parent)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("valid/loss")] == [4]


def test_bucket_means_are_means():
    means = BucketMeans(1000, torch.device("cpu"))

    class OneProcess:
        @staticmethod
        def reduce(values, reduce_op):
            return values

    class Trainer:
        strategy = OneProcess()

    means.add(torch.tensor(2.0), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 249, 250]), 0.75)
    means.add(torch.tensor(4.0), torch.tensor([4.0]), torch.tensor([999]), 0.95)
    values = means.pop(Trainer())
    assert values == {
        "train/loss": 3.0,
        "train_by_timestep/0-249": 1.5,
        "train_by_timestep/250-499": 3.0,
        "train_by_timestep/750-999": 4.0,
        "train_by_mask_ratio/0.7-0.8": 2.0,
        "train_by_mask_ratio/0.9-1.0": 4.0,
    }
    assert means.pop(Trainer()) == {}


def test_csv_drops_what_a_resumed_run_does_again(tmp_path):
    path = tmp_path / "metrics.csv"
    sink = MetricsTable(path, ["a", "b"], 0)
    for step in (10, 20, 30):
        sink.log_metrics({"a": step / 3}, step)
    sink.close()
    sink = MetricsTable(path, ["a", "b"], 20)
    sink.log_metrics({"b": 1.0}, 30)
    sink.close()
    assert path.read_text().split() == ["step,a,b", "10,3.33333,", "20,6.66667,", "30,,1"]


def test_csv_takes_new_metrics_and_keeps_them_when_resumed(tmp_path):
    """Those of a user's own callback, which no one has announced."""
    table = MetricsTable(tmp_path / "metrics.csv", ["a"], 0)
    table.log_metrics({"a": 1}, 10)
    table.log_metrics({"mine": 2, "epoch": 0}, 10)
    table.close()
    table = MetricsTable(tmp_path / "metrics.csv", ["a"], 10)
    table.log_metrics({"a": 3}, 20)
    table.close()
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,a,mine", "10,1,", "10,,2", "20,3,"]


def test_csv_forgets_a_row_that_a_kill_has_cut(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n10,1\n20,2\n2")  # of 21
    MetricsTable(path, ["a"], 20).close()
    assert path.read_text() == "step,a\n10,1\n20,2\n"


@pytest.mark.parametrize("resumed", [0, 3])
def test_tensorboard_after_a_kill(tmp_path, resumed):
    """The last event is cut in half; what comes again after the resumed step is seen once."""

    def log(kept_steps, last_step):
        (logger,) = build_loggers({"tensorboard": {}}, tmp_path, [], kept_steps)
        for step in range(kept_steps + 1, last_step + 1):
            logger.log_metrics({"a": step / 3}, step)
        logger.finalize("success")

    log(0, 5)
    (file,) = tmp_path.glob("events*")
    os.truncate(file, file.stat().st_size - 20)
    # TensorBoard orders files by the second in their names, which the next one may share.
    file.rename(tmp_path / "events.out.tfevents.0000000001.host.1.0")
    log(resumed, 6)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("a")
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]


def test_first_lines_of_every_start_are_kept(config, capsys):
    config.trainer.max_steps = 1
    assert train(config).exit_code == 0
    config.trainer.max_steps = 2
    assert train(config).exit_code == 0
    lines = (last(config).parents[1] / "run.log").read_text().splitlines()
    assert [line.split("  ")[1].split()[0] for line in lines] == ["stage", "1", "code"] * 2
    assert "0.0146 M parameters, 11 clips, 4 per step (global batch), 1 steps" in lines[0]
    assert "1 node(s), 1 rank(s) on CPUAccelerator, SingleDeviceStrategy, precision 32-true" in lines[1]
    said = capsys.readouterr()
    assert lines[0].split("  ")[1] in said.out
    assert "FLOPs" not in said.out
    assert not said.err


def test_git_revision(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments], cwd=tmp_path, check=True)

    tracked, other = tmp_path / "tracked.py", tmp_path / "other.py"
    tracked.write_text("a")
    assert git_revision(tracked) == "unknown"
    git("init", "-q")
    git("add", "tracked.py")
    git("commit", "-qm", "x")
    other.write_text("b")
    assert re.fullmatch("[0-9a-f]{7,}", git_revision(tracked))
    tracked.write_text("c")
    assert re.fullmatch(r"[0-9a-f]{7,}\+changes", git_revision(tracked))
    assert git_revision(other) == "unknown"  # in somebody else's checkout, as an installed package may be


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(config):
    config.optim.lr, config.optim.warmup_steps = 1e30, 1
    config.trainer.checkpoint_every_steps = 1
    with pytest.raises(ValueError, match=r"stopped at step (\d+): .*clip\d{3}.*optim\.lr") as error:
        train(config)
    step = int(str(error.value).split("step ")[1].split(":")[0])
    checkpoint = read_checkpoint(last(config))
    assert checkpoint["global_step"] == step >= 1
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize("workers", [0, 1])
def test_nan_in_the_data_names_the_clip(config, tmp_path, monkeypatch, workers):
    """The shards' own check, seen through the training, also from a worker process."""
    path = write_latents(tmp_path / "bad")
    file, (_, offset, _) = path / "train" / "000000.tar", LatentDataset(path / "train").locate(6)
    content = bytearray(file.read_bytes())
    content[offset + 512 + 128 : offset + 512 + 130] = b"\x00\x7e"  # a float16 NaN behind the npy header
    file.write_bytes(content)
    index = ShardIndex.load(file.parent)
    index.shards = [describe_shard(file)]  # else the damage is found by its checksum, before anything is decoded
    index.save(file.parent)
    config.data.path, config.data.num_workers = str(path), workers
    with pytest.raises(ValueError, match=r"clip006.*NaN") as error:
        train(config)
    assert "Traceback" not in str(error.value)


def test_full_disk_keeps_the_old_checkpoint(config, monkeypatch):
    from lightning import Trainer

    config.trainer.max_steps = 3
    assert train(config).exit_code == 0
    before = last(config).read_bytes()

    def save_half(self, path):
        Path(path).write_bytes(before[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", save_half)
    config.trainer.max_steps = 6
    with pytest.raises(OSError, match="No space left"):
        train(config)
    assert last(config).read_bytes() == before


def test_names_are_checked():
    with pytest.raises(ValueError, match="32-true, bf16-mixed"):
        resolve_precision(TrainerConfig(precision="16-mixed"))
    with pytest.raises(ValueError, match="auto, ddp, fsdp2, deepspeed"):
        check_devices(TrainerConfig(strategy="magic"))
    assert resolve_precision(TrainerConfig(precision="32-true")) == "32-true"
    assert resolve_precision(TrainerConfig(accelerator="cpu")) in ("bf16-mixed", "32-true")


def test_unknown_stage(config):
    config.stage = "dream"
    with pytest.raises(ValueError, match="pretrain, text, distill, codec"):
        train(config)


def test_automatic_precision_trains(config):
    """bf16 where the processor really executes it (a trial process finds out); weights and averages stay float32."""
    config.trainer.precision = "auto"
    assert train(config).exit_code == 0
    assert {value.dtype for value in read_checkpoint(last(config))["state_dict"].values()} == {torch.float32}


def check_what_tensorboard_serves(run_dir):
    """Ask TensorBoard itself, as its page does: one tag for sound and picture gives a dead player and no picture."""
    url = serve(run_dir) + "data/plugin/"

    def get(path, **query):
        with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(query)}") as answer:
            return answer.read()

    deadline = time.monotonic() + 60
    while not json.loads(get("audio/tags")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert set(json.loads(get("audio/tags"))["."]) == {"audio/0", "audio/1"}
    assert set(json.loads(get("images/tags"))["."]) == {"valid_spectrogram/0", "valid_spectrogram/1"}
    assert {"caption/0", "caption/1", "config"} <= {
        tag.removesuffix("/text_summary") for tag in json.loads(get("text/tags"))["."]
    }
    (sound,) = json.loads(get("audio/audio", run=".", tag="audio/0", sample=0))
    waveform, rate = soundfile.read(io.BytesIO(get_query(url, "audio", sound)))
    assert rate == 16000
    assert len(waveform) == pytest.approx(1.28 * 16000, abs=640)
    (picture,) = json.loads(get("images/images", run=".", tag="valid_spectrogram/1", sample=0))
    assert Image.open(io.BytesIO(get_query(url, "images", picture))).width > 100
    scalars = list(json.loads(get("scalars/tags"))["."])
    assert sorted(scalars)[:3] == ["train/loss", "train/lr", "train/total_grad_norm"]  # the first screen


def get_query(url: str, plugin: str, item: dict) -> bytes:
    """What a player or picture on the page loads."""
    place = {"audio": "audio/individualAudio", "images": "images/individualImage"}[plugin]
    with urllib.request.urlopen(f"{url}{place}?{item['query']}") as answer:
        return answer.read()


def test_generated_audio_in_tensorboard(config, latents):
    """With the real codec and real features: sounds, pictures and captions, and no effect on the training."""
    config.data.path = str(latents)
    config.model.max_patches = 32
    config.trainer.max_steps, config.trainer.sample_every_steps = 2, 2
    config.decoding = DecodingConfig(num_iterations=2, num_diffusion_steps=2)
    assert train(config).exit_code == 0
    check_what_tensorboard_serves(last(config).parent.parent)
    config.trainer.sample_every_steps, config.name = 0, "silent"
    assert train(config).exit_code == 0
    with_audio, without = (
        read_checkpoint(last(config).parents[2] / name / "checkpoints/last.ckpt") for name in ("run", "silent")
    )
    assert all(torch.equal(value, without["state_dict"][name]) for name, value in with_audio["state_dict"].items())
