"""Run the fast tests at both ends of the dependency ranges: the lowest versions that setup.cfg allows, and the newest.

    python -m lab.trials.versions [lowest] [newest] [--tests FILE ...]

uv (pip install uv) makes an environment per end, build/versions/NAME. ``lowest`` takes the lowest version of every
package that setup.cfg names, and the newest of what these need. The tests are the fast ones of tests/ without serving,
docs, tuning, clap and slurm. Prints the versions and runs the tests. uv reads its own environment variables: with
UV_TORCH_BACKEND=cpu it takes builds of torch without CUDA, where their index can be reached.
"""

import argparse
import configparser
import os
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
EXTRAS = ("dev", "eval", "tune", "audioldm")
LEFT_OUT = ("serving", "docs", "tuning", "clap", "slurm")


def direct_names() -> list[str]:
    """Read the names of the packages that setup.cfg requires, in the extras as well."""
    parser = configparser.ConfigParser(inline_comment_prefixes=None)
    parser.read(ROOT / "setup.cfg")
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in EXTRAS)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line).name for line in lines if line and not line.startswith("#")]


def install(end: str) -> Path:
    """Make the environment of an end; returns its Python."""
    folder = ROOT / "build" / "versions" / end
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, folder], check=True)
    wanted = f"{ROOT}[{','.join(EXTRAS)}]"
    resolution = ["--resolution", RESOLUTIONS[end]]
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, *resolution, "-e", wanted], check=True)
    return python


def versions(python: Path) -> list[str]:
    """List the installed versions of what setup.cfg names."""
    code = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep='\\n')"
    done = subprocess.run([python, "-c", code, *direct_names()], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def run_tests(python: Path, end: str, tests: list[str]) -> int:
    """Run the tests as `make test` does, from the repository's root."""
    chosen = tests or ["tests", *(f"--ignore=tests/{name}" for name in LEFT_OUT)]
    command: list[str | Path] = [
        python,
        "-m",
        "pytest",
        "-n",
        "3",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
        *chosen,
    ]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # tests start `impact`
    print(f"{end}: {', '.join(versions(python))}", flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ends", nargs="*", help="lowest, newest; both if left out")
    parser.add_argument("--tests", nargs="+", default=[], metavar="FILE", help="run these instead")
    args = parser.parse_args()
    ends = args.ends or list(RESOLUTIONS)
    if set(ends) - set(RESOLUTIONS):
        parser.error(f"choose among {', '.join(RESOLUTIONS)}")
    codes = [run_tests(install(end), end, args.tests) for end in ends]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
