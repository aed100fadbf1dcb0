"""DeepSpeed's ZeRO 1 and 2 under Lightning, with the numerics and checkpoints of the other strategies."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch import Tensor, nn

STATES = ("exp_avg", "exp_avg_sq")  # of AdamW, with one number per parameter number


class EnginePrecision(DeepSpeedPrecision):
    """32-true, or bf16-mixed by autocast inside the engine. Weights, gradients and optimizer are float32 in both."""

    def __init__(self, precision: Any):
        super().__init__(precision)
        self._desired_dtype = torch.float32  # dtype of the inputs

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        # Lightning has already divided the loss by the number of micro-batches.
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO ``stage`` 1 (sharded optimizer state) or 2 (sharded gradients as well), on GPUs or CPUs.

    A checkpoint is the usual single file: the optimizer's state is gathered by parameter, which takes 8 bytes of host
    memory per parameter on rank zero, and is sharded again when it is read. Any number of processes and any other
    strategy can therefore resume it.
    """

    def __init__(self, stage: int, precision: str):
        for text in ("Since DeepSpeed handles gradient clipping", "`torch.distributed.all_gather_into_tensor`"):
            warnings.filterwarnings("ignore", message=text)  # clip_in_engine; internal to DeepSpeed
        super().__init__(stage=stage, precision_plugin=EnginePrecision(precision))
        assert isinstance(self.config, dict)
        if precision == "bf16-mixed":
            # The engine disables autocast around itself unless told otherwise. Without a list of modules it would also
            # reduce their gradients in bf16.
            self.config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}

    def _format_config(self) -> None:
        # Lightning's own would turn bf16-mixed into DeepSpeed's bf16 (weights in bf16, with a float32 copy).
        self._format_batch_size_and_grad_accum_config()

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # Lightning's class rejects CPUs

    def setup_distributed(self) -> None:
        import deepspeed

        if self.root_device.type == "cpu":
            # A shared-memory all-reduce, which would be compiled now for a minute; gloo's is sufficient.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, torch.optim.Optimizer]:
        import deepspeed

        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        engine, zero, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, zero

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)
        zero: Any = self.optimizers[0]
        zero.refresh_fp32_params()  # the shards that it updates

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return AdamW's state dict on rank zero; the other ranks only take part in gathering."""
        from deepspeed.utils import safe_get_full_optimizer_state

        _link_states(optimizer)
        base = optimizer.optimizer
        step = next(iter(base.state.values()))["step"].cpu()
        state: dict[int, dict[str, Tensor]] = {}
        for i, parameter in enumerate(self._parameters):
            whole = {name: safe_get_full_optimizer_state(parameter, name) for name in STATES}
            if self.is_global_zero:
                state[i] = {"step": step.clone(), **{name: value.cpu() for name, value in whole.items()}}
        groups = []
        first = 0
        for group, parameters in zip(base.param_groups, optimizer.bit16_groups, strict=True):
            groups.append({**group, "params": list(range(first, first + len(parameters)))})
            first += len(parameters)
        return {"state": state, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        zero: Any = self.optimizers[0]
        (stored,) = checkpoint["optimizer_states"]
        for group, saved in zip(zero.optimizer.param_groups, stored["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key not in ("params", "param_names")})
        for partition in zero.single_partition_of_fp32_groups:  # what AdamW creates in its first step
            step = torch.zeros((), dtype=torch.float32, device=partition.device)
            step.fill_(stored["state"][0]["step"])
            zero.optimizer.state[partition] = {"step": step, **{name: torch.zeros_like(partition) for name in STATES}}
        _link_states(zero)
        for i, parameter in enumerate(self._parameters):
            for name in STATES:
                safe_set_full_optimizer_state(parameter, stored["state"][i][name].to(parameter.device), name)


def _link_states(zero: Any) -> None:
    """Link parameters to their share of the optimizer's state.

    DeepSpeed does this once, after the first step of the first parameter group, which is too early for the second.
    """
    zero._hp_optimizer_states_linked = False
    zero._lazy_init_hp_params_optimizer_state()


def clip_in_engine(model: nn.Module, optimizer: Any, max_norm: float | None) -> float:
    """Return the global norm, infinite if it is not a number. The engine clips by it in the following step."""
    return float(optimizer.scaled_global_norm())
