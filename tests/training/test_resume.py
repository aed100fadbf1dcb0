"""Interrupted and continued is the same as never interrupted, bit for bit."""

import copy
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impact_pl.config import TrainConfig
from impact_pl.data.shards import LatentDataset
from impact_pl.training.checkpoint import read_checkpoint
from impact_pl.training.fit import train
from impact_pl.training.process import StopSignal


def next_second() -> None:
    """TensorBoard reads the files that a process began in one second by their number as text: 10 before 9."""
    time.sleep(1)


def run(config: TrainConfig, name: str, *stops: int) -> dict:
    """Train to each number of steps in turn (each a fresh call), and return the last checkpoint."""
    config = copy.deepcopy(config)
    config.name = name
    for stop in stops:
        config.trainer.max_steps = stop
        assert train(config).exit_code == 0
    return checkpoint_of(config)


def checkpoint_of(config: TrainConfig) -> dict:
    return read_checkpoint(run_dir(config) / "checkpoints" / "last.ckpt")


def run_dir(config: TrainConfig) -> Path:
    return Path(config.runs_dir) / config.name


def assert_same(one, other, path=""):
    """Equal to the last bit, tensor by tensor, number by number."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "LatentDataModule", "global_step")


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 1), (0, 2)])
def test_three_and_three_steps_are_six(config, workers, accumulate):
    """Weights, EMA, optimizer and data order, with dropout on, in the middle of an epoch (11 clips, 4 a batch)."""
    config.data.num_workers = workers
    config.trainer.accumulate_grad_batches = accumulate
    whole = run(config, "whole", 6)
    parts = run(config, "parts", 3, 6)
    assert whole["global_step"] == 6
    assert whole["LatentDataModule"]["samples_consumed"] == 24 * accumulate
    assert_same({k: whole[k] for k in STATE}, {k: parts[k] for k in STATE})
    ema = [name for name in whole["state_dict"] if name.startswith("ema.model.")]
    assert len(ema) * 2 == len(whole["state_dict"])
    assert any(not torch.equal(whole["state_dict"][n], whole["state_dict"][n[4:]]) for n in ema)
    figures = [(run_dir(config).with_name(name) / "metrics.csv").read_text() for name in ("whole", "parts")]
    assert losses(figures[0]) == losses(figures[1])


def losses(text: str) -> list[tuple[str, str]]:
    rows = [line.split(",") for line in text.splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if not name.startswith("usage/")]
    return [tuple(row[i] for i in kept) for row in rows]


def test_validation_and_logging_do_not_touch_the_training(config):
    config.trainer.validate_every_steps = 1
    often = run(config, "often", 4)
    config.trainer.validate_every_steps = 0
    config.trainer.log_every_steps = 3
    never = run(config, "never", 4)
    assert_same(often["state_dict"], never["state_dict"])


class StopsWhileReading(LatentDataset):
    """A dataset that gets a real signal while the clip of a chosen read is on its way."""

    reads, at, signum = 0, 0, signal.SIGTERM

    def __getitem__(self, i):
        type(self).reads += 1
        if self.reads == self.at:
            signal.raise_signal(self.signum)
        return super().__getitem__(i)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_signal_saves_at_the_end_of_the_step_and_the_same_call_continues(config, monkeypatch, capsys, signum, code):
    import impact_pl.data.datamodule as datamodule

    config.trainer.log_every_steps = 3  # the second row's mean spans the interruption
    whole = run(config, "whole", 6)
    StopsWhileReading.reads, StopsWhileReading.at, StopsWhileReading.signum = 0, 15, signum  # in the fourth step
    config.name = "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "LatentDataset", StopsWhileReading)
        handlers = [signal.getsignal(s) for s in StopSignal.SIGNALS]
        assert train(config).exit_code == code
        assert [signal.getsignal(s) for s in StopSignal.SIGNALS] == handlers
    assert "stopped at step 4, saved; the same command continues" in capsys.readouterr().out
    assert checkpoint_of(config)["global_step"] == 4
    assert not (run_dir(config) / "model").exists()
    parts = run(config, "stopped", 6)
    assert_same({k: whole[k] for k in STATE}, {k: parts[k] for k in STATE})
    assert figures(config, "stopped") == figures(config, "whole")


def figures(config: TrainConfig, name: str) -> list[tuple[str, ...]]:
    return losses((run_dir(config).with_name(name) / "metrics.csv").read_text())


class InterruptedValidation(LatentDataset):
    """Something happens while the first validation clip is read."""

    def __getitem__(self, i):
        if i == 0 and Path(self.folder).name == "valid":
            self.happens()
        return super().__getitem__(i)

    def happens(self):
        signal.raise_signal(signal.SIGUSR1)


class BrokenValidation(InterruptedValidation):
    def happens(self):
        raise ValueError("unreadable")


def test_a_signal_during_validation_stops_it_and_it_is_made_up_for(config, monkeypatch):
    """One of two validation batches is left out; the checkpoint says that the figure of its step is still to come."""
    import impact_pl.data.datamodule as datamodule

    whole = run(config, "whole", 6)
    config.name = "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "LatentDataset", InterruptedValidation)
        for _ in range(2):  # the second time in the validation that is made up for
            assert train(config).exit_code == 138
            assert checkpoint_of(config)["global_step"] == 4
            assert checkpoint_of(config)["callbacks"]["Checkpoints"] == {"validation_owed": True}
            assert figures(config, "stopped") == figures(config, "whole")[:5]  # title, steps 1 to 4
            next_second()
    parts = run(config, "stopped", 6)
    assert_same({k: whole[k] for k in STATE}, {k: parts[k] for k in STATE})
    assert figures(config, "stopped") == figures(config, "whole")
    events = EventAccumulator(str(run_dir(config).with_name("stopped"))).Reload()
    assert [event.step for event in events.Scalars("valid/loss")] == [4]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("log_every", [1, 3])  # a row of step 4, or none
def test_a_kill_between_an_owed_validation_and_its_checkpoint(config, monkeypatch, log_every):
    """The figure is logged, the checkpoint still owes it: written again, it is there once."""
    import impact_pl.data.datamodule as datamodule
    from impact_pl.training import callbacks

    config.trainer.log_every_steps = log_every
    run(config, "whole", 6)
    config.name = "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "LatentDataset", InterruptedValidation)
        assert train(config).exit_code == 138

    def killed(trainer, path):
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        next_second()
        patch.setattr(callbacks, "save_checkpoint", killed)
        with pytest.raises(KeyError, match="killed"):
            train(config)
    assert len(figures(config, "stopped")) == 1 + 4 // log_every + 1  # title, training, validation
    next_second()
    run(config, "stopped", 6)
    assert figures(config, "stopped") == figures(config, "whole")
    for tag in ("train/loss", "valid/loss"):
        whole, stopped = (
            EventAccumulator(str(run_dir(config).with_name(name))).Reload().Scalars(tag)
            for name in ("whole", "stopped")
        )
        assert [event.step for event in stopped] == [event.step for event in whole]
        assert [event.value for event in stopped] == pytest.approx([event.value for event in whole], rel=1e-5)


def test_a_checkpoint_is_later_than_the_validation_of_its_step(config, monkeypatch):
    """Killed in a validation, a training starts again before it: no figure can be missing."""
    import impact_pl.data.datamodule as datamodule

    config.trainer.checkpoint_every_steps = 2
    run(config, "whole", 6)
    config.name = "killed"
    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "LatentDataset", BrokenValidation)
        with pytest.raises(ValueError, match="unreadable"):
            train(config)
    assert checkpoint_of(config)["global_step"] == 2
    run(config, "killed", 6)
    assert figures(config, "killed") == figures(config, "whole")


class StopsWhileOpening(LatentDataset):
    """A signal after our handlers are in place, while Lightning sets up."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        signal.raise_signal(signal.SIGUSR1)


def test_a_signal_during_set_up_waits_and_stops_before_the_first_step(config, monkeypatch, capsys):
    import impact_pl.data.datamodule as datamodule

    with monkeypatch.context() as patch:
        patch.setattr(datamodule, "LatentDataset", StopsWhileOpening)
        assert train(config).exit_code == 138
    assert "before the first step; nothing to save" in capsys.readouterr().out
    assert not (run_dir(config) / "checkpoints" / "last.ckpt").exists()
    assert train(config).exit_code == 0


def test_signal_before_the_first_step_ends_without_a_checkpoint(config, monkeypatch, capsys):
    import impact_pl.training.fit as fit

    def new_module(*args):
        signal.raise_signal(signal.SIGTERM)
        return original(*args)

    original = fit.new_module
    monkeypatch.setattr(fit, "new_module", new_module)
    assert train(config).exit_code == 143
    assert "nothing to save" in capsys.readouterr().out
    assert not run_dir(config).exists()


def test_finished_run_says_so_and_writes_a_lost_model_again(config, capsys):
    run(config, "run", 2)
    (run_dir(config) / "model" / "config.json").unlink()
    config.trainer.max_steps = 2
    assert train(config).exit_code == 0
    assert "already trained to 2 steps" in capsys.readouterr().out
    assert (run_dir(config) / "model" / "config.json").is_file()


def test_a_resumed_training_keeps_its_global_batch_or_says_that_it_changed(config, capsys):
    config.trainer.accumulate_grad_batches = 2
    assert run(config, "run", 2)["LatentDataModule"]["global_batch_size"] == 8
    config.trainer.accumulate_grad_batches, config.trainer.global_batch_size = 1, 8
    assert run(config, "run", 3)["LatentDataModule"]["samples_consumed"] == 24
    assert "warning: a step takes" not in capsys.readouterr().out
    config.trainer.global_batch_size = 0
    assert run(config, "run", 4)["LatentDataModule"]["samples_consumed"] == 28
    assert "warning: a step takes 4 clips from here on" in capsys.readouterr().out


def test_a_kill_before_the_export_leaves_no_old_model(config, monkeypatch):
    import impact_pl.training.fit as fit

    def killed(*_):
        raise KeyError("killed")

    run(config, "run", 2)
    old = (run_dir(config) / "model" / "model.safetensors").read_bytes()
    config.trainer.max_steps = 4
    with monkeypatch.context() as patch:
        patch.setattr(fit, "export", killed)
        with pytest.raises(KeyError, match="killed"):
            train(config)
    assert not (run_dir(config) / "model" / "config.json").exists()
    assert train(config).exit_code == 0
    assert (run_dir(config) / "model" / "model.safetensors").read_bytes() != old


def test_another_trainings_run_directory_is_refused(config):
    run(config, "run", 1)
    for change, message in (
        (lambda c: setattr(c.model, "dim", 32), r"model\.dim 16 -> 32"),
        (lambda c: setattr(c, "stage", "pretrain"), "stage text -> pretrain"),
    ):
        other = copy.deepcopy(config)
        change(other)
        with pytest.raises(ValueError, match=message + r".*(name=|delete)"):
            train(other)
