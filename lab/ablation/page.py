"""Write the page of an ablation from results.json: verdicts on claims, tables, and the plot."""

import statistics
from pathlib import Path
from typing import Any

from impact_pl.partial import write_whole
from lab.ablation.pareto import Point, plot_pareto
from lab.ablation.plan import FULL, OF_THE_METHOD, Plan, make_plan
from lab.ablation.results import METRICS, Rows, write_results
from lab.ablation.verdicts import FAILS, HOLDS, NOT_RUN, REVERSED, UNRESOLVED, Claim, Verdict, judge, load_claims
from lab.markdown import table

SIGNS = {HOLDS: "✔ holds", REVERSED: "✘ reversed", FAILS: "✘ does not hold", UNRESOLVED: "~ not resolved"}
LETTERS = {"num_iterations": "T", "num_diffusion_steps": "S", "guidance_scale": "guidance"}  # abbreviations in the plot
RULE = """Verdicts are computed by one rule (`lab/ablation/verdicts.py`). Two rows are compared seed by seed.
Δ is the mean difference with its 95 % interval (Student's t over the seeds' differences; for latency, over repeats),
followed by Δ in units of the seeds' spread (the standard deviation over seeds, root mean square of both rows).
*A better than B* holds where the interval lies on A's side of zero, and is reversed where it lies on B's.
*A as good as B* holds where all of the interval says that A is worse by no more than the margin, and does not hold
where all of it says that A is worse by more.
Otherwise it is not resolved: so many seeds, at this size, cannot tell, and the interval says how large a difference
would have been seen. At 95 %, one of twenty comparisons of equals comes out resolved by chance."""


def write_page(results: dict[str, Any], folder: Path) -> Path:
    """Write ``ablation.md``, and the plot and ``results.json`` into the folder ``ablation``; return the page's path.

    For a plan that does not cover the complete method, the names are ``ablation_<size>``.
    """
    plan = make_plan_again(results)
    points = points_of(results["rows"])
    name = name_of(results["size"], plan)
    write_results(results, folder / name / "results.json")
    if len(points) > 1:
        clips = f"{plan.speed_batch} sounds of {plan.clip_seconds:g} s"
        titles = f"seconds for {clips}", "FD-YAMNet, mean and spread over seeds"
        plot_pareto(points, folder / name / "pareto.svg", *titles)
    page = folder / f"{name}.md"
    write_whole(page, page_of(results, plan, with_plot=len(points) > 1))
    return page


def name_of(size: str, plan: Plan) -> str:
    return "ablation" if is_of_the_method(size, plan) else f"ablation_{size}"


def is_of_the_method(size: str, plan: Plan) -> bool:
    return size in OF_THE_METHOD and not plan.model


def make_plan_again(results: dict[str, Any]) -> Plan:
    """Rebuild the plan of the results."""
    return make_plan(results["plan"], "results.json")


def page_of(results: dict[str, Any], plan: Plan, with_plot: bool) -> str:
    claims = [claim for claim in load_claims() if claim.size in ("", results["size"])]
    complete = is_of_the_method(results["size"], plan)
    if not complete:  # other rows are not discussed
        claims = [claim for claim in claims if all(row.partition("/")[0] in plan.rows for row in claim.pair)]
    verdicts = judge(claims, plan, results["rows"])
    settings = {name: row for name, row in results["rows"].items() if plan.model or "/" in name or name == FULL}
    rows = {name: row for name, row in results["rows"].items() if "/" not in name}
    parts = [
        title_of(plan, complete),
        "<!-- Made by `python -m lab.ablation`; not written by hand. -->",
        facts_of(results, plan),
        "## Claims",
        summary_of(verdicts),
        verdicts_table(verdicts),
        not_run(verdicts) if complete else "",
        RULE,
    ]
    spread = "Mean ± standard deviation over seeds, and their range."
    decoded = f"decoded with {said_decoding(plan.decoding)} where the name says nothing else."
    if plan.model:
        parts += [
            "## Settings",
            f"{spread} `full` is the model {decoded} {said_models(plan)}".strip(),
            metrics_table(settings, results["reference"]),
        ]
    else:
        parts += [
            "## Rows",
            f"{spread} Latency and memory are of the first seed's model.",
            metrics_table(rows, results["reference"]),
            "## Settings of `full`",
            f"The same models; {decoded}",
            metrics_table(settings, {}),
        ]
    if with_plot:
        picture = f"{name_of(results['size'], plan)}/pareto.svg"
        parts += ["## Quality against latency", f"![FD-YAMNet against latency]({picture})"]
        parts.append(
            "Named: rows, and what nothing else beats in both (the dashed line); T iterations, S diffusion steps."
        )
    parts += ["## Again", again(results["size"], plan, results["facts"]["manifest"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def title_of(plan: Plan, complete: bool) -> str:
    if not plan.model:
        return "# The ablation" if complete else "# An ablation of one choice"
    return "# Ways to decode one model" + (", next to others" if len(plan.rows) > 1 else "")


def facts_of(results: dict[str, Any], plan: Plan) -> str:
    """Describe what was run, in a paragraph."""
    facts = results["facts"]
    arguments = ", ".join(f"`{argument}`" for argument in plan.train)
    if plan.model:
        what = f"model `{plan.model}`, {plan.seeds} seeds of sounds of {plan.clip_seconds:g} s."
    else:
        what = (
            f"{plan.seeds} seeds, each with {plan.pretrain_steps} steps without text and {plan.text_steps} with it, on "
            f"{facts['clips']} clips of {plan.clip_seconds:g} s ({arguments})."
        )
    return (
        f"Size `{results['size']}`: {what} "
        f"Judged on {facts.get('samples', 'no')} held-out captions, {facts['labelled']} of them with a label of ESC-10 "
        "(accuracy). FD-YAMNet can be compared with others of this number only.\n\n"
        f"Made with code {facts['code']}, data {facts['data']}, torch {facts['versions'].get('torch')}, on "
        f"{facts['cores']} cores, {facts['workers']} tasks at a time."
    )


def said_decoding(decoding: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in decoding.items()) or "the defaults"


def said_models(plan: Plan) -> str:
    """Describe the rows of other models."""
    others = {name: row for name, row in plan.rows.items() if row.model}
    return " ".join(
        f"`{name}` is the model `{row.model}` decoded with {said_decoding(plan.decoding | row.decoding)}."
        for name, row in others.items()
    )


def summary_of(verdicts: list[Verdict]) -> str:
    """Count the verdicts, and name the claims that do not hold."""
    ran = [each for each in verdicts if each.verdict != NOT_RUN]
    if not ran:
        return "No claim could be judged yet."
    counts = {verdict: sum(each.verdict == verdict for each in ran) for verdict in SIGNS}
    said = ", ".join(f"{count} × {verdict}" for verdict, count in counts.items() if count)
    against = [
        f"- {each.claim.text} {METRICS[each.metric][0]}: {each.verdict}."
        for each in ran
        if each.verdict in (REVERSED, FAILS)
    ]
    return "\n".join([f"{len(ran)} comparisons: {said}.", *(["", "Not as claimed:", "", *against] if against else [])])


def verdicts_table(verdicts: list[Verdict]) -> str:
    lines = []
    before = None
    for each in verdicts:
        if each.difference is None or each.means is None:
            continue
        claim, difference = each.claim, each.difference
        heading, digits, more = METRICS[each.metric]
        said = f"{claim.text}<br>{question_of(claim)}", f"{claim.source}: {claim.published or 'no numbers'}"
        lines.append(
            [
                *(("", "") if claim is before else said),
                f"{heading} {'↑' if more else '↓'}",
                f"{each.means[0]:.{digits}f}, {each.means[1]:.{digits}f}",
                f"{difference.mean:+.{digits}f} ({difference.low:+.{digits}f} to {difference.high:+.{digits}f})",
                f"{difference.in_spreads:+.1f}",
                SIGNS[each.verdict],
            ]
        )
        before = claim
    columns = ["claim", "source, its numbers", "metric", "here", "Δ and its 95 % interval", "in spreads", "verdict"]
    return table(columns, lines, num_text=len(columns)) if lines else ""


def question_of(claim: Claim) -> str:
    first, second = claim.pair
    if claim.better:
        return f"`{first}` better than `{second}`"
    return f"`{first}` as good as `{second}`, within {claim.margin:.0%}"


def not_run(verdicts: list[Verdict]) -> str:
    """List the claims for which this ablation has no metrics."""
    ran = {id(each.claim) for each in verdicts if each.verdict != NOT_RUN}
    missing = {each.claim.text: each.claim.pair for each in verdicts if id(each.claim) not in ran}
    said = [f"- {text} (`{first}`, `{second}`)" for text, (first, second) in missing.items()]
    return "\n".join(["Not run here:", "", *said]) if said else ""


def metrics_table(rows: Rows, reference: dict[str, dict[str, float]]) -> str:
    keys = [
        key
        for key in METRICS
        if any(key in row for row in rows.values()) or any(key in row for row in reference.values())
    ]
    heads = [f"{METRICS[key][0]} {'↑' if METRICS[key][2] else '↓'}" for key in keys]
    names = {"real": "real sounds (real-vs-real baseline)", "codec": "codec reconstruction", "noise": "white noise"}
    lines = [
        [f"*{names[name]}*", *(f"{row[key]:.{METRICS[key][1]}f}" if key in row else "–" for key in keys)]
        for name, row in reference.items()
    ]
    lines += [[f"`{name}`", *(cell(key, row.get(key, {})) for key in keys)] for name, row in rows.items()]
    return table(["", *heads], lines)


def cell(key: str, values: dict[str, float]) -> str:
    """Format mean, standard deviation and range."""
    if not values:
        return "–"
    digits, numbers = METRICS[key][1], list(values.values())
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    if len(numbers) < 2:
        return mean
    spread = f"{statistics.stdev(numbers):.{digits}f}"
    return f"{mean} ± {spread}<br>{min(numbers):.{digits}f} to {max(numbers):.{digits}f}"


def points_of(rows: Rows) -> list[Point]:
    """Collect every row and setting that has a distance and a latency."""
    points = []
    for name, row in rows.items():
        if row.get("fd_yamnet") and row.get("latency"):
            values = list(row["fd_yamnet"].values())
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            seconds = statistics.median(row["latency"].values())
            points.append(Point(short_label(name), seconds, statistics.fmean(values), spread, "/" not in name))
    return points


def short_label(name: str) -> str:
    """Shorten the name of a row or setting for the plot: ``T=4, S=50``."""
    label = name.removeprefix(f"{FULL}/").replace(",", ", ")
    for field, letter in LETTERS.items():
        label = label.replace(field, letter)
    return label


def again(size: str, plan: Plan, data: str) -> str:
    command = f"python -m lab.ablation --size {size} --data {data}"
    if plan.model:
        return f"```bash\n{command} --model {plan.model}\n```"
    row = "head_mse" if "head_mse" in plan.rows else list(plan.rows)[-1]
    results = f"docs/{name_of(size, plan)}/results.json"
    return (
        f"```bash\nmake ablation SIZE={size} DATA={data}\n"
        f"{command} --only {row} --seed 1 --out runs/rebuilt --against {results}\n```\n\n"
        "The first command makes everything on this page, and continues where it was stopped; the second makes one row "
        "of one seed again and prints its metrics next to those of the page."
    )
