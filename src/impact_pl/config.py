"""Typed configuration of every command. The YAML files under conf/ hold names and numbers only.

Hydra composes ``conf/``, these dataclasses validate it (a misspelt key fails and names the class), and
``OmegaConf.to_object`` passes plain dataclasses to Python. Nothing below the commands imports hydra.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from impact_pl.errors import UserError

# Ranges for a model's config.json, which may come from an untrusted source.
Count = Annotated[int, Ge(1), Le(4096)]
Size = Annotated[int, Ge(1), Le(1 << 16)]
Length = Annotated[int, Ge(1), Le(1 << 24)]
Kernel = Annotated[int, Ge(0), Le(4095)]
Depth = Annotated[int, Ge(1), Le(512)]
Factor = Annotated[float, Gt(0), Le(64)]
Share = Annotated[float, Ge(0), Lt(1)]

PADDINGS = ("silence", "repeat")  # how short sounds are padded (audio.fit_length)


@dataclass
class MaskRatioConfig:
    """Masked fraction: ``truncated_normal`` (MAR; mean 1, std 0.25, on [low, 1]) or ``fixed`` (IMPACT's q).

    Both scatter the mask. With probability ``span_share`` a batch is masked by spans instead, as editing does: one
    contiguous stretch per clip, at a place of its own, whose fraction is uniform in [span_low, span_high].
    """

    kind: str = "truncated_normal"
    low: float = 0.7  # lower bound of truncated_normal
    std: float = 0.25
    value: float = 0.7  # q, for kind=fixed
    span_share: float = 0.0  # fraction of the batches that are masked by spans
    span_low: float = 0.1
    span_high: float = 0.5


@dataclass
class ModelConfig:
    """Shape of an Impact model. Latent and text shapes come from the shards."""

    dim: Size = 768  # D
    depth: Depth = 12  # blocks in each of the two encoder stages
    num_heads: Count = 12
    mlp_ratio: Factor = 4.0
    dropout: Share = 0.1  # on the projections in attention and MLP (MAR: 0.1)
    attention_dropout: Share = 0.0  # MAR: 0.1; a value above 0 disables SDPA's fused kernels on CPUs
    patch_size: Count = 1  # p: latents (C, H, W) -> H/p * W/q patches of C*p*q numbers, q = min(p, W)
    max_patches: Length = 256
    local_kernel: Kernel = 0  # size of a depthwise convolution over patches (for short runs); 0: none, as in MAR
    text_padding: int = -1  # learned positions attended to in addition to a caption's; -1: all (docs/recipes.md)
    pooled_text: bool = False  # add the mean of a caption's token states, projected, to every text position
    head: str = "diffusion"  # diffusion (the paper's) | attention | mse | discrete | consistency (models/heads)
    head_width: Size = 1024
    head_depth: Depth = 3
    prediction: str = "noise"  # target of the diffusion head: noise (MAR) | velocity (for short runs)
    num_timesteps: Length = 1000
    diffusion_batch_mul: Count = 4  # timesteps drawn per masked position
    num_codebooks: Count = 8  # head=discrete: residual codebooks, each quantising the remainder of the previous ones
    codebook_size: Length = 1024  # codes per codebook
    mask_ratio: MaskRatioConfig = field(default_factory=MaskRatioConfig)


@dataclass
class DecodingConfig:
    """Decoding settings for generation (IMPACT Sec. 3.2). ``guidance_scale`` is beta_max; 1 disables guidance.

    The field names are the same in Python (``pipeline(..., num_iterations=16)``) and in a model's config.json. ``impact
    generate`` has an option for each.
    """

    num_iterations: int = 64  # T
    num_diffusion_steps: int = 100
    guidance_scale: float = 5.0
    guidance_schedule: str = "cosine"  # cosine (IMPACT: from beta_max to 1) | constant | linear (MAR: increases)
    temperature: float = 1.0  # scales the noise added by steps; with ddim or head=consistency also the initial noise
    min_alpha_bar: float = 1e-3  # fraction of signal at which sampling starts; 0: last timestep, as in MAR
    max_rms: float = 0.0  # bound on the RMS of a denoised patch, in standard deviations of the data; 0: none, as in MAR
    order: str = "random"  # random (IMPACT) | confidence
    confidence_candidates: int = 4  # draws per position with order=confidence or reveal=adaptive
    confidence_steps: int = 10  # diffusion steps per such draw
    reveal: str = "cosine"  # revealing schedule: cosine (IMPACT) | linear | sqrt (schedules.py) | adaptive (decoding)
    final_diffusion_steps: int = 0  # decrease the diffusion steps to this number by the last iteration; 0: constant
    solver: str = "ancestral"  # ancestral (IMPACT, MAR) | ddim; see sampling/solvers.py
    encoder_reuse: int = 1  # run the full encoder in every n-th iteration, reuse its results in between
    engine: str = "fused"  # fused | reference (LTH14/mar's operations in their order); inference/engine.py
    precision: str = "32-true"  # 32-true | bf16 | auto (bf16 if the hardware supports it natively)


DECODING_CHOICES = {  # valid values of the fields that hold names
    "guidance_schedule": ("cosine", "constant", "linear"),
    "order": ("random", "confidence"),
    "reveal": ("cosine", "linear", "sqrt", "adaptive"),
    "solver": ("ancestral", "ddim"),
    "engine": ("fused", "reference"),
    "precision": ("32-true", "bf16", "auto"),
}

# `impact generate --preset`: changes to the model's own decoding settings.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {},
    "fast": {"num_iterations": 16, "num_diffusion_steps": 25, "final_diffusion_steps": 5, "precision": "auto"},
}


def with_preset(own: DecodingConfig, preset: str, given: dict[str, Any]) -> DecodingConfig:
    """Apply a preset's changes to a model's own decoding settings, then the ``given`` ones.

    A preset only lowers numbers of iterations or steps, and its final steps never exceed the requested steps.
    """
    if preset not in PRESETS:
        raise UserError(f"preset = {preset!r}: choose {' or '.join(PRESETS)}")
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


def _sample_decoding() -> DecodingConfig:
    """Decoding during training, which needs the reference engine: the weights may be sharded and change every step."""
    return DecodingConfig(engine="reference")


@dataclass
class OptimConfig:
    """AdamW and its schedule: linear warm-up, then constant, then (not in the paper) an optional decay."""

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    warmup_steps: int = 1000
    decay_steps: int = 0  # linear decay of the learning rate to 0 over the last steps; 0: no decay
    gradient_clip: float = 3.0
    ema_decay: float = 0.9999
    ema_warmup: bool = True  # a faster average at first, so that short runs have one; MAR: false


@dataclass
class LoraConfig:
    """Low-rank adapters instead of all weights (arXiv 2106.09685): needs ``init_from`` and the extra ``tune``."""

    rank: int = 0  # 0: train all weights
    alpha: float = 16.0  # the change of a weight is multiplied by alpha / rank
    targets: list[str] = field(default_factory=lambda: ["qkv", "proj", "fc1", "fc2"])  # attention and MLPs, head's too


@dataclass
class DistillConfig:
    """Distillation of the consistency head from its teacher (stage=distill; training/distillation.py).

    Noise and guidance follow ``decoding``: its temperature, min_alpha_bar and guidance_scale.
    """

    num_positions: int = 64  # masked positions per clip, at most; the teacher's paths dominate the cost of a step
    num_diffusion_steps: int = 25  # steps per path


@dataclass
class DataConfig:
    """Location of latent shards, and batching. ``path`` holds train/ and valid/, each with an index.json."""

    path: str = ""  # a folder, or a URL that fsspec opens: https://..., s3://..., "pipe:aws s3 cp s3://bucket/%s -"
    cache: str = ""  # per-node folder for copies of the shards; empty: only URLs are copied, to $TMPDIR/impact_pl-<uid>
    cache_gb: float = 0.0  # maximum size of the copies; 0: unlimited
    block_shards: int = 0  # shards that are shuffled together; 0: all; see data/order.py
    batch_size: int = 16  # clips per process and step
    num_workers: int = 0
    replay: str = ""  # folder of further shards, such as sounds of an earlier model, against forgetting it
    replay_share: float = 0.25  # fraction of each batch that comes from them
    random_shift: bool = False  # start clips at a random frame and wrap around (for small data sets)
    caption_dropout: float = 0.1  # fraction of captions replaced by the null condition (stage 2)
    token_dropout: float = 0.0  # largest share of a caption's positions replaced likewise; the first is kept
    text_encoder: str = ""  # stage 2: expected text encoder; empty: whichever the shards were made with
    encode_captions: bool = False  # run text_encoder during training, even if the shards have features
    text_features: list[str] = field(default_factory=list)  # names of the features to train with; empty: all


@dataclass
class TrainerConfig:
    """Settings for Lightning's Trainer. ``strategy``: auto | ddp | fsdp2 | deepspeed (training/strategies.py)."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"  # auto: bf16-mixed if the hardware supports bf16 natively, else 32-true
    max_steps: int = 100_000
    accumulate_grad_batches: int = 1
    global_batch_size: int = 0  # clips per step over all processes; sets accumulate_grad_batches; 0: unset
    log_every_steps: int = 10
    validate_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    sample_every_steps: int = 0  # 0: no audio samples
    stall_minutes: float = 30.0  # abort with a stack dump after this time without a batch; 0: never
    max_skipped_steps: int = 0  # skip up to this many steps with non-finite gradients, then stop
    compile: bool = False  # compile the transformer blocks with torch.compile
    activation_checkpointing: bool = False  # on the transformer blocks: less memory, a third more compute
    zero_stage: int = 2  # strategy=deepspeed: 1 shards the optimizer state, 2 the gradients too


@dataclass
class CodecConfig:
    """Training of the codec's decoder (experiment=codec) and of the fast vocoder (experiment=vocoder)."""

    latent_channels: int = 0  # principal components kept; 256: all of the mel; 0: those of init_from, or 64
    decoder_dim: int = 256
    decoder_depth: int = 8  # ConvNeXt blocks
    mel_corrections: int = 1  # steps towards the latents' mel spectrogram after decoding; init_from overrides it
    crop_seconds: float = 1.6
    latent_noise: float = 0.3  # maximum error on the latents, as a fraction of their overall standard deviation


@dataclass
class TrainConfig:
    """Configuration of `impact train`: one stage of training."""

    name: str = "run"  # the run directory is runs_dir/name, so the same command resumes from its checkpoint
    stage: str = "pretrain"  # pretrain | text | distill | codec
    runs_dir: str = "runs"
    seed: int = 0
    init_from: str = (
        ""  # run directory, checkpoint or model folder to start from, builtin, or mar:/path/to/mar.safetensors
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    # For audio samples during training, and stored as the model's own; stage=distill learns it.
    decoding: DecodingConfig = field(default_factory=_sample_decoding)
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
    padding: str = "silence"  # how shorter recordings are padded: silence, or repeat
    samples_per_shard: int = 256
    batch_size: int = 1  # clips encoded together; more than one only pays off on GPUs
    device: str = "auto"  # auto: cuda if available, else mps, else cpu
    workers: int = 1  # processes on this machine
    task: int = -1  # index of this call's share of the shards, of num_tasks; -1: the SLURM array's task, or everything
    num_tasks: int = 0
