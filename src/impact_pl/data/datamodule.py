"""Lightning data module for latent shards: deterministic order, equal batch counts on all ranks, exact resume."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning import LightningDataModule, Trainer
from torch.utils.data import ConcatDataset, DataLoader

from impact_pl.config import DataConfig
from impact_pl.data.cache import ShardCache, default_folder
from impact_pl.data.index import INDEX_NAME, Producer, ShardIndex
from impact_pl.data.loader import latent_loader
from impact_pl.data.order import MixedStream, SampleStream, SlotSampler, ValidationSampler
from impact_pl.data.remote import is_url, join
from impact_pl.data.shards import LatentDataset
from impact_pl.errors import UserError
from impact_pl.secrets import mask_secrets
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.registry import load_text_encoder

logger = logging.getLogger(__name__)

ORDER_KEYS = {
    "block_shards": "data.block_shards",
    "seed": "seed",
    "num_samples": "clips in data.path",
    "replay": "percent of data.replay",
}


@dataclass
class SingleProcess:
    """Stand-in for the Trainer attributes used here, for reading without a Trainer."""

    max_steps: int
    global_step: int = 0
    global_rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_devices: int = 1
    accumulate_grad_batches: int = 1
    limit_val_batches: float = 1.0


class LatentDataModule(LightningDataModule):
    """Read ``path/train`` and ``path/valid``. The state in a checkpoint is the number of samples consumed.

    Note:
        Lightning must see a loader that has a length and no ``state_dict``, and must not replace its sampler
        (``use_distributed_sampler=False``). Its own count of batches then agrees with this class's position.

    A batch's "text" is what the shards contain, or the features that ``config.text_encoder`` computes from the captions
    on the device. That encoder is not part of the model: no optimizer, average or checkpoint includes it.

    Args:
        path: Folder or URL of the shards, or a configuration that contains it. After ``setup()`` the batches can also
            be read without a trainer.
        seed: Seed of the order.
        with_text: False if captions are not used (stage 1); no text encoder is loaded then.
        settings: Other fields of DataConfig, such as ``batch_size``.

    Raises:
        UserError: There are no shards at the path, their features are from another encoder than the requested one, or
            the cache is too small for one block of shards.
    """

    trainer: Trainer

    def __init__(self, path: str | Path | DataConfig, seed: int = 0, with_text: bool = True, **settings: Any):
        super().__init__()
        config = path if isinstance(path, DataConfig) else DataConfig(path=str(path), **settings)
        if not config.path:
            raise UserError("data.path is empty: pass data.path=FOLDER, the `out` folder of `impact precompute`")
        self.config, self.seed = config, seed
        self.index = ShardIndex.load(join(config.path, "train"))
        if not all("crc32" in shard for shard in self.index.shards):
            logger.warning(
                "%s: made without checksums, so damage cannot be found when it is read", mask_secrets(config.path)
            )
        self.index.forget_offsets()
        self.text_encoder = self._find_text_encoder() if with_text else None
        self.cache = self._make_cache()
        self._consumed_at_resume = 0
        self._step_at_resume = 0

    @property
    def _trainer_like(self) -> "Trainer | SingleProcess":
        """The trainer, or a stand-in for a single process that reads one epoch."""
        return self.trainer or SingleProcess(max_steps=-(-self.index.num_samples // self.config.batch_size))

    @property
    def _is_on_cuda(self) -> bool:
        """Whether the trainer computes on CUDA. Pinning memory for one on the CPU would create a CUDA context."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def setup(self, stage: str = "fit") -> None:
        self.train_set = self._open("train")
        self.replay_set = self._open_replay()
        valid = join(self.config.path, "valid")
        self.valid_set: LatentDataset | None = None
        if Path(valid, INDEX_NAME).is_file():
            self.valid_set = self._open("valid")
        elif is_url(valid) and self._trainer_like.limit_val_batches != 0:
            try:
                self.valid_set = self._open("valid")
            except ValueError as error:
                raise UserError(
                    f"{error}; if there is no valid split, trainer.validate_every_steps=0 trains without"
                ) from error

    def _open(self, split: str) -> LatentDataset:
        return LatentDataset(join(self.config.path, split), self.cache, with_text=self.text_encoder is None)

    def _open_replay(self) -> LatentDataset | None:
        """Open the shards of ``data.replay``, None without.

        Raises:
            UserError: They were made with another codec or text encoder, or have clips of another length.
        """
        folder = self.config.replay
        if not folder:
            return None
        replay = LatentDataset(folder, with_text=self.text_encoder is None)
        own, other = _made_with(self.index), _made_with(replay.index)
        changed = [f"{what} {other[what]}, not {own[what]}" for what in own if own[what] != other[what]]
        if changed:
            raise UserError(f"data.replay={folder} does not fit data.path={self.config.path}: {'; '.join(changed)}")
        return replay

    def _find_text_encoder(self) -> TextEncoder | None:
        """Return the encoder for captions.

        None if the shards' features are used. Updates ``index`` to describe the batches.
        """
        config, stored = self.config, self.index.text_encoder
        if not config.text_encoder:
            if config.encode_captions:
                raise UserError("data.encode_captions=true needs an encoder: name it with data.text_encoder=...")
            return None
        if config.text_encoder == "none":
            raise UserError("data.text_encoder=none: leave it empty, to take the features that the shards hold")
        encoder = load_text_encoder(config.text_encoder)
        if stored is not None and not config.encode_captions:
            if stored["identity"] != encoder.identity:
                raise UserError(
                    f"the shards in {config.path} hold features of text encoder {stored['name']!r} "
                    f"({stored['identity']}), not of {encoder.name!r} ({encoder.identity}): precompute them with "
                    "text_encoder= that one, or set data.encode_captions=true to encode captions while training"
                )
            return None
        self.index.text_encoder = cast(Producer, encoder.describe())
        return encoder

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Move a batch's captions through the text encoder on the device of its moments; Lightning calls this hook."""
        if self.text_encoder is None:
            return batch
        device = batch["moments"].device
        return batch | {"text": self.text_encoder.to(device).encode_known(batch["captions"]).to(device)}

    def _make_cache(self) -> ShardCache | None:
        """Create the node's shard cache; None to read the shards in place."""
        config = self.config
        if not (config.cache or is_url(config.path)):
            return None
        sizes = sorted((shard["bytes"] for shard in self.index.shards), reverse=True)
        # One block is read while the next is fetched. Without blocks, every shard may be read at any time.
        needed = sum(sizes[: 2 * config.block_shards] if config.block_shards else sizes)
        max_bytes = round(config.cache_gb * 1e9)
        if 0 < max_bytes < needed:
            raise UserError(
                f"data.cache_gb={config.cache_gb:g} is less than the {needed / 1e9:.3g} GB that "
                f"data.block_shards={config.block_shards} reads at a time: raise it, or choose "
                f"{'fewer' if config.block_shards else 'some'} block_shards (a shard has {sizes[0] / 1e9:.2g} GB)"
            )
        return ShardCache(Path(config.cache) if config.cache else default_folder(), max_bytes)

    @property
    def samples_consumed(self) -> int:
        """Training samples used by the optimizer steps so far, over all ranks."""
        return (
            self._consumed_at_resume + (self._trainer_like.global_step - self._step_at_resume) * self.global_batch_size
        )

    @property
    def global_batch_size(self) -> int:
        """Clips per optimizer step."""
        return self.config.batch_size * self._trainer_like.world_size * self._trainer_like.accumulate_grad_batches

    @property
    def num_valid_batches(self) -> int:
        """Validation batches over all ranks, counting each once."""
        return -(-len(self.valid_set) // self.config.batch_size) if self.valid_set is not None else 0

    def state_dict(self) -> dict[str, int | float]:
        consumed, step = self.samples_consumed, self._trainer_like.global_step
        return {
            "samples_consumed": consumed,
            "step": step,
            "global_batch_size": self.global_batch_size,
            **self._order(),
        }

    def _order(self) -> dict[str, int | float]:
        """Return the settings that determine the order of the samples."""
        return {
            "block_shards": self.config.block_shards,
            "seed": self.seed,
            "num_samples": self.index.num_samples,
            **({"replay": 100 * self.config.replay_share} if self.config.replay else {}),
        }

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Check that a training run with this state can continue on this data.

        Raises:
            UserError: The order of the samples would change.
        """
        before = {"block_shards": 0, "replay": 0, **state_dict}  # missing in states of earlier versions
        changed = [
            f"{ORDER_KEYS[key]}={now}, but this training began with {before[key]}"
            for key, now in {"replay": 0, **self._order()}.items()
            if before.get(key, now) != now
        ]
        if changed:
            raise UserError(
                f"{'; '.join(changed)}: another order would repeat some clips of the epoch and leave out others; set "
                "it back, or begin a new training: another name=, with init_from= this one's run directory"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.check_state(state_dict)
        self._consumed_at_resume = state_dict["samples_consumed"]
        self._step_at_resume = state_dict["step"]

    def train_dataloader(self) -> DataLoader:
        trainer = self._trainer_like
        if trainer.max_steps < 0:
            raise UserError("a training is counted in steps, not in epochs: give the Trainer max_steps=...")
        own = SampleStream(self.train_set.sizes, self.seed, self.config.block_shards)
        stream: SampleStream | MixedStream = own
        clips: LatentDataset | ConcatDataset = self.train_set
        if self.replay_set is not None:
            stream = MixedStream(own, SampleStream(self.replay_set.sizes, self.seed), self.config.replay_share)
            clips = ConcatDataset([self.train_set, self.replay_set])
        sampler = SlotSampler(
            stream,
            self.config.batch_size,
            start=self.samples_consumed,
            steps_done=trainer.global_step,
            max_steps=trainer.max_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
            prefetch=self._prefetch if self.cache else None,
        )
        return latent_loader(clips, sampler, self.config.num_workers, self._is_on_cuda)

    def _prefetch(self, shards: list[int]) -> None:
        """Fetch shards in order. The processes of a node start at different shards, so that each fetches some."""
        first = len(shards) * self._trainer_like.local_rank // max(1, self._trainer_like.num_devices)
        self.train_set.prefetch(shards[first:] + shards[:first])

    def val_dataloader(self) -> DataLoader | list:
        if self.valid_set is None or len(self.valid_set) == 0:
            return []
        trainer = self._trainer_like
        sampler = ValidationSampler(
            len(self.valid_set), self.config.batch_size, trainer.global_rank, trainer.world_size
        )
        return latent_loader(self.valid_set, sampler, self.config.num_workers, self._is_on_cuda)


def _made_with(index: ShardIndex) -> dict[str, Any]:
    """Return what two sets must have in common to share a batch."""
    text = index.text_encoder["identity"] if index.text_encoder else None
    return {"codec": index.codec["identity"], "text encoder": text, "latents": tuple(index.latents["shape"])}
