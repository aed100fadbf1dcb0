"""Small random models, saved in the formats in which the real ones are published."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import impact_pl._torchaudio  # noqa: F401  # makes transformers and diffusers importable

WORDS = "a the dog barks rain falls on tin roof high beep low hum hiss of white noise rising whistle and"
VOCABULARY = 300


def save_t5_tokenizer(folder: Path) -> None:
    """A unigram tokenizer.json of whole words, ending captions as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pieces = [(piece, 0.0) for piece in special.values()] + [(f"\u2581{word}", -3.0) for word in WORDS.split()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_roberta_tokenizer(folder: Path) -> None:
    """RoBERTa's byte-level BPE, with ids of its special tokens as in roberta-base and a merge or two a word."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([WORDS] * 2, vocab_size=VOCABULARY, min_frequency=2, special_tokens=special)
    folder.mkdir(parents=True, exist_ok=True)
    trained.save_model(str(folder))  # vocab.json and merges.txt
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    RobertaTokenizer(vocab=json.loads((folder / "vocab.json").read_text()), merges=merges).save_pretrained(folder)


def save_t5(folder: Path, seed: int = 0) -> Path:
    """A whole T5 (encoder and decoder), as flan-t5 is published."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=32, d_model=12, d_kv=6, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_t5_tokenizer(folder)
    return folder


def roberta_config(hidden_size: int = 16) -> dict:
    """What RoBERTa and CLAP's text tower have in common; the padding's id is 1, as in roberta-base."""
    return {
        "vocab_size": VOCABULARY, "hidden_size": hidden_size, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    }  # fmt: skip


def save_clap(folder: Path, seed: int = 0) -> Path:
    """A transformers ClapModel, both towers, as laion/clap-htsat-fused is published."""
    from transformers import ClapConfig, ClapModel

    torch.manual_seed(seed)
    audio = {
        "window_size": 8, "num_mel_bins": 64, "spec_size": 256, "patch_stride": [4, 4], "patch_embeds_hidden_size": 8,
        "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16, "projection_dim": 20,
    }  # fmt: skip
    text = roberta_config() | {"projection_dim": 20}
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=20)).save_pretrained(folder)
    save_roberta_tokenizer(folder)
    return folder


def save_roberta(folder: Path, hidden_size: int = 16, weights: bool = False) -> Path:
    """``roberta-base``: configuration and tokenizer, and weights only where asked for."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(**roberta_config(hidden_size))
    config.save_pretrained(folder)
    if weights:
        RobertaModel(config).save_pretrained(folder)
    save_roberta_tokenizer(folder)
    return folder


def save_audioldm(folder: Path, seed: int = 0, width: int = 8) -> Path:
    """AudioLDM's VAE and vocoder in the layout of diffusers; ``width`` 128 and 1024 channels are the real ones."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(**vae_config(width))
    vae.save_pretrained(folder / "vae")
    vocoder(16).save_pretrained(folder / "vocoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    return folder


def vae_config(width: int) -> dict:
    return {
        "in_channels": 1, "out_channels": 1, "latent_channels": 8, "layers_per_block": 2 if width == 128 else 1,
        "block_out_channels": [width, 2 * width, 4 * width], "norm_num_groups": min(32, width),
        "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
        "scaling_factor": 0.9227914214134216,
    }  # fmt: skip


def vocoder(channels: int):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64, sampling_rate=16_000, upsample_initial_channel=channels * 2, normalize_before=False,
            upsample_rates=[5, 4, 2, 2, 2], upsample_kernel_sizes=[16, 16, 8, 4, 4],
        )
    )  # fmt: skip


def laion_state(clap_folder, prefix="module.") -> dict[str, torch.Tensor]:
    """The transformers model's text tower under laion-clap's names, next to something of its audio tower."""
    state = {}
    for name, value in load_file(clap_folder / "model.safetensors").items():
        if name.startswith("text_model."):
            state[f"{prefix}text_branch.{name.removeprefix('text_model.')}"] = value
        elif name.startswith("text_projection."):
            number = {"linear1": 0, "linear2": 2}[name.split(".")[1]]
            state[f"{prefix}text_projection.{number}.{name.split('.')[2]}"] = value
    state.pop(f"{prefix}text_branch.embeddings.token_type_ids", None)
    return {f"{prefix}logit_scale_a": torch.ones([]), f"{prefix}audio_projection.0.bias": torch.zeros(4), **state}
