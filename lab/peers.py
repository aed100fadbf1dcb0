"""`python -m lab.peers generate`: make another system's sounds for a test list, with its own published weights.

The systems are those of diffusers and transformers, run by their own pipelines at their own sample rates. `impact
evaluate --generated` then compares the sounds as it does ours. Tango, MAGNeT and AudioGen are in neither library: run
their own code into a folder with the same file names.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from impact_pl.cli import options
from impact_pl.data.lists import clip_stem, read_clip_list
from impact_pl.errors import UserError, user_errors

NOTE = "peer.json"  # in the folder of the sounds: what made them
Draw = Callable[[str, int], Any]  # caption and seed -> samples (S,) or (channels, S)


@dataclass(frozen=True)
class System:
    """A system's pipeline, and the settings of its paper.

    Attributes:
        pipeline: Class in diffusers, or in transformers for MusicGen.
        steps: Diffusion steps; 0: the system draws tokens.
        guidance: Guidance scale.
        seconds: Duration of a sound.
    """

    pipeline: str
    steps: int
    guidance: float
    seconds: float


SYSTEMS = {
    "audioldm": System("AudioLDMPipeline", 200, 2.5, 10.24),  # arXiv 2301.12503
    "audioldm2": System("AudioLDM2Pipeline", 200, 3.5, 10.24),  # arXiv 2308.05734
    "stable_audio": System("StableAudioPipeline", 100, 7.0, 10.0),  # arXiv 2407.14358
    "musicgen": System("MusicgenForConditionalGeneration", 0, 3.0, 10.0),  # arXiv 2306.05284
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m lab.peers generate --system audioldm2 --weights checkpoints/audioldm2 \\\n"
        "             --test-list lists/tango_886.csv -o runs/audioldm2/generated --device cuda",
    )
    command = parser.add_subparsers(dest="command", required=True).add_parser("generate", help="make sounds of a list")
    add = command.add_argument
    add("--system", choices=list(SYSTEMS), required=True)
    add("--weights", type=Path, required=True, help="folder of the published model, as its library loads it")
    add("--test-list", type=Path, required=True, help="a .csv or .tsv, as for impact evaluate")
    add("-o", "--out", type=Path, required=True, help="folder of the sounds; those that it has are kept")
    add("--limit", type=options.positive_int, help="only so many clips, from the beginning of the list")
    add("--steps", type=options.positive_int, help="diffusion steps (default: the paper's)")
    add("--guidance", type=float, help="guidance scale (default: the paper's)")
    add("--seconds", type=options.seconds, help="duration (default: the paper's)")
    add("--seed", type=options.seed, default=0, help="of every sound (default: %(default)s)")
    add("--device", default="auto")
    add("--precision", choices=["32-true", "bf16", "auto"], default="32-true", help="(default: %(default)s)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from impact_pl.audio import save_audio, within_full_scale
    from impact_pl.precision import find_device
    from impact_pl.progress import progress

    args.device = find_device(args.device)
    clips = read_clip_list(args.test_list)
    captions = dict(list(clips.captions.items())[: args.limit])
    settings = settings_of(args)
    note(args.out, settings)
    files = {clip: args.out / f"{clip_stem(clips.names[clip])}.wav" for clip in captions}
    todo = [clip for clip, file in files.items() if not file.is_file()]
    if todo:
        draw, rate = load(args, settings)
        with progress(args.system, len(captions), len(captions) - len(todo), "sounds") as bar:
            for clip in todo:
                save_audio(files[clip], within_full_scale(draw(captions[clip], args.seed)), rate)
                bar.advance()
    print(f"{args.out}: {len(captions)} sounds of {args.system}, {len(todo)} of them made now, for {clips.name}")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Collect what determines the sounds besides captions."""
    settings = asdict(SYSTEMS[args.system]) | {"system": args.system, "weights": str(args.weights.resolve())}
    given = {name: getattr(args, name) for name in ("steps", "guidance", "seconds")}
    settings |= {name: value for name, value in given.items() if value is not None}
    return settings | {name: getattr(args, name) for name in ("seed", "precision")}


def note(out: Path, settings: dict[str, Any]) -> None:
    """Write ``settings`` next to the sounds.

    Raises:
        UserError: The sounds that are there were made with others.
    """
    path = out / NOTE
    out.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if changed := [f"{name} {before.get(name)!r}" for name, value in settings.items() if before.get(name) != value]:
        raise UserError(f"{out} holds sounds made with {', '.join(changed)}: repeat those options, or give another -o")


def load(args: argparse.Namespace, settings: dict[str, Any]) -> tuple[Draw, int]:
    """Load a system and return its function of caption and seed, with its sample rate in Hz.

    Raises:
        UserError: Its library is missing, or the folder is not of this system.
    """
    import torch

    import impact_pl._torchaudio  # noqa: F401  # before transformers and diffusers, which import torchaudio
    from impact_pl.precision import dtype_of

    if not args.weights.is_dir():
        raise UserError(f"{args.weights}: no such folder; --weights needs the published model's")
    dtype = dtype_of(args.precision, torch.device(args.device))
    build = musicgen if args.system == "musicgen" else diffusion
    try:
        return build(args.weights, args.device, dtype, settings)
    except ImportError as error:
        raise UserError(f"{args.system} needs diffusers ({error}): pip install 'impact-pl[audioldm]'") from error
    except OSError as error:  # how both libraries report a folder that lacks something
        raise UserError(f"{args.weights}: not a folder of {args.system} ({error})") from error


def diffusion(weights: Path, device: str, dtype: Any, settings: dict[str, Any]) -> tuple[Draw, int]:
    """Load a pipeline of diffusers. A sound depends on its caption and seed only."""
    import diffusers
    import torch

    pipeline = getattr(diffusers, settings["pipeline"]).from_pretrained(
        weights, torch_dtype=dtype, local_files_only=True
    )
    pipeline.to(device).set_progress_bar_config(disable=True)
    is_stable = settings["pipeline"].startswith("StableAudio")
    length = {"audio_end_in_s" if is_stable else "audio_length_in_s": settings["seconds"]}

    def draw(caption: str, seed: int) -> torch.Tensor:
        audio = pipeline(
            caption,
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **length,
        ).audios[0]
        audio = torch.as_tensor(audio).float().cpu()
        return audio.mean(dim=0) if audio.ndim == 2 else audio  # Stable Audio is stereo

    return draw, pipeline.vae.sampling_rate if is_stable else pipeline.vocoder.config.sampling_rate


def musicgen(weights: Path, device: str, dtype: Any, settings: dict[str, Any]) -> tuple[Draw, int]:
    """Load MusicGen from transformers. It draws from torch's global generator, which is seeded per sound."""
    import torch
    from transformers import AutoTokenizer, MusicgenForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True)
    model: Any = MusicgenForConditionalGeneration.from_pretrained(weights, dtype=dtype, local_files_only=True)
    model = model.to(device).eval()
    codec = model.config.audio_encoder
    num_tokens = round(settings["seconds"] * codec.frame_rate)

    @torch.inference_mode()
    def draw(caption: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        tokens = tokenizer([caption], return_tensors="pt").to(device)
        audio = model.generate(**tokens, do_sample=True, guidance_scale=settings["guidance"], max_new_tokens=num_tokens)
        return audio[0].float().cpu().mean(dim=0)

    return draw, codec.sampling_rate


if __name__ == "__main__":
    main()
