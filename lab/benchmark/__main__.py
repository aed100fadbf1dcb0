"""`python -m lab.benchmark`: measure how fast generation, training and data loading are on this machine."""

import argparse
import dataclasses
import functools
import itertools
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impact_pl.config import DecodingConfig, TrainConfig, with_preset
from impact_pl.errors import UserError, user_errors
from lab.benchmark.arguments import build_parser

if TYPE_CHECKING:
    from impact_pl.models.spec import ImpactSpec
    from lab.benchmark.latency import DecodingVariant
    from lab.benchmark.record import BenchmarkRecord
    from lab.benchmark.subject import Subject
    from lab.benchmark.training import StepVariant

say = functools.partial(print, flush=True)  # progress


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.command = shlex.join(["python", "-m", "lab.benchmark", *(sys.argv[1:] if argv is None else argv)])
    if args.part == "document":
        from lab.benchmark.document import write_document

        write_document(args.records, args.out)
        print(f"{args.out}: made of {len(args.records)} records")
        return
    prepare(args)
    COMMANDS[args.part](args)


def prepare(args: argparse.Namespace) -> None:
    """Set device, threads, and the precisions that ``auto`` resolves to."""
    import torch  # imported late, so that --help responds at once

    from impact_pl.precision import find_device, resolve

    args.device = torch.device(find_device(args.device))
    if args.threads:
        torch.set_num_threads(args.threads)
    if "precision" in args:
        args.precision = list(dict.fromkeys(resolve(name, args.device) for name in args.precision))


@contextmanager
def recording(
    args: argparse.Namespace, spec: "ImpactSpec | None" = None, product_rates: dict[str, float] | None = None
) -> Iterator["BenchmarkRecord"]:
    """Yield a record of this command. When it is complete, its tables are printed.

    With ``spec``, it includes the number of computed text positions per caption.
    """
    from lab.benchmark.document import body
    from lab.benchmark.record import BenchmarkRecord
    from lab.benchmark.subject import text_positions

    settings = settings_of(args)
    if spec is not None:
        settings["text_positions"] = [text_positions(spec), spec.text_length]
    record = BenchmarkRecord(args.part, args.command, args.device, settings, product_rates, args.json)
    yield record
    print("\n" + "\n".join(body(record.content)))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    left_out = ("part", "command", "json", "device")
    kept = {key: value for key, value in vars(args).items() if key not in left_out}
    return {key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}


def subject_of(args: argparse.Namespace, duration: float, parts: bool) -> "Subject":
    """Load ``--model``: a folder, or a name under conf/model with the changes of ``--set``."""
    from impact_pl.cli.compose import compose
    from lab.benchmark import subject

    say(f"building {args.model}")
    if Path(args.model).is_dir():
        if args.set:
            raise UserError(f"--set changes a named model; {args.model} is a folder and stays what it is")
        return subject.from_folder(Path(args.model), args.device, parts)
    config = compose("train", TrainConfig, [f"model={args.model}", *args.set]).model
    return subject.named(args.model, config, duration, args.device, parts)


def decoding_variants(args: argparse.Namespace, spec: "ImpactSpec") -> "list[DecodingVariant]":
    """List every engine in every precision, then the presets, which change how ``spec``'s model is decoded.

    Raises:
        UserError: The model does not support the decoding.
    """
    from impact_pl.precision import resolve
    from impact_pl.sampling.decoding import check_decoding
    from lab.benchmark.latency import DecodingVariant

    found = []
    for engine, precision in itertools.product(args.engine, args.precision):
        decoding = DecodingConfig(num_diffusion_steps=args.diffusion_steps, engine=engine, precision=precision)
        found.append(DecodingVariant(f"{engine}, {precision}", decoding))
    for name in args.preset:
        preset = with_preset(spec.own_decoding, name, {})
        precision = resolve(preset.precision, args.device)
        decoding = dataclasses.replace(preset, precision=precision)
        found.append(DecodingVariant(f"preset {name}, {precision}", decoding, preset=True))
    for variant in found:
        check_decoding(variant.decoding, spec.model.num_timesteps)
    return found


def generation(args: argparse.Namespace) -> None:
    """Measure latency, throughput or scaling: the same measurement over different ranges."""
    from lab.benchmark.latency import Setting, measure

    durations = args.duration if isinstance(args.duration, list) else [args.duration]
    subject = subject_of(args, max(durations), parts=not getattr(args, "no_codec", True))
    variants = decoding_variants(args, subject.model.spec)
    with recording(args, subject.model.spec) as record:
        for duration, batch in itertools.product(durations, args.batch):
            for row in measure(Setting(subject, batch, duration, args.repeats), variants, args.iterations, say):
                record.add(row)


def training(args: argparse.Namespace) -> None:
    from lab.benchmark import training as timed
    from lab.benchmark.machine import product_rates

    subject = subject_of(args, args.duration, parts=False)
    spec, num_frames = subject.model.spec, subject.num_frames(args.duration)
    variants, stepper = step_variants(args, spec), timed.Stepper(subject, args.batch, num_frames)
    say("measuring the machine's matrix products")
    rates = product_rates(args.device)
    say(f"{len(variants)} variants of a step, {2 * args.repeats} steps of each")
    with recording(args, spec, rates) as record:
        for row in timed.measure(stepper, variants, rates, args.repeats):
            record.add(row)


def step_variants(args: argparse.Namespace, spec: "ImpactSpec") -> "dict[str, StepVariant]":
    from lab.benchmark.training import VARIANTS, default_variants

    if args.variants is None:
        return default_variants(args.device, packs=spec.num_padding < spec.text_length)
    names = list(VARIANTS)
    if not all(number.isdigit() and 1 <= int(number) <= len(names) for number in args.variants):
        listed = "; ".join(f"{index}: {name}" for index, name in enumerate(names, start=1))
        raise UserError(f"--variants {' '.join(args.variants)}: choose numbers of {listed}")
    return {names[int(number) - 1]: VARIANTS[names[int(number) - 1]] for number in args.variants}


def reading(args: argparse.Namespace) -> None:
    from lab.benchmark import data
    from lab.cards.scaling import planned_spec

    with recording(args) as record, tempfile.TemporaryDirectory() as scratch:
        spec = planned_spec(TrainConfig().model)
        folder = args.data or data.random_shards(Path(scratch), spec, num_frames=256)
        setting = data.Reading(folder, args.split, tuple(args.workers), args.batch_size, args.epochs)
        for row in data.measure(*data.reading_variants(setting), args.repeats):
            record.add(row)


def peers(args: argparse.Namespace) -> None:
    """Measure other systems, and our rows including the codec."""
    from lab.benchmark import latency, peer_models

    systems = args.systems if args.systems is not None else list(peer_models.PEERS)
    if unknown := set(systems) - set(peer_models.PEERS):
        raise UserError(f"--systems {', '.join(sorted(unknown))}: choose {', '.join(peer_models.PEERS)}")
    subject = subject_of(args, args.duration, parts=True)
    variants = decoding_variants(args, subject.model.spec)
    with recording(args, subject.model.spec) as record:
        for batch in args.batch:
            setting = latency.Setting(subject, batch, args.duration, args.repeats)
            for row in latency.measure(setting, variants, args.iterations, say):
                record.add(peer_models.own_row(subject, row))
            for name, precision in itertools.product(systems, args.precision):
                record.add(peer_models.measure(name, precision, batch, args.device, args.repeats, args.whole))
                say(f"{name}, {precision}, batch {batch}: {record.content['rows'][-1]['seconds']:.4g} s")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "latency": generation,
    "throughput": generation,
    "scaling": generation,
    "training": training,
    "reading": reading,
    "peers": peers,
}

if __name__ == "__main__":
    main()
