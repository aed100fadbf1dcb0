"""`python -m lab.ablation`: train and evaluate every row of an ablation; write results, tables, a plot and verdicts."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from impact_pl.cli import options
from impact_pl.errors import UserError, user_errors
from lab.ablation.plan import SIZES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.ablation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train the rows of the ablation on the same steps and clips, several seeds each, generate with\n"
        "each in several ways, and write what comes out: results.json, and a page that says which claims of\n"
        "the paper hold here. The same command continues what was stopped, and does nothing that is done.\n"
        "Sizes are plans in lab/ablation/conf/: smoke (a minute), quick (an hour on two cores), full (hours),\n"
        "text (an hour): learned embeddings where a caption has no text, at all such positions or at eight;\n"
        "builtin and distilled train nothing: they generate with one model in many ways, or with its teacher.",
        epilog="example: python -m lab.ablation --size quick --data data/builtin/manifest.jsonl",
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="quick", help="(default: %(default)s)")
    add("--data", type=Path, default=Path("data/corpus/manifest.jsonl"), help="manifest.jsonl (default: %(default)s)")
    add("--out", type=Path, help="folder for everything (default: runs/ablation/SIZE)")
    add("--codec", help="name or folder (default: the plan's, builtin)")
    add("--text-encoder", help="name, or several with + between them: a row without each (default: the plan's, minilm)")
    add("--model", help="builtin and distilled: generate with this model folder (default: the plan's)")
    add("--device", help="cpu, cuda (default: the plan's, cpu)")
    add("--only", metavar="ROW", help="this row and what it needs, as head_mse; settings: all ways to generate")
    add("--seed", type=options.seed, help="with --only: this seed")
    add("--workers", type=options.positive_int, help="tasks at a time (default: one per core, at most 4; on a GPU 1)")
    add("--publish", type=Path, metavar="DIR", help="write the page there as well, as docs/ablation.md in the project")
    add("--against", type=Path, metavar="JSON", help="print metrics next to those of other results, as committed ones")
    add("--render", type=Path, metavar="JSON", help="run nothing: write the page of these results to --publish")
    add("--list", action="store_true", help="print the tasks and their commands, and run nothing")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from impact_pl.data.index import ShardIndex
    from lab.ablation.clips import write_captions, write_clips
    from lab.ablation.page import write_page
    from lab.ablation.plan import load_plan
    from lab.ablation.results import collect, read_results
    from lab.ablation.run import read_result, run_tasks
    from lab.ablation.tasks import Places, codec_of, plan_tasks, select

    if args.render:
        if not args.publish:
            raise UserError("--render: say with --publish DIR where the page goes")
        print(f"the page is {write_page(read_results(args.render), args.publish)}")
        return
    if args.seed is not None and args.only is None:
        raise UserError("--seed chooses a seed of one row: say which with --only ROW")
    if args.publish and args.only:
        raise UserError("--publish writes a page of all rows: leave --only out")
    given = {key: getattr(args, key) for key in ("codec", "text_encoder", "model", "device")}
    plan = load_plan(args.size, **{key: value for key, value in given.items() if value is not None})
    if plan.model:
        if args.text_encoder:
            raise UserError(f"--text-encoder: --size {args.size} trains nothing, and its model has its own")
        plan = plan if args.codec else replace(plan, codec=codec_of(plan.model))
    out = args.out or Path("runs/ablation") / args.size
    against = read_results(args.against) if args.against else None
    places = Places(out / "clips.jsonl", out / "captions.jsonl", out)
    write_clips(plan, args.data, places.manifest)
    facts = write_captions(plan, places.manifest, places.captions)
    tasks = plan_tasks(plan, places)
    chosen = select(tasks, args.only, args.seed) if args.only else tasks
    if args.list:
        print_tasks(chosen)
        return
    workers = args.workers or (min(4, os.cpu_count() or 1) if plan.device == "cpu" else 1)
    failure = run_tasks(chosen, out, workers)
    if failure and read_result(out, tasks[0]) is None:  # not even the data
        raise UserError(failure)
    facts |= {"workers": workers, "manifest": str(args.data)}
    if not plan.model:
        facts["clips"] = ShardIndex.load(places.latents / "train").num_samples
    results = collect(plan, args.size, tasks, out, facts)
    for folder in [out, *([args.publish] if args.publish and not failure else [])]:
        print(f"the page is {write_page(results, folder)}")
    print_metrics(results, args.only, against)
    if failure:
        raise UserError(failure)


def print_tasks(tasks: list) -> None:
    from lab.ablation.run import as_typed

    for task in tasks:
        print(f"{task.name} ({task.phase})")
        for module, *arguments in task.commands:
            print(" ", as_typed(module, arguments))


def print_metrics(results: dict, only: str | None, against: dict | None) -> None:
    """Print every row's metrics (or one row's), seed by seed where there are others to compare with."""
    from lab.ablation.page import cell
    from lab.ablation.plan import SETTINGS
    from lab.ablation.results import METRICS

    if against and against["facts"]["data"] != results["facts"]["data"]:
        print("the other results are of other data: metrics differ for that reason alone")
    for name, row in results["rows"].items():
        if only not in (None, name, SETTINGS if "/" in name else name):
            continue
        for key, values in row.items():
            line = f"{name}: {METRICS[key][0]} {cell(key, values).replace('<br>', ', ')}"
            theirs = against["rows"].get(name, {}).get(key, {}) if against else {}
            pairs = [f"seed {seed} {values[seed]:.6g} (there {theirs[seed]:.6g})" for seed in values if seed in theirs]
            print(line + (f"; {', '.join(pairs)}" if pairs else ""))


if __name__ == "__main__":
    main()
