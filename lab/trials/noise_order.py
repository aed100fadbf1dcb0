r"""Check that metrics follow the degradation of real sounds: clean, then with noise at 20 dB, then at 5 dB.

    python -m lab.trials.noise_order --sounds data/builtin/manifest.jsonl --num 100
    python -m lab.trials.noise_order --sounds data/builtin/manifest.jsonl --networks cnn14,vggish --weights weights \
        --real-weights

Two sets of N real sounds, A and B, are drawn. Distances between sets (FD, FAD, IS) compare B, and B with noise at 20 dB
and at 5 dB, to A; the first is the real-vs-real baseline. Metrics of pairs (KL, cosine, top-1) and of captions (text
relevance, CLAP score; if every sound has a caption) compare A, and A with the same noise, to A. Prints both tables; the
exit code is 1 if a metric is out of order.

Metrics of published networks are always printed but only checked with --real-weights. With random weights (those of
parity.py `weights`) a network recognises neither classes nor captions, and its metrics need not follow the noise
(docs/parity.md).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from impact_pl.audio import fit_length, load_audio, save_audio
from impact_pl.cli.evaluate import load_networks, print_table
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.evaluate import evaluate
from impact_pl.evaluation.networks.yamnet import SAMPLE_RATE
from impact_pl.evaluation.request import EvaluationRequest
from impact_pl.evaluation.sounds import Sounds, draw, list_sounds
from impact_pl.text_encoders.base import TextEncoder
from impact_pl.text_encoders.registry import load_text_encoder

LEVELS = {"noise20": 20.0, "noise5": 5.0}  # row -> level of the sound above the noise, in dB
RISING = {  # metrics that must rise with noise, between sets and between pairs
    False: ("fd_yamnet", "fd_cnn14", "fad_vggish"),
    True: ("kl", "kl_cnn14", "kl_passt", "kl_sigmoid_cnn14"),
}
FALLING = {
    False: ("inception_score", "is_cnn14"),
    True: ("embedding_cosine", "top1_agreement", "text_relevance", "clap_score"),
}
PUBLISHED = ("fd_cnn14", "kl_cnn14", "kl_sigmoid_cnn14", "is_cnn14", "fad_vggish", "kl_passt", "clap_score")


def noisy(sounds: Sounds, folder: Path, decibels: float, duration: float, seed: int) -> Sounds:
    """Copy sounds with white noise ``decibels`` below their level, clipped at full scale."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for name, record in sounds.items():
        waveform = load_audio(record.path, SAMPLE_RATE, record.start, record.duration)
        waveform = fit_length(waveform, round(duration * SAMPLE_RATE))
        noise = torch.randn(waveform.shape, generator=generator)
        noise *= waveform.square().mean().sqrt() / 10 ** (decibels / 20)
        save_audio(folder / f"{name}.wav", waveform + noise, SAMPLE_RATE)
    return list_sounds(folder)


def table(sets: list[Sounds], paired: bool, networks: list, encoder: TextEncoder | None, args) -> dict:
    """Evaluate B, or in pairs A, clean ("generated") and with noise, against A; B is the baseline."""
    reference, others = sets
    sounds = reference if paired else others
    with tempfile.TemporaryDirectory() as folder:
        baselines = {
            name: noisy(sounds, Path(folder) / name, decibels, args.duration, args.seed)
            for name, decibels in LEVELS.items()
        }
        captions = {name: record.caption for name, record in sounds.items() if record.caption}
        request = EvaluationRequest(
            sounds, reference, others, baselines, captions, paired=paired, duration=args.duration, seed=args.seed
        )
        return evaluate(request, networks, encoder)


def out_of_order(result: dict, paired: bool, real_weights: bool) -> list[str]:
    """List the metrics that do not follow the noise, with their values."""
    rows = {row["name"]: row for row in result["rows"]}
    wrong = []
    judged = [key for key in RISING[paired] + FALLING[paired] if real_weights or key not in PUBLISHED]
    for key in judged:
        values = [rows[name][key] for name in ("generated", *LEVELS) if rows[name].get(key) is not None]
        ordered = sorted(values, reverse=key in FALLING[paired])
        if values != ordered or len(set(values)) < len(values):
            wrong.append(f"{key}: {', '.join(f'{value:.3f}' for value in values)}")
    return wrong


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True, help="a folder or manifest of at least 2 N real sounds")
    parser.add_argument("--num", type=int, default=100, help="N (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of each (default: %(default)s)")
    parser.add_argument("--networks", default="yamnet", help="with commas between them (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="folder of the published networks' files")
    parser.add_argument("--real-weights", action="store_true", help="--weights are the published ones: judge all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    sounds = list_sounds(args.sounds)
    if len(sounds) < 2 * args.num:
        raise UserError(f"{args.sounds} holds {len(sounds)} sounds, {2 * args.num} are needed: choose a smaller --num")
    generator = np.random.default_rng(args.seed)
    drawn = draw(list(sounds), 2 * args.num, generator)
    first = set(draw(drawn, args.num, generator))
    sets = [{name: sounds[name] for name in drawn if (name in first) == side} for side in (True, False)]
    networks, _ = load_networks(args.networks.split(","), args.weights, 1)
    captioned = all(record.caption for record in sets[0].values())
    encoder = load_text_encoder("minilm") if captioned and "yamnet" in args.networks.split(",") else None
    wrong = []
    for paired in (False, True):
        result = table(sets, paired, networks, encoder, args)
        print_table(result | {"notes": []})
        wrong += out_of_order(result, paired, args.real_weights)
    print("\n".join(wrong) if wrong else "every judged figure is in order: as it is, noise at 20 dB, noise at 5 dB")
    if args.weights is not None and not args.real_weights:
        print(f"not judged, as without --real-weights the weights may be random: {', '.join(PUBLISHED)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
