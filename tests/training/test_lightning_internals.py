"""What we use of Lightning's inside is there: a new version that lacks a part is told by that part's name."""

import importlib
import signal

import pytest
from lightning import Trainer

from impact_pl.training.trainer import CHECKED_WITH, LOOP_STATE, PRIVATE, keep_handlers


@pytest.mark.parametrize("place", PRIVATE)
def test_private_parts_exist(place):
    module, names = place.split(":")
    part = importlib.import_module(module)
    for name in names.split("."):
        assert hasattr(part, name), f"{place} is gone since lightning {CHECKED_WITH}; it was {PRIVATE[place]}"
        part = getattr(part, name)


def test_loop_state_has_the_keys_that_a_resume_writes():
    state = Trainer(logger=False, accelerator="cpu").fit_loop.state_dict()
    missing = [key for key in LOOP_STATE if key not in state]
    assert not missing, f"lightning {CHECKED_WITH} had {missing} in the fit loop's state"
    assert "_batches_that_stepped" in state["epoch_loop.state_dict"]


def test_lightning_installs_no_signal_handlers():
    trainer = Trainer(logger=False, accelerator="cpu")
    keep_handlers(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) == before
