"""Other text-to-audio systems in their published sizes, with random weights; text encoders are left out.

Each is timed in the part that it repeats (a U-Net's step, a pass over masked tokens, a token's step) and in the part
that turns the result into sound. All work on 2B rows, for guidance.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl.precision import PRECISIONS
from lab.benchmark.subject import VAE, VOCODER, Subject
from lab.benchmark.timing import median_seconds, seconds_of

TEXT_LENGTH = 77  # positions of a caption's tokens
GUIDANCE = 3.0
Sizes = dict[str, Any]  # of a model
UNET: Sizes = {  # shared by AudioLDM and AudioLDM2: 10.24 s are latents of 8 x 256 x 16
    "in_channels": 8, "out_channels": 8, "sample_size": 128, "layers_per_block": 2,
    "block_out_channels": [128, 256, 384, 640],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
}  # fmt: skip
AUDIOLDM_S = UNET | {  # cvssp/audioldm-s-full-v2, unet/config.json
    "cross_attention_dim": [128, 256, 384, 640], "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 512, "class_embeddings_concat": True,
}  # fmt: skip
AUDIOLDM2 = UNET | {"cross_attention_dim": [[None, 768, 1024]] * 4}  # cvssp/audioldm2: itself, GPT-2's, T5's states
TANGO: Sizes = {  # declare-lab/tango, configs/diffusion_model_config.json
    "in_channels": 8, "out_channels": 8, "sample_size": [32, 2], "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "use_linear_projection": True, "upcast_attention": True,
}  # fmt: skip
UNETS: dict[str, tuple[str, Sizes, dict[str, tuple[int, ...]]]] = {  # class in diffusers, sizes, shapes of conditions
    "AudioLDM-S": ("UNet2DConditionModel", AUDIOLDM_S, {"class_labels": (512,)}),  # one vector of CLAP
    "AudioLDM2": (
        "AudioLDM2UNet2DConditionModel", AUDIOLDM2,
        {"encoder_hidden_states": (8, 768), "encoder_hidden_states_1": (TEXT_LENGTH, 1024)},  # GPT-2's, T5's
    ),
    "Tango": ("UNet2DConditionModel", TANGO, {"encoder_hidden_states": (TEXT_LENGTH, 1024)}),  # Flan-T5-large's
}  # fmt: skip
MAGNET_SMALL: Sizes = {  # audiocraft, small.yaml
    "dim": 1024, "depth": 24, "num_heads": 16, "codebooks": 4, "codes": 2048,
}  # fmt: skip
MAGNET_PASSES = (20, 10, 10, 10)  # per codebook; audiocraft, audio_magnet_16khz.yaml
ENCODEC_16KHZ: Sizes = {  # audiocraft, encodec_large_nq4_s320.yaml: 50 frames per second
    "sampling_rate": 16_000, "upsampling_ratios": [8, 5, 4, 2], "num_filters": 64, "codebook_size": 2048,
    "target_bandwidths": [2.2], "use_causal_conv": False, "use_conv_shortcut": False, "norm_type": "weight_norm",
}  # fmt: skip
ENCODEC_32KHZ = ENCODEC_16KHZ | {"sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4]}  # MusicGen's
MUSICGEN_SMALL: Sizes = {  # facebook/musicgen-small, config.json, decoder
    "vocab_size": 2048, "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16, "hidden_size": 1024,
    "num_codebooks": 4,
}  # fmt: skip
TOKEN_FRAMES = 500  # 10 s
LATENT_SHAPE = (8, 256, 16)  # 10.24 s


@dataclass
class Peer:
    """A system that generates B clips.

    Attributes:
        steps: Number of sequential calls of ``step``.
        step: Runs the step of this index.
        finish: Decodes the result to sound.
        parameters: Number of parameters of the repeated part.
        start: Prepares the step after this many, where its cost depends on the steps before.
    """

    steps: int
    step: Callable[[int], object]
    finish: Callable[[], object]
    parameters: int
    start: Callable[[int], object] = lambda done: None


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def guided(both: Tensor) -> Tensor:
    """Combine conditional and null predictions (2B, ...) to (B, ...)."""
    conditional, null = both.chunk(2)
    return null + GUIDANCE * (conditional - null)


def unet_peer(name: str, batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """A U-Net with 200 steps of DDIM, and AudioLDM's VAE and vocoder."""
    import diffusers
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    kind, sizes, conditions = UNETS[name]
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER))
    modules: list[Any] = [getattr(diffusers, kind)(**sizes), diffusers.AutoencoderKL(**VAE), vocoder]
    unet, vae, vocoder = (module.to(device, dtype).eval() for module in modules)
    scheduler: Any = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", steps_offset=1
    )
    scheduler.set_timesteps(200)
    latents = torch.randn(batch, *LATENT_SHAPE, device=device, dtype=dtype)
    inputs: dict[str, Any] = {"encoder_hidden_states": None}
    inputs |= {key: torch.randn(2 * batch, *shape, device=device, dtype=dtype) for key, shape in conditions.items()}

    def step(index: int) -> None:
        nonlocal latents
        timestep = scheduler.timesteps[index]
        predicted = guided(unet(torch.cat([latents, latents]), timestep, **inputs, return_dict=False)[0])
        latents = scheduler.step(predicted, timestep, latents).prev_sample

    return Peer(200, step, lambda: vocoder(vae.decode(latents, return_dict=False)[0][:, 0]), count(unet))


class MaskedTokens(nn.Module):
    """A transformer of MAGNeT's shape: sums of codes' embeddings, self- and cross-attention, logits of each codebook.

    Note: MAGNeT restricts the attention of all codebooks but the first to 5 neighbours; this one attends to everything.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, codebooks: int, codes: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(codes + 1, dim) for _ in range(codebooks))
        layer = nn.TransformerDecoderLayer(dim, num_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(layer, depth, nn.LayerNorm(dim))
        self.logits = nn.ModuleList(nn.Linear(dim, codes, bias=False) for _ in range(codebooks))

    def forward(self, tokens: Tensor, text: Tensor, codebook: int) -> Tensor:
        """Tokens (B, 4, S), text (B, L, D) -> logits (B, S, codes) of one codebook."""
        x = sum(embed(tokens[:, index]) for index, embed in enumerate(self.embed))
        return self.logits[codebook](self.blocks(x, text))


def magnet_small(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """50 passes over 10 s of tokens, each with guidance and a draw of all tokens; EnCodec at 16 kHz."""
    model = MaskedTokens(**MAGNET_SMALL).to(device, dtype).eval()
    codes = MAGNET_SMALL["codes"]
    tokens = torch.full((batch, MAGNET_SMALL["codebooks"], TOKEN_FRAMES), codes, device=device)
    text = torch.randn(2 * batch, TEXT_LENGTH, MAGNET_SMALL["dim"], device=device, dtype=dtype)
    codebooks = [index for index, passes in enumerate(MAGNET_PASSES) for _ in range(passes)]

    def step(index: int) -> None:
        codebook = codebooks[index]
        chance = guided(model(torch.cat([tokens, tokens]), text, codebook).float()).softmax(dim=-1)
        tokens[:, codebook] = torch.multinomial(chance.flatten(0, 1), 1).view(batch, -1)

    return Peer(len(codebooks), step, encodec(ENCODEC_16KHZ, tokens, dtype), count(model))


def encodec(config: Sizes, tokens: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return EnCodec's decoding of tokens (B, 4, S); those beyond its codes are taken as the last."""
    from transformers import EncodecConfig, EncodecModel

    model: Any = EncodecModel(EncodecConfig(**config))
    model = model.to(tokens.device, dtype).eval()
    return lambda: model.decode(tokens.clamp(max=config["codebook_size"] - 1)[None], [None])


def musicgen_small(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """500 steps of 4 tokens and 3 of the delay pattern, with a cache of keys and values; EnCodec at 32 kHz."""
    from transformers import MusicgenForCausalLM
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    config = MusicgenDecoderConfig(**MUSICGEN_SMALL)
    model: Any = MusicgenForCausalLM(config)
    model = model.to(device, dtype).eval()
    books = MUSICGEN_SMALL["num_codebooks"]
    text = torch.randn(2 * batch, TEXT_LENGTH, config.hidden_size, device=device, dtype=dtype)
    tokens = torch.zeros(batch * books, 1, dtype=torch.long, device=device)
    cache = None

    def start(done: int) -> None:
        nonlocal cache
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        if done:
            past = tokens.new_zeros(2 * batch * books, done)
            model(past, encoder_hidden_states=text, past_key_values=cache)

    def step(index: int) -> None:
        nonlocal tokens
        logits = model(torch.cat([tokens, tokens]), encoder_hidden_states=text, past_key_values=cache).logits
        tokens = torch.multinomial(guided(logits[:, -1].float()).softmax(dim=-1), 1)

    whole = tokens.new_zeros(batch, books, TOKEN_FRAMES)
    return Peer(TOKEN_FRAMES + books - 1, step, encodec(ENCODEC_32KHZ, whole, dtype), count(model), start)


PEERS: dict[str, Callable[[int, torch.dtype, torch.device], Peer]] = {
    **{name: functools.partial(unet_peer, name) for name in UNETS},
    "MAGNeT-small-shaped": magnet_small,
    "MusicGen small": musicgen_small,
}


def measure(name: str, precision: str, batch: int, device: torch.device, repeats: int, whole: bool) -> dict:
    """Measure a row of a record: with ``whole`` all steps, else the middle one, which is the mean step, times all."""
    torch.manual_seed(0)
    # Not in inference mode: with weights made in it a pass of MAGNeT in bf16 took 15 times as long on a CPU.
    peer = PEERS[name](batch, PRECISIONS[precision], device)
    middle = peer.steps // 2
    with torch.inference_mode():
        peer.start(0 if whole else middle)
        if whole:
            peer.step(0)  # warm-up
            peer.start(0)
            steps = seconds_of(lambda: [peer.step(index) for index in range(peer.steps)])
        else:
            steps = peer.steps * median_seconds(lambda: peer.step(middle), repeats, device)
        sound = median_seconds(peer.finish, repeats, device)
    row = {"system": name, "precision": precision, "batch": batch, "parameters": peer.parameters, "steps": peer.steps}
    return row | {"whole": whole, "steps_seconds": steps, "sound_seconds": sound, "seconds": steps + sound}


def own_row(subject: Subject, row: dict) -> dict:
    """Turn a row of ``latency`` into one of this record: without the text encoder, as for all systems."""
    sound = row["parts"]["codec"]
    size = f"{row['iterations']} x {row['diffusion_steps']}"
    same = ("precision", "batch", "whole", "iterations", "diffusion_steps")
    return {key: row[key] for key in same} | {
        "system": f"IMPACT {subject.name}, {row['variant'].split(',')[0]}, {size}",
        "ours": True,
        "parameters": count(subject.model),
        "steps": row["iterations"],
        "steps_seconds": row["generation_seconds"],
        "sound_seconds": sound,
        "seconds": row["generation_seconds"] + sound,
    }
