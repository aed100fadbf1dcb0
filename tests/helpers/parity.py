"""Our side of the comparison with the field's reference code (docs/parity.md), for anyone who wants to repeat it.

    python -m tests.helpers.parity weights --out WEIGHTS                  # random weights in the official file formats
    python -m tests.helpers.parity figures --generated A --reference B --weights WEIGHTS   # -> JSON: see figures()
    python -m tests.helpers.parity layers --audio FILE --weights WEIGHTS --out layers.safetensors

The weights are a function of the seed (numpy's PCG64), so the tests make the same ones.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from impact_pl.audio import load_audio
from impact_pl.evaluation import formulas
from impact_pl.evaluation.networks import Network, clap, cnn14, passt, vggish
from impact_pl.evaluation.sounds import read_captions

LOGIT_SCALE = 8.0  # makes random logits differ from sound to sound as much as trained ones do
MEAN_DB, VARIANCE_DB = -40.0, 400.0  # of log-mel, about what recordings have


def random_state(module: nn.Module, generator: np.random.Generator) -> dict[str, Tensor]:
    """Random values for every entry of ``module``'s state, of a size that keeps activations alive through all layers.

    Matrices and kernels (C, ...) after He; norms around one; biases and running means of 0.1.
    """
    state = {}
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            state[name] = torch.ones_like(value)
            continue
        drawn = torch.from_numpy(generator.standard_normal(value.shape, dtype=np.float32))
        if value.ndim > 1:
            state[name] = drawn * (2.0 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = (0.2 * drawn).exp()
        elif name.endswith("weight"):
            state[name] = 1.0 + 0.1 * drawn
        else:
            state[name] = 0.1 * drawn
    return state


def cnn14_state(seed: int, width: int = 64, num_classes: int = 527) -> dict[str, Tensor]:
    """Random weights of CNN14 with its real front end."""
    state = random_state(cnn14.Cnn14Model(width, num_classes), np.random.default_rng(seed))
    state |= cnn14.front_end()
    state["bn0.running_mean"] += MEAN_DB
    state["bn0.running_var"] *= VARIANCE_DB
    state["fc_audioset.weight"] *= LOGIT_SCALE
    return state


def vggish_state(seed: int, width: int = 64, hidden: int = 4096, dim: int = 128) -> dict[str, Tensor]:
    """Random weights of VGGish."""
    return random_state(vggish.VggishModel(width, hidden, dim), np.random.default_rng(seed))


def write_weights(folder: Path, seed: int, width: int = 64, hidden: int = 4096, num_classes: int = 527) -> None:
    """The files that Cnn14 and Vggish read, as their authors saved them, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model = cnn14_state(seed, width, num_classes)
    torch.save({"iteration": 600_000, "model": model}, folder / cnn14.CHECKPOINT)
    torch.save(vggish_state(seed + 1, width, hidden), folder / vggish.CHECKPOINT, _use_new_zipfile_serialization=False)
    generator = np.random.default_rng(seed + 2)
    arrays = {
        "pca_eigen_vectors": generator.standard_normal((128, 128), dtype=np.float32) / 4,
        "pca_means": generator.standard_normal(128, dtype=np.float32),
    }
    torch.save(arrays, folder / vggish.PCA, _use_new_zipfile_serialization=False)
    write_clap(folder / clap.FOLDER, seed)


def write_clap(folder: Path, seed: int) -> None:
    """A CLAP with fusion, small and random, in the layout of laion/clap-htsat-fused; one token a byte."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

    alphabet = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = RobertaTokenizer(vocab={token: index for index, token in enumerate(alphabet)}, merges=[])
    tokenizer.model_max_length = 77
    text = {"vocab_size": len(alphabet), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 64, "max_position_embeddings": 80, "pad_token_id": 1, "projection_dim": 24}
    audio = {"enable_fusion": True, "patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2], "aff_block_r": 2, "projection_dim": 24}
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ClapModel(config)
        for parameter in model.parameters():  # their initialisation is so small that all sounds are one
            if parameter.ndim > 1:
                torch.nn.init.xavier_normal_(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion", padding="repeatpad").save_pretrained(folder)


def signals() -> list[np.ndarray]:
    """Three sounds (S,) at 16 kHz, always the same: a sweep in noise, a short hum, clicks of all sizes."""
    generator = np.random.default_rng(4)
    time = np.arange(50_000) / cnn14.SAMPLE_RATE
    sweep = 0.4 * np.sin(2 * np.pi * (200 + 900 * time) * time) + 0.02 * generator.standard_normal(len(time))
    hum = 0.3 * np.sin(2 * np.pi * 110 * time[:18_000]) + 0.002 * generator.standard_normal(18_000) + 0.05
    clicks = np.where(generator.random(40_000) < 0.002, generator.standard_normal(40_000) / 4, 0.0)
    return [sound.astype(np.float32) for sound in (sweep, hum, clicks)]


def layer_outputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What every module without children, and every block, gives during ``run()``: name -> output."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    run()
    for handle in handles:
        handle.remove()
    return outputs


def features(network: Network, folder: Path) -> dict[str, list[np.ndarray]]:
    """Embeddings and logits of every file of ``folder``, in order of file name."""
    found = [network(load_audio(path, network.sample_rate).numpy()) for path in sorted(folder.iterdir())]
    logits = [each.logits for each in found if each.logits is not None]
    return {"embeddings": [each.embeddings for each in found], "logits": logits}


def figures(generated: Path, reference: Path, weights: Path, captions: Path | None) -> dict[str, float]:
    """Figures of docs/parity.md for two folders with the same file names.

    FD, KL and IS on CNN14, FAD on VGGish in all preparations; the CLAP score where ``captions`` (lines of JSON with
    file and caption) are given; FD and KL on PaSST where its file is in the folder of weights. Not here: the "FAD" that
    frechet-audio-distance makes of PANNs, which no paper has.
    """
    network = cnn14.Cnn14(weights)
    ours, real = features(network, generated), features(network, reference)
    fakes, truths = np.stack(ours["logits"]), np.stack(real["logits"])
    out = {
        "fd": formulas.frechet_distance(np.concatenate(real["embeddings"]), np.concatenate(ours["embeddings"])),
        "kl_softmax": formulas.kl_softmax(truths, fakes).mean(),
        "kl_sigmoid": formulas.kl_sigmoid(truths, fakes).mean(),
        "kl_softmax_without_epsilon": formulas.kl_softmax(truths, fakes, 0.0).mean(),
        "kl_sigmoid_without_epsilon": formulas.kl_sigmoid(truths, fakes, 0.0).mean(),
    }
    out["is_mean"], out["is_std"] = formulas.inception_score_in_splits(fakes)
    for preparation in vggish.PREPARATIONS:
        for postprocess in (False, True):
            network = vggish.Vggish(weights, preparation, postprocess)
            windows = [features(network, folder)["embeddings"] for folder in (reference, generated)]
            name = f"fad_{preparation}{'_pca' * postprocess}"
            out[name] = formulas.frechet_audio_distance(*windows)
    out |= clap_figures(generated, weights, read_captions(captions)) if captions is not None else {}
    out |= passt_figures(generated, reference, weights) if (weights / passt.CHECKPOINT).is_file() else {}
    return {name: float(value) for name, value in out.items()}


def clap_figures(generated: Path, weights: Path, captions: dict[str, str]) -> dict[str, float]:
    """The CLAP score of a folder whose every file has a caption, by its name without suffix."""
    network = clap.Clap(weights)
    text = network.embed_text([captions[path.stem] for path in sorted(generated.iterdir())])
    sounds = np.concatenate(features(network, generated)["embeddings"])
    return {"clap_score": np.diagonal(formulas.clap_score(sounds, text)).mean()}


def passt_figures(generated: Path, reference: Path, weights: Path) -> dict[str, float]:
    """FD and KL on PaSST, as av-benchmark."""
    network = passt.Passt(weights)
    ours, real = features(network, generated), features(network, reference)
    embeddings = [np.concatenate(each["embeddings"]) for each in (real, ours)]
    kl = formulas.kl_softmax(np.stack(real["logits"]), np.stack(ours["logits"]), 0.0).mean()
    return {"passt_fd": formulas.frechet_distance(*embeddings), "passt_kl_softmax_without_epsilon": kl}


def layers(audio: Path, weights: Path) -> dict[str, Tensor]:
    """Every layer's output of both networks on one file, names prefixed with the network's."""
    waveform = load_audio(audio, cnn14.SAMPLE_RATE).numpy()
    out = {}
    for network in (cnn14.Cnn14(weights), vggish.Vggish(weights)):
        outputs = layer_outputs(network.model, lambda network=network: network(waveform))
        out |= {f"{network.name}.{name}": value.contiguous() for name, value in outputs.items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("weights", "figures", "layers"):
        command = commands.add_parser(name)
        if name == "weights":
            command.add_argument("--seed", type=int, default=0)
        else:
            command.add_argument("--weights", type=Path, required=True)
        if name == "figures":
            command.add_argument("--generated", type=Path, required=True)
            command.add_argument("--reference", type=Path, required=True)
            command.add_argument("--captions", type=Path, help="lines of JSON, for the CLAP score")
        else:
            command.add_argument("--out", type=Path, required=True)
        if name == "layers":
            command.add_argument("--audio", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "weights":
        write_weights(options.out, options.seed)
    elif options.command == "layers":
        save_file(layers(options.audio, options.weights), options.out)
    else:
        print(json.dumps(figures(options.generated, options.reference, options.weights, options.captions), indent=1))


if __name__ == "__main__":
    main()
