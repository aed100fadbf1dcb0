"""The same training under every strategy: `python -m tests.helpers.strategies` prints how equal they are, as a table.

Each row is 20 steps of a tiny model on synthetic latents, in float32, with clipping, dropout and accumulation, by two
processes of this machine, against one process with twice the micro-batches. Exits with 1 where a bound is broken.
"""

import argparse
import copy
import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from lightning import Callback
from omegaconf import OmegaConf
from torch.distributed.tensor import DTensor

from impact_pl.config import DataConfig, DecodingConfig, ModelConfig, OptimConfig, TrainConfig, TrainerConfig
from impact_pl.data.index import ShardIndex
from impact_pl.errors import UserError
from impact_pl.inference.generate import generate
from impact_pl.training import fit
from impact_pl.training.checkpoint import find_checkpoint, read_checkpoint
from impact_pl.training.specs import build_spec
from lab.cards import scaling
from tests.helpers.latents import write_latents

NUM_SLOTS = 6  # micro-batches a step, over all processes
STEPS = 20
BOUND = 1e-5
MEMORY_BOUND = 0.02  # shards are not all of one size
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
ROWS = [("ddp", {}), ("fsdp2", {}), *([("deepspeed", {"zero_stage": stage}) for stage in (1, 2)] * HAS_DEEPSPEED)]


def configuration(root: Path, name: str, strategy: str, processes: int, **trainer: Any) -> TrainConfig:
    """A tiny stage 2 from scratch; the same training for any number of processes that divides NUM_SLOTS."""
    settings = {"accelerator": "cpu", "precision": "32-true", "max_steps": STEPS, "log_every_steps": 1} | trainer
    accumulate = NUM_SLOTS // processes
    return TrainConfig(
        name=name,
        stage="text",
        runs_dir=str(root),
        model=ModelConfig(
            dim=32, depth=2, num_heads=2, max_patches=8, head_width=32, head_depth=2, dropout=0.2, text_padding=1
        ),
        data=DataConfig(path=str(root / "latents"), batch_size=2, caption_dropout=0.3),
        trainer=TrainerConfig(
            devices=processes,
            strategy=strategy,
            accumulate_grad_batches=accumulate,
            validate_every_steps=10,
            **settings,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=5, ema_decay=0.9, gradient_clip=0.5),
    )


class Probe(Callback):
    """Notes, of one process: losses, gradient norms, bytes that it holds, seconds a step, and one generation."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {"losses": [], "norms": [], "bytes": {}, "error": None}

    def on_train_start(self, trainer, pl_module) -> None:
        self._started = time.perf_counter()
        self._first = trainer.global_step

    def on_after_backward(self, trainer, pl_module) -> None:
        (optimizer,) = trainer.optimizers
        gradients = [p.grad for p in pl_module.model.parameters() if p.grad is not None]
        partitions = getattr(optimizer, "averaged_gradients", {}).values()  # of ZeRO
        gradients += [g for partition in partitions if partition is not None for g in partition if g is not None]
        most = self.notes["bytes"].get("gradients", 0)
        self.notes["bytes"]["gradients"] = max(most, local_bytes(gradients))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.notes["losses"].append(float(pl_module.last_losses["loss"]))
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.notes["norms"].append(pl_module.gradient_norm)

    def on_train_end(self, trainer, pl_module) -> None:
        seconds = time.perf_counter() - self._started
        self.notes["seconds_per_step"] = seconds / max(1, trainer.global_step - self._first)
        (optimizer,) = trainer.optimizers
        copies = getattr(optimizer, "single_partition_of_fp32_groups", [])  # of ZeRO: what its AdamW steps on
        states = [value for state in optimizer.state.values() for value in state.values()]
        self.notes["bytes"] |= {
            "parameters": local_bytes(pl_module.model.parameters()),
            "average": local_bytes(pl_module.ema.parameters()),
            "optimizer": local_bytes([*states, *copies]),
        }
        averaged, batch = pl_module.ema.model, next(iter(trainer.val_dataloaders))
        decoding = DecodingConfig(num_iterations=2, num_diffusion_steps=4)
        latents = averaged.within_forward(
            generate, batch["text"], 8, len(batch["keys"]), decoding, torch.Generator().manual_seed(1)
        )
        self.notes["generated"] = latents.flatten().tolist()


def local_bytes(tensors) -> int:
    """Of what this process holds; storage that several share counts once."""
    local = [t.detach().to_local() if isinstance(t, DTensor) else t.detach() for t in tensors]
    return sum(nbytes for _, nbytes in {(t.data_ptr(), t.nbytes) for t in local if t.numel()})


def train(config: TrainConfig) -> dict[str, Any]:
    """``fit.train`` with a probe; a UserError is noted."""
    probe = Probe()
    try:
        probe.notes["code"] = fit.train(copy.deepcopy(config), callbacks=[probe]).exit_code
    except UserError as error:
        probe.notes["error"] = str(error)
    return probe.notes


def train_together(configs: list[TrainConfig], processes: int, folder: Path) -> list[list[dict[str, Any]]]:
    """Train one after the other in ``processes`` processes; the notes by training, then by process."""
    folder.mkdir(parents=True)
    (folder / "configs.json").write_text(json.dumps([dataclasses.asdict(config) for config in configs]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"  # for bf16: some virtual machines advertise AMX and have none
    workers = []
    for rank in range(processes):
        environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        with (folder / f"{rank}.log").open("w") as log:
            command = [sys.executable, __file__, "--worker", str(folder)]
            workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [worker.wait(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(codes):
        raise RuntimeError("\n".join(path.read_text()[-4000:] for path in sorted(folder.glob("*.log"))))
    notes = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return [list(of_one) for of_one in zip(*notes, strict=True)]


def work(folder: Path) -> None:
    """One process of :func:`train_together`."""
    plain = json.loads((folder / "configs.json").read_text())
    configs = [OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), one)) for one in plain]
    notes = []
    for config in configs:
        print(f"== {config.name}: {config.trainer.strategy} to step {config.trainer.max_steps}", flush=True)
        notes.append(train(config))
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(notes))


def losses(notes: list[dict[str, Any]]) -> torch.Tensor:
    """(steps,) the loss of each step, over processes and micro-batches."""
    by_process = torch.tensor([one["losses"] for one in notes], dtype=torch.float64)  # (processes, micro-batches)
    return by_process.reshape(len(notes), -1, NUM_SLOTS // len(notes)).mean(dim=(0, 2))


def weights(config: TrainConfig, prefix: str = "") -> dict[str, torch.Tensor]:
    """The last checkpoint's weights (``prefix`` "ema.": the averaged ones)."""
    state = read_checkpoint(find_checkpoint(Path(config.runs_dir) / config.name))["state_dict"]
    return {name: value for name, value in state.items() if name.startswith(prefix)}


def difference(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert mine.keys() == other.keys()
    return max(float((mine[name] - other[name]).abs().max()) for name in mine)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        return table(Path(temporary))


def table(root: Path) -> int:
    write_latents(root / "latents")
    names = [strategy + "".join(f", ZeRO {stage}" for stage in extra.values()) for strategy, extra in ROWS]
    two = [configuration(root, f"two{i}", strategy, 2, **extra) for i, (strategy, extra) in enumerate(ROWS)]
    one = configuration(root, "one", "auto", 1)
    ((expected,),) = train_together([one], 1, root / "work1")
    results = train_together(two, 2, root / "work2")
    print("\n| strategy | processes | loss differs by | EMA by | parameters | gradients | EMA | optimizer |", end="")
    print(" all, of what scaling.memory says | steps/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    is_broken = not print_row("one process", one, [expected], 0.0, 0.0)
    for name, config, notes in zip(names, two, results, strict=True):
        loss = float((losses(notes) - losses([expected])).abs().max())
        average = difference(weights(config, "ema."), weights(one, "ema."))
        is_broken |= not print_row(name, config, notes, loss, average)
    print(f"\nBytes are of the process that holds most. Bounds {BOUND:g} and {MEMORY_BOUND:.0%}:", end="")
    print(" BROKEN" if is_broken else " kept")
    return int(is_broken)


def print_row(name: str, config: TrainConfig, notes: list[dict[str, Any]], loss: float, average: float) -> bool:
    """Whether the bounds are kept."""
    most = [max(one["bytes"][what] for one in notes) for what in ("parameters", "gradients", "average", "optimizer")]
    settings = config.trainer
    strategy = {"auto": "ddp", "deepspeed": f"zero{settings.zero_stage}"}.get(settings.strategy, settings.strategy)
    spec = build_spec(config, ShardIndex.load(Path(config.data.path) / "train"), config.stage != "pretrain")
    state = scaling.memory(scaling.count_parameters(spec), strategy, settings.devices)
    share = sum(most) / (sum(state.values()) - state["gathered"])
    sizes = " | ".join(f"{size:,}" for size in most)
    speed = 1 / notes[0]["seconds_per_step"]
    print(f"| {name} | {settings.devices} | {loss:.1e} | {average:.1e} | {sizes} | {share:.3f} | {speed:.1f} |")
    return loss <= BOUND and average <= BOUND and abs(share - 1) <= MEMORY_BOUND


if __name__ == "__main__":
    sys.exit(main())
