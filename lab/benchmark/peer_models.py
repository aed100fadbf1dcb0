"""Other text-to-audio systems in their published sizes, with random weights; text encoders are left out.

Each is timed in the parts that it repeats: a U-Net's step, a pass over masked tokens, a token's step; and in what turns
the result into sound. All work on 2B rows: guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from impact_pl.precision import PRECISIONS
from lab.benchmark.subject import VAE, VOCODER, Subject
from lab.benchmark.timing import median_seconds, seconds_of

TEXT_LENGTH = 77  # positions of a caption's tokens
Sizes = dict[str, Any]  # of a model
UNET: Sizes = {  # what AudioLDM's and AudioLDM2's have in common: 10.24 s are latents of 8 x 256 x 16
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
MAGNET_SMALL: Sizes = {  # audiocraft, small.yaml
    "dim": 1024, "depth": 24, "num_heads": 16, "codebooks": 4, "codes": 2048,
}  # fmt: skip
MAGNET_PASSES = (20, 10, 10, 10)  # a codebook; audiocraft, audio_magnet_16khz.yaml
ENCODEC_16KHZ: Sizes = {  # audiocraft, encodec_large_nq4_s320.yaml: 50 frames a second
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
    """A system of B clips.

    Attributes:
        steps: how often ``step`` is called for one clip, one after the other.
        step: of the number of the step.
        finish: to sound.
        parameters: of the part that is repeated.
        start: makes the next step the one after so many, where a step's cost depends on how many were before.
    """

    steps: int
    step: Callable[[int], object]
    finish: Callable[[], object]
    parameters: int
    start: Callable[[int], object] = lambda done: None


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def unet_peer(
    unet: Any, condition: Callable[[int], dict], batch: int, dtype: torch.dtype, device: torch.device
) -> Peer:
    """A U-Net with 200 steps of DDIM, and AudioLDM's VAE and vocoder."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    def here(module: Any) -> Any:
        return module.to(device, dtype).eval()

    unet, vae, vocoder = here(unet), here(AutoencoderKL(**VAE)), here(SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER)))
    scheduler: Any = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", steps_offset=1)
    scheduler.set_timesteps(200)
    latents = torch.randn(batch, *LATENT_SHAPE, device=device, dtype=dtype)
    extra = condition(2 * batch)

    def step(index: int) -> None:
        nonlocal latents
        timestep = scheduler.timesteps[index]
        both = unet(torch.cat([latents, latents]), timestep, **extra, return_dict=False)[0]
        null, conditional = both.chunk(2)
        latents = scheduler.step(null + 3.0 * (conditional - null), timestep, latents).prev_sample

    def finish() -> Tensor:
        return vocoder(vae.decode(latents, return_dict=False)[0][:, 0])

    return Peer(200, step, finish, count(unet))


def audioldm_s(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """AudioLDM-S: the caption is one vector of CLAP."""
    from diffusers import UNet2DConditionModel

    def condition(rows: int) -> dict:
        labels = torch.randn(rows, 512, device=device, dtype=dtype)
        return {"encoder_hidden_states": None, "class_labels": labels}

    return unet_peer(UNet2DConditionModel(**AUDIOLDM_S), condition, batch, dtype, device)


def audioldm2(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """AudioLDM2: 8 states of GPT-2 and those of T5."""
    from diffusers import AudioLDM2UNet2DConditionModel

    def condition(rows: int) -> dict:
        return {
            "encoder_hidden_states": torch.randn(rows, 8, 768, device=device, dtype=dtype),
            "encoder_hidden_states_1": torch.randn(rows, TEXT_LENGTH, 1024, device=device, dtype=dtype),
        }

    return unet_peer(AudioLDM2UNet2DConditionModel(**AUDIOLDM2), condition, batch, dtype, device)


def tango(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """Tango: states of Flan-T5-large."""
    from diffusers import UNet2DConditionModel

    def condition(rows: int) -> dict:
        return {"encoder_hidden_states": torch.randn(rows, TEXT_LENGTH, 1024, device=device, dtype=dtype)}

    return unet_peer(UNet2DConditionModel(**TANGO), condition, batch, dtype, device)


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
    sound = encodec(ENCODEC_16KHZ, batch, dtype, device)

    def step(index: int) -> None:
        codebook = codebooks[index]
        conditional, null = model(torch.cat([tokens, tokens]), text, codebook).float().chunk(2)
        chance = (null + 3.0 * (conditional - null)).softmax(dim=-1)
        tokens[:, codebook] = torch.multinomial(chance.flatten(0, 1), 1).view(batch, -1)

    return Peer(len(codebooks), step, lambda: sound(tokens), count(model))


def encodec(config: Sizes, batch: int, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], object]:
    """EnCodec's decoder: tokens (B, 4, S) -> sound; those beyond its codes are taken as the last."""
    from transformers import EncodecConfig, EncodecModel

    model: Any = EncodecModel(EncodecConfig(**config))
    model = model.to(device, dtype).eval()
    last = config["codebook_size"] - 1
    return lambda tokens: model.decode(tokens.clamp(max=last)[None], [None])


def musicgen_small(batch: int, dtype: torch.dtype, device: torch.device) -> Peer:
    """MusicGen small: 500 steps of 4 tokens and 3 of the delay pattern, with a cache of keys and values; EnCodec."""
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
    sound = encodec(ENCODEC_32KHZ, batch, dtype, device)
    all_tokens = torch.zeros(batch, books, TOKEN_FRAMES, dtype=torch.long, device=device)

    def start(done: int) -> None:
        nonlocal cache
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        if done:
            past = tokens.new_zeros(2 * batch * books, done)
            model(past, encoder_hidden_states=text, past_key_values=cache)

    def step(index: int) -> None:
        nonlocal tokens
        logits = model(torch.cat([tokens, tokens]), encoder_hidden_states=text, past_key_values=cache).logits
        conditional, null = logits[:, -1].float().chunk(2)
        chance = (null + 3.0 * (conditional - null)).softmax(dim=-1)
        tokens = torch.multinomial(chance, 1)

    return Peer(TOKEN_FRAMES + books - 1, step, lambda: sound(all_tokens), count(model), start)


PEERS: dict[str, Callable[[int, torch.dtype, torch.device], Peer]] = {
    "AudioLDM-S": audioldm_s,
    "AudioLDM2": audioldm2,
    "Tango": tango,
    "MAGNeT-small-shaped": magnet_small,
    "MusicGen small": musicgen_small,
}


def measure(name: str, precision: str, batch: int, device: torch.device, repeats: int, whole: bool) -> dict:
    """A row of a record."""
    torch.manual_seed(0)
    # Not in inference mode: with weights made in it a pass of MAGNeT in bf16 took 15 times as long on a CPU.
    peer = PEERS[name](batch, PRECISIONS[precision], device)
    with torch.inference_mode():
        steps = run_steps(peer) if whole else peer.steps * middle_step(peer, repeats, device)
        sound = median_seconds(peer.finish, repeats, device)
    return {
        "system": name,
        "precision": precision,
        "batch": batch,
        "parameters": peer.parameters,
        "steps": peer.steps,
        "whole": whole,
        "steps_seconds": steps,
        "sound_seconds": sound,
        "seconds": steps + sound,
    }


def middle_step(peer: Peer, repeats: int, device: torch.device) -> float:
    """Seconds of the step in the middle, which is the mean step also where steps grow with their number."""
    middle = peer.steps // 2
    peer.start(middle)
    return median_seconds(lambda: peer.step(middle), repeats, device)


def run_steps(peer: Peer) -> float:
    """Seconds of all steps, after one that is not counted."""

    def run() -> None:
        for index in range(peer.steps):
            peer.step(index)

    peer.start(0)
    peer.step(0)
    peer.start(0)
    return seconds_of(run)


def own_row(subject: Subject, row: dict) -> dict:
    """Turn a row of ``latency`` into one of this record: without the text encoder, as for all systems."""
    sound = row["parts"]["codec"]
    size = f"{row['iterations']} x {row['diffusion_steps']}"
    return {
        "system": f"IMPACT {subject.name}, {row['variant'].split(',')[0]}, {size}",
        "ours": True,
        "precision": row["precision"],
        "batch": row["batch"],
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
        "steps": row["iterations"],
        "whole": row["whole"],
        "steps_seconds": row["generation_seconds"],
        "sound_seconds": sound,
        "seconds": row["generation_seconds"] + sound,
        "iterations": row["iterations"],
        "diffusion_steps": row["diffusion_steps"],
    }
