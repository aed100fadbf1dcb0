"""Small random networks in the formats of the published files, and sounds for them."""

from pathlib import Path

import soundfile
import tokenizers
import torch
import transformers

from impact_pl.evaluation.networks.cnn14 import CHECKPOINT as CNN14_FILE
from impact_pl.evaluation.networks.cnn14 import Cnn14Model, front_end
from impact_pl.evaluation.networks.vggish import CHECKPOINT as VGGISH_FILE
from impact_pl.evaluation.networks.vggish import VggishModel

RATE = 16_000


def write_weights(folder: Path) -> None:
    """Everything that `--metrics paper` reads from a folder of weights."""
    folder.mkdir(exist_ok=True)
    write_cnn14(folder, seed=0)
    torch.save(lively(VggishModel(width=2, hidden=16, dim=8), seed=0).state_dict(), folder / VGGISH_FILE)
    write_clap(folder / "clap-htsat-fused")


def lively(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights under which activations keep their size, so that sounds stay apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight, generator=generator)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
    return model


def write_cnn14(weights, seed: int) -> None:
    model = lively(Cnn14Model(width=2, num_classes=7), seed)
    model.bn0.running_mean.fill_(-30.0)  # decibels
    model.bn0.running_var.fill_(400.0)
    torch.save({"model": model.state_dict() | front_end()}, weights / CNN14_FILE)


def write_clap(folder) -> None:
    """A CLAP of a few thousand weights and its processor, as save_pretrained writes them."""
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "tone": 4, "high": 5, "low": 6}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    )
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=48_000, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
    )
    text = {"vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 2,
        "patch_stride": 2,
        "window_size": 4,
        "hidden_size": 32,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "num_hidden_layers": 2,
    }
    torch.manual_seed(0)
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    transformers.ClapModel(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_tones(folder, names, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(RATE) / RATE
    for name in names:
        pitch = 200 + 3000 * torch.rand(1, generator=generator)
        sound = 0.4 * torch.sin(2 * torch.pi * pitch * time) + 0.02 * torch.randn(RATE, generator=generator)
        soundfile.write(folder / name, sound.numpy(), RATE)
