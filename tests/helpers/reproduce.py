"""docs/reproduce.md: its commands, and small data sets in the published formats to run them on."""

import json
import re
import shlex
from pathlib import Path

from tests.helpers.tiny_networks import write_tones

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
TEST_CLIPS = [f"{index:02d}fmOlUlwoN" for index in range(30)]  # as long as a YouTube id


def section(title: str) -> list[list[str]]:
    """The command lines below a heading, split into words."""
    body = DOCUMENT.split(f". {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", body, flags=re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def write_datasets() -> None:
    """Write what the document says has to be there, with a few clips each; some are listed but not on disk."""
    audiocaps, wavcaps, audioset = (Path("datasets") / name for name in ("audiocaps", "wavcaps", "audioset"))
    parts = {"train": ["train_clip1", "train_clip2", "train_gone3"], "val": ["valid_clip1"], "test": TEST_CLIPS}
    for number, (part, clips) in enumerate(parts.items(), start=1):
        write_tones(audiocaps / "audio" / part, [f"Y{clip}.wav" for clip in clips if "gone" not in clip], number)
        rows = [f"{number}{index}{again},{clip},30,a tone\n" for index, clip in enumerate(clips) for again in (1, 2)]
        (audiocaps / f"{part}.csv").write_text("audiocap_id,youtube_id,start_time,caption\n" + "".join(rows))
    entries = {
        "FreeSound/fsd": ["100", "200"],
        "BBC_Sound_Effects/bbc": ["NHU05093027"],
        "SoundBible/sb": ["200"],
        "AudioSet_SL/as": ["Ytrain_clip1.wav", f"Y{TEST_CLIPS[0]}.wav", "Yonly_here_1.wav"],
    }
    for number, (name, ids) in enumerate(entries.items(), start=10):
        folder = wavcaps / "json_files" / name
        folder.parent.mkdir(parents=True)
        data = [{"id": each, "caption": "A tone.", "duration": 1.0} for each in ids]
        folder.with_name(f"{folder.name}_final.json").write_text(
            json.dumps({"num_captions_per_audio": 1, "data": data})
        )
        stems = [each.removesuffix(".wav") for each in ids]
        write_tones(wavcaps / "audio" / folder.parent.name, [f"{each}.flac" for each in stems], number)
    blacklist = wavcaps / "json_files" / "blacklist" / "blacklist_exclude_all_ac.json"
    blacklist.parent.mkdir()
    blacklist.write_text(json.dumps({"AudioSet": ["Ytrain_clip1.wav"], "FreeSound": ["200"]}))
    write_tones(audioset / "audio", [f"Y{clip}.wav" for clip in ("balanced_11", "unbalanc_11", TEST_CLIPS[1])], 20)
    header = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    rows = {"balanced": ["balanced_11"], "unbalanced": ["unbalanc_11", "not_on_disk", TEST_CLIPS[1]]}
    for name, clips in rows.items():
        lines = [f'{clip}, 30.000, 40.000, "/m/09x0r,/m/04rlf"\n' for clip in clips]
        (audioset / f"{name}_train_segments.csv").write_text(header + "".join(lines))
    labels = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n137,/m/04rlf,"Music"\n'
    (audioset / "class_labels_indices.csv").write_text(labels)
    Path("lists").mkdir()
    rows = [f"{clip}_30,tone {index}\n" for index, clip in enumerate(TEST_CLIPS)]
    Path("lists/tango_886.csv").write_text("id,caption\n" + "".join(rows))
