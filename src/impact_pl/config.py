"""Typed configuration of every command; the YAML files under conf/ hold names and numbers only.

Hydra composes ``conf/``, these dataclasses check it (a misspelt key fails and names the class), and
``OmegaConf.to_object`` hands plain dataclasses to Python. Nothing below the commands imports hydra.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

# Ranges of a model's config.json, which may come from a stranger.
Count = Annotated[int, Ge(1), Le(4096)]
Size = Annotated[int, Ge(1), Le(1 << 16)]
Length = Annotated[int, Ge(1), Le(1 << 24)]
Depth = Annotated[int, Ge(1), Le(512)]
Factor = Annotated[float, Gt(0), Le(64)]
Share = Annotated[float, Ge(0), Lt(1)]

PADDINGS = ("silence", "repeat")  # what follows a sound that is too short (audio.fit_length)


@dataclass
class MaskRatioConfig:
    """Masked share in training: ``truncated_normal`` (MAR; mean 1, std 0.25, on [low, 1]) or ``fixed`` (S1's q)."""

    kind: str = "truncated_normal"
    low: float = 0.7  # lower bound of truncated_normal
    std: float = 0.25
    value: float = 0.7  # q of fixed


@dataclass
class ModelConfig:
    """Shape of an Impact model. Latent and text shapes come from the shards, not from here."""

    dim: Size = 768  # D
    depth: Depth = 12  # blocks in Enc1, and again in Enc2
    num_heads: Count = 12
    mlp_ratio: Factor = 4.0
    dropout: Share = 0.1  # of the projections in attention and MLP (MAR: 0.1)
    attention_dropout: Share = 0.0  # MAR: 0.1; above 0 it forces SDPA off its fused kernels
    patch_size: Count = 1  # p: latents (C, H, W) -> H/p * W/q patches of C*p*q numbers, q = min(p, W)
    max_patches: Length = 256
    local_kernel: int = 0  # patches that a patch sees besides attention, of each channel (for short trainings); 0: MAR
    text_padding: int = -1  # learned positions beside a caption's, the rest is not there; -1: all (docs/recipes.md)
    head: str = "diffusion"  # diffusion (the paper's) | attention | mse | discrete | consistency (models/heads)
    head_width: Size = 1024
    head_depth: Depth = 3
    prediction: str = "noise"  # what the diffusion head predicts: noise (MAR) | velocity (for short trainings)
    num_timesteps: Length = 1000
    diffusion_batch_mul: Count = 4  # timesteps drawn for each masked position
    num_codebooks: Count = 8  # of head=discrete: each quantises what the ones before left over
    codebook_size: Length = 1024  # codes in each of them
    mask_ratio: MaskRatioConfig = field(default_factory=MaskRatioConfig)


@dataclass
class DecodingConfig:
    """How sounds are generated (IMPACT Sec. 3.2). ``guidance_scale`` is beta_max; 1 switches guidance off.

    The field names are the same in Python (``pipeline(..., num_iterations=16)``) and in a model's config.json;
    ``impact generate`` has an option for each.
    """

    num_iterations: int = 64  # T
    num_diffusion_steps: int = 100
    guidance_scale: float = 5.0
    guidance_schedule: str = "cosine"  # cosine (S1: falls from beta_max to 1) | constant | linear (MAR: rises)
    temperature: float = 1.0  # factor of the noise that steps add; ddim, head=consistency: also of what they start from
    min_alpha_bar: float = 1e-3  # sampling starts where this share of signal is left; 0: at the last timestep, as MAR
    order: str = "random"  # random (S1) | confidence
    confidence_candidates: int = 4  # draws per position with order=confidence or reveal=adaptive
    confidence_steps: int = 10  # diffusion steps of each such draw
    reveal: str = "cosine"  # patches an iteration: cosine (S1) | linear | sqrt (masking.py) | adaptive (decoding.py)
    final_diffusion_steps: int = 0  # diffusion steps fall to so many in the last iteration; 0: always the same
    solver: str = "ancestral"  # ancestral (IMPACT, MAR) | ddim; see sampling/solvers.py
    encoder_reuse: int = 1  # the encoder computes all in every so many iterations, else what is new; 1: always all
    engine: str = "fused"  # fused | reference (LTH14/mar's operations in their order); inference/engine.py
    precision: str = "32-true"  # 32-true | bf16 | auto (bf16 where the processor computes in it)


DECODING_CHOICES = {  # of the fields that are names
    "guidance_schedule": ("cosine", "constant", "linear"),
    "order": ("random", "confidence"),
    "reveal": ("cosine", "linear", "sqrt", "adaptive"),
    "solver": ("ancestral", "ddim"),
    "engine": ("fused", "reference"),
    "precision": ("32-true", "bf16", "auto"),
}

# `impact generate --preset`: changes to the model's own decoding.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {},
    "fast": {"num_iterations": 16, "num_diffusion_steps": 25, "final_diffusion_steps": 5, "precision": "auto"},
}


def with_preset(own: DecodingConfig, preset: str, given: dict[str, Any]) -> DecodingConfig:
    """Apply a preset's changes to a model's own decoding, then those ``given``.

    A preset only ever lowers a number of iterations or steps, and its final steps never exceed the steps asked for.
    """
    changes = dict(PRESETS[preset])
    for name in ("num_iterations", "num_diffusion_steps"):
        if name in changes:
            changes[name] = min(changes[name], getattr(own, name))
    changed = replace(own, **changes | given)
    if "final_diffusion_steps" in given:
        return changed
    return replace(changed, final_diffusion_steps=min(changed.final_diffusion_steps, changed.num_diffusion_steps))


def _loggers() -> dict[str, dict[str, Any]]:
    return {"tensorboard": {}, "csv": {}}


def _of_samples() -> DecodingConfig:
    """While training: from the weights where they lie, which may be sharded and change with every step."""
    return DecodingConfig(engine="reference")


@dataclass
class OptimConfig:
    """AdamW and its schedule: linear warm-up, then constant, then (not in the paper) a decay."""

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    warmup_steps: int = 1000
    decay_steps: int = 0  # over the last so many steps the learning rate falls linearly to 0; 0: it stays
    gradient_clip: float = 3.0
    ema_decay: float = 0.9999


@dataclass
class DistillConfig:
    """What a one-step head sees of its teacher (stage distill; models/teacher.py).

    Noise and guidance are those of ``decoding``: its temperature, min_alpha_bar and guidance_scale.
    """

    num_positions: int = 64  # of a clip's masked ones, at most: the teacher's paths cost more than all else in a step
    num_diffusion_steps: int = 25  # of a path


@dataclass
class DataConfig:
    """Where latent shards lie and how they are batched. ``path`` holds train/ and valid/, each with an index.json."""

    path: str = ""  # a folder, or a URL that webdataset opens: https://..., gs://..., "pipe:aws s3 cp s3://bucket/%s -"
    cache: str = ""  # folder for a node's own copies of the shards; empty: of URLs only, in $TMPDIR/impact_pl-<uid>
    cache_gb: float = 0.0  # most that the copies may take, 0: no limit
    block_shards: int = 0  # shards that are shuffled together, 0: all; see data/order.py
    batch_size: int = 16  # clips a process and step
    num_workers: int = 0
    random_shift: bool = False  # begin clips at any of their frames, the beginning after the end: for small data sets
    caption_dropout: float = 0.1  # share of prompts replaced by the null condition (stage 2)
    text_encoder: str = ""  # stage 2: whose features; empty: those in the shards, whoever made them
    encode_captions: bool = False  # by text_encoder while training, even where the shards have features
    text_features: list[str] = field(default_factory=list)  # names of those to train with; empty: all


@dataclass
class TrainerConfig:
    """What Lightning's Trainer needs. ``strategy``: auto | ddp | fsdp2 | deepspeed (training/strategies.py)."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto: bf16-mixed where the processor computes in bf16, else 32-true
    max_steps: int = 100_000
    accumulate_grad_batches: int = 1
    global_batch_size: int = 0  # clips a step, over all processes: sets accumulate_grad_batches; 0: what comes out
    log_every_steps: int = 10
    validate_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    sample_every_steps: int = 0  # 0: no audio in TensorBoard
    stall_minutes: float = 30.0  # without a batch, after which the process says where it stands and ends; 0: never
    max_skipped_steps: int = 0  # steps with a gradient that is not finite are left out, up to so many; then it stops
    compile: bool = False  # the transformer blocks, by torch.compile
    activation_checkpointing: bool = False  # of the transformer blocks: less memory, a third more arithmetic
    zero_stage: int = 2  # strategy=deepspeed: 1 splits the optimizer's state over processes, 2 the gradients too


@dataclass
class CodecConfig:
    """Training of the built-in codec's decoder (experiment=codec)."""

    decoder_dim: int = 256
    decoder_depth: int = 8  # ConvNeXt blocks
    mel_corrections: int = 1  # steps towards the latents' mel spectrogram after decoding; init_from brings its own
    crop_seconds: float = 1.6
    latent_noise: float = 0.3  # most error on the latents, as a share of their overall standard deviation


@dataclass
class TrainConfig:
    """`impact train`: one stage of training."""

    name: str = "run"  # the run directory is runs_dir/name: the same command finds its checkpoint again
    stage: str = "pretrain"  # pretrain | text | distill | codec
    runs_dir: str = "runs"
    seed: int = 0
    init_from: str = ""  # checkpoint or model folder of the stage before; or mar:/path/to/mar.safetensors
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    decoding: DecodingConfig = field(
        default_factory=_of_samples
    )  # of audio while training, and the model's own; stage=distill learns it
    distill: DistillConfig = field(default_factory=DistillConfig)  # stage=distill only
    codec: CodecConfig = field(default_factory=CodecConfig)  # stage=codec only
    logger: dict[str, dict[str, Any]] | None = field(default_factory=_loggers)  # name -> Lightning's arguments
    experiment: Any = None


@dataclass
class PrecomputeConfig:
    """`impact precompute`: manifest.jsonl -> out/<split>/{000000.tar, index.json} and out/rejected.jsonl."""

    manifest: str = ""
    out: str = ""
    codec: str = "builtin"
    text_encoder: str = "minilm"
    clip_seconds: float = 10.24
    padding: str = "silence"  # what follows a shorter recording: silence, or repeat
    samples_per_shard: int = 256
    batch_size: int = 1  # clips encoded together; more than one pays off on GPUs only
    device: str = "auto"  # auto: cuda if there, else mps, else cpu
    workers: int = 1  # processes on this machine
    task: int = -1  # this call's share of the shards is number task of num_tasks; -1: the SLURM array's task, or all
    num_tasks: int = 0
