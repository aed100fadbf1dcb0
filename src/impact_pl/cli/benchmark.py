"""`impact-benchmark`: how fast generation, training and data are here, beside what the machine allows"""

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

from impact_pl.cli import options
from impact_pl.cli.benchmark_options import build_parser
from impact_pl.config import DecodingConfig, TrainConfig, with_preset
from impact_pl.errors import user_errors

if TYPE_CHECKING:
    from impact_pl.benchmark.machine import Rates
    from impact_pl.benchmark.record import Record
    from impact_pl.benchmark.subject import Subject
    from impact_pl.benchmark.units import Way
    from impact_pl.models.spec import ImpactSpec

say = functools.partial(print, flush=True)  # progress


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    args.command = shlex.join(["impact-benchmark", *(sys.argv[1:] if argv is None else argv)])
    if args.part == "document":
        from impact_pl.benchmark.document import write_document

        write_document(args.records, args.out)
        print(f"{args.out}: made of {len(args.records)} records")
        return
    prepare(args)
    COMMANDS[args.part](args)


def prepare(args: argparse.Namespace) -> None:
    """Device, threads, and the precisions that ``auto`` stands for there."""
    options.require_device(args.device)
    import torch  # late: --help answers at once

    from impact_pl.precision import resolve

    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = torch.device(args.device)
    if "precision" in args:
        args.precision = list(dict.fromkeys(resolve(name, args.device) for name in args.precision))


@contextmanager
def recording(
    args: argparse.Namespace, rates: "Rates | None" = None, spec: "ImpactSpec | None" = None
) -> Iterator["Record"]:
    """A record of this command; when it is complete its tables are printed and its pictures drawn.

    Of a model's ``spec`` it holds how many text positions a caption is computed at.
    """
    from impact_pl.benchmark.document import body
    from impact_pl.benchmark.plots import plot
    from impact_pl.benchmark.record import Record
    from impact_pl.benchmark.work import text_positions

    settings = settings_of(args)
    if spec is not None:
        settings["text_positions"] = [text_positions(spec)[0], spec.text_length]
    record = Record(args.part, args.command, args.device, settings, rates, args.json)
    yield record
    print("\n" + "\n".join(body(record.content)))
    if args.plots is not None:
        for path in plot(record.content, args.plots, args.part):
            print(path)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    left_out = ("part", "command", "json", "plots", "device")
    kept = {key: value for key, value in vars(args).items() if key not in left_out}
    return {key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}


def rates_of(args: argparse.Namespace) -> "Rates":
    from impact_pl.benchmark.machine import measure

    say("measuring the machine: matrix products, memory, launches")
    return measure(args.device)


def subject_of(args: argparse.Namespace, duration: float, parts: bool) -> "Subject":
    """``--model``: a folder, or a name under conf/model with what ``--set`` changes."""
    from impact_pl.benchmark import subject
    from impact_pl.cli.compose import compose

    say(f"building {args.model}")
    if Path(args.model).is_dir():
        if args.set:
            raise ValueError(f"--set changes a named model; {args.model} is a folder and stays what it is")
        return subject.from_folder(Path(args.model), args.device, parts)
    config = compose("train", TrainConfig, [f"model={args.model}", *args.set]).model
    return subject.named(args.model, config, duration, args.device, parts)


def ways_of(args: argparse.Namespace, spec: "ImpactSpec") -> "list[Way]":
    """Every engine in every precision, then the presets, which change how ``spec``'s model is decoded.

    Raises:
        ValueError: one that the model cannot be decoded with.
    """
    from impact_pl.benchmark.units import Way
    from impact_pl.benchmark.work import check_counted
    from impact_pl.decoding import check_decoding
    from impact_pl.precision import resolve

    found = []
    for engine in args.engine:
        for precision in args.precision:
            decoding = DecodingConfig(num_diffusion_steps=args.diffusion_steps, engine=engine, precision=precision)
            found.append(Way(f"{engine}, {precision}", decoding))
    for name in args.preset:
        preset = with_preset(spec.own_decoding, name, {})
        precision = resolve(preset.precision, args.device)
        decoding = dataclasses.replace(preset, precision=precision)
        found.append(Way(f"preset {name}, {precision}", decoding, preset=True))
    check_counted(spec)
    for way in found:
        check_decoding(way.decoding, spec.model.num_timesteps)
    return found


def generation(args: argparse.Namespace) -> None:
    """latency, throughput and scaling: the same measurement over other ranges."""
    from impact_pl.benchmark.latency import measure

    durations = args.duration if isinstance(args.duration, list) else [args.duration]
    subject = subject_of(args, max(durations), parts=not getattr(args, "no_codec", True))
    ways, rates = ways_of(args, subject.model.spec), rates_of(args)
    with recording(args, rates, subject.model.spec) as record:
        for duration, batch in itertools.product(durations, args.batch):
            common = (rates, args.points, args.repeats, args.whole, say)
            for row in measure(subject, ways, batch, args.iterations, duration, *common):
                record.add(row)


def training(args: argparse.Namespace) -> None:
    from impact_pl.benchmark import training as timed
    from impact_pl.benchmark.data import random_shards

    subject = subject_of(args, args.duration, parts=False)
    ways, rates, frames = training_ways(args, subject.model.spec), rates_of(args), subject.num_frames(args.duration)
    stepper = timed.Stepper(subject, args.batch, frames)
    say(f"{len(ways)} ways to make a step, {2 * args.repeats} steps of each")
    with recording(args, rates, subject.model.spec) as record, tempfile.TemporaryDirectory() as scratch:
        data = args.data or random_shards(Path(scratch), subject.model.spec, frames, clips=max(64, 8 * args.batch))
        timed.check_data(stepper, data / "train")  # before minutes of timing
        for row in timed.measure(stepper, ways, rates, args.repeats):
            record.add(row)
        for workers in args.workers:
            record.add(timed.data_wait(stepper, timed.ours(args.device), data / "train", workers, args.steps))


def training_ways(args: argparse.Namespace, spec: "ImpactSpec") -> dict:
    from impact_pl.benchmark.training import WAYS, default_ways

    if args.ways is None:
        return default_ways(args.device, packs=spec.num_padding < spec.text_length)
    names = list(WAYS)
    if not all(number.isdigit() and 1 <= int(number) <= len(names) for number in args.ways):
        listed = "; ".join(f"{index}: {name}" for index, name in enumerate(names, start=1))
        raise ValueError(f"--ways {' '.join(args.ways)}: choose numbers of {listed}")
    return {names[int(number) - 1]: WAYS[names[int(number) - 1]] for number in args.ways}


def reading(args: argparse.Namespace) -> None:
    from impact_pl.benchmark import data
    from impact_pl.training.scaling import planned_spec

    with recording(args) as record, tempfile.TemporaryDirectory() as scratch:
        spec = planned_spec(TrainConfig().model)
        folder = args.data or data.random_shards(Path(scratch), spec, num_frames=256)
        setting = data.Reading(folder, args.split, tuple(args.workers), args.batch_size, args.epochs)
        for row in data.measure(*data.reading_ways(setting), args.repeats):
            record.add(row)


def making(args: argparse.Namespace) -> None:
    from impact_pl.benchmark import data

    setting = data.Making(
        args.manifest, args.clips, args.clip_seconds, args.text_encoder, tuple(args.workers), args.rate
    )
    with recording(args) as record, tempfile.TemporaryDirectory() as scratch:
        for row in data.measure(*data.precompute_ways(setting, Path(scratch)), args.repeats):
            record.add(row)


def peers(args: argparse.Namespace) -> None:
    """Other systems, and our rows with the codec in the place of what makes sound of their results."""
    from impact_pl.benchmark import latency
    from impact_pl.benchmark import peers as others
    from impact_pl.benchmark.peer_models import PEERS

    systems = args.systems if args.systems is not None else list(PEERS)
    if unknown := set(systems) - set(PEERS):
        raise ValueError(f"--systems {', '.join(sorted(unknown))}: choose {', '.join(PEERS)}")
    subject = subject_of(args, args.duration, parts=True)
    ways, rates = ways_of(args, subject.model.spec), rates_of(args)
    with recording(args, rates, subject.model.spec) as record:
        for batch in args.batch:
            common = (rates, args.points, args.repeats, args.whole, say)
            for row in latency.measure(subject, ways, batch, args.iterations, args.duration, *common):
                record.add(others.own_row(subject, row))
            for name, precision in itertools.product(systems, args.precision):
                record.add(others.measure(name, precision, batch, args.device, args.repeats, args.whole))
                say(f"{name}, {precision}, batch {batch}: {record.content['rows'][-1]['seconds']:.4g} s")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "latency": generation,
    "throughput": generation,
    "scaling": generation,
    "training": training,
    "reading": reading,
    "precompute": making,
    "peers": peers,
}

if __name__ == "__main__":
    main()
