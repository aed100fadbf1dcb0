"""Private parts of Lightning that this project uses, in one place. Checked with lightning 2.6.6.

Public APIs are preferred. ``tests/training/test_lightning_internals.py`` fails, and names the part, if a new Lightning
version lacks one.
"""

from lightning import Trainer

CHECKED_WITH = "2.6.6"
PRIVATE = {  # module:attribute -> purpose
    "lightning.pytorch.trainer.connectors.signal_connector:_SignalConnector.register_signal_handlers": (
        "replaced by keep_handlers"
    ),
    "lightning.pytorch.plugins.precision.deepspeed:DeepSpeedPrecision.backward": "deepspeed.EnginePrecision",
    "lightning.pytorch.strategies:DeepSpeedStrategy._format_config": "overridden by deepspeed.ZeroStrategy",
    "lightning.pytorch.strategies:DeepSpeedStrategy._format_batch_size_and_grad_accum_config": "called there",
    "lightning.pytorch.strategies:DeepSpeedStrategy._init_deepspeed_distributed": "called there",
    "lightning.pytorch.strategies:DeepSpeedStrategy._setup_model_and_optimizer": "overridden there",
}
LOOP_STATE = (  # keys of trainer.fit_loop.state_dict(), written by checkpoint.rewind_loops
    "epoch_progress",
    "epoch_loop.state_dict",
    "epoch_loop.batch_progress",
    "epoch_loop.scheduler_progress",
    "epoch_loop.automatic_optimization.optim_progress",
)


def keep_handlers(trainer: Trainer) -> None:
    """Disable Lightning's SIGTERM handler. It communicates with other ranks from inside the handler and can deadlock.

    The Trainer has no argument to disable it.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
