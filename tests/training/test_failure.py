"""The note of the rank that failed first."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from impact_pl.errors import UserError
from impact_pl.training.callbacks import TrainingStopped
from impact_pl.training.failure import SIZE, FirstFailure

FULL = OSError(28, "No space left on device", "checkpoints/last.ckpt.partial")


def rank(number: int, world_size: int = 2) -> SimpleNamespace:
    return SimpleNamespace(world_size=world_size, global_rank=number, is_global_zero=number == 0)


def started(run_dir: Path) -> FirstFailure:
    failure = FirstFailure(run_dir)
    failure.setup(rank(0))
    return failure


def test_the_first_cause_is_kept_for_the_other_ranks(tmp_path):
    failure = started(tmp_path)
    assert failure.error_of_another(0) is None
    failure.on_exception(rank(1), None, FULL)
    failure.on_exception(rank(0), None, RuntimeError("Connection closed by peer"))
    said = str(failure.error_of_another(0))
    assert said.startswith("rank 1 failed first: checkpoints/last.ckpt.partial: No space left on device; free")
    assert failure.error_of_another(1) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("a damaged shard"), UserError),
        (FULL, UserError),
        (OSError(5, "Input/output error"), RuntimeError),
        (KeyError("a fault of ours"), RuntimeError),
    ],
)
def test_whose_mistake_it_was_is_kept(tmp_path, error, kind):
    failure = started(tmp_path)
    failure.on_exception(rank(0), None, error)
    assert type(failure.error_of_another(1)) is kind


def test_a_note_ends_with_its_training(tmp_path):
    failure = started(tmp_path)
    failure.on_exception(rank(1), None, FULL)
    failure.setup(rank(0))
    assert failure.error_of_another(0) is None


@pytest.mark.parametrize("ends", ["finished", "stopped"])
def test_a_training_without_failure_leaves_no_note(tmp_path, ends):
    failure = started(tmp_path)
    if ends == "finished":
        failure.on_fit_end(rank(0), None)
    else:
        failure.on_exception(rank(0), None, TrainingStopped())
    assert not list(tmp_path.iterdir())


def test_a_note_takes_no_more_room_than_was_reserved(tmp_path):
    failure = started(tmp_path)
    size = failure.path.stat().st_size
    failure.on_exception(rank(1), None, UserError("name\nof a file " * SIZE))
    assert failure.path.stat().st_size == size
    assert "\n" not in str(failure.error_of_another(0))


def test_one_process_and_a_folder_that_is_gone_need_no_note(tmp_path):
    failure = FirstFailure(tmp_path)
    failure.setup(rank(0, world_size=1))
    failure.on_exception(rank(0, world_size=1), None, FULL)
    assert not list(tmp_path.iterdir())
    failure = FirstFailure(tmp_path / "gone")
    failure.on_exception(rank(0), None, FULL)
    assert failure.error_of_another(1) is None
