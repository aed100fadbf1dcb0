"""Write a tuned model's card, with the header that the Hugging Face hub reads, and its captions."""

import json
from collections import Counter
from pathlib import Path

from impact_pl.data.manifest import Record
from impact_pl.files import read_lines
from impact_pl.partial import write_whole
from impact_pl.tuning.replay import CAPTIONS_NAME

CARD_NAME = "README.md"
CARD = """---
license: other
license_name: see-below
language: en
pipeline_tag: text-to-audio
library_name: impact_pl
tags: [text-to-audio, audio-generation, sound-effects, impact]
---

# {name}

Text-to-audio model, tuned from `{source}` to {num_clips} recordings with impact_pl.

```bash
impact generate {example} -o sound.wav --model hub:OWNER/{name}
```

```python
from impact_pl import ImpactPipeline

pipeline = ImpactPipeline.from_pretrained("hub:OWNER/{name}")
pipeline({example}).save("sound.wav")
```

## Training

{facts}

## What it can make

`captions.txt` lists captions of its training.

## Recordings and their licences

{licences}

The weights contain no recording. The starting model's own terms apply as well: see the card of `{source}`.
"""


def write_card(
    folder: Path, name: str, source: str, records: list[Record], captions: list[str], facts: dict[str, str]
) -> None:
    """Write README.md and captions.txt into a model folder.

    Args:
        folder: The model folder.
        name: Name of the model.
        source: Model that it started from.
        records: Clips that it was tuned to.
        captions: Everything that it can make: own captions first.
        facts: Name -> text, such as steps and held-out loss.
    """
    counts = Counter((record.licence or "not stated", _origin(record)) for record in records)
    rows = [f"| {_cell(licence)} | {_cell(origin)} | {count} |" for (licence, origin), count in sorted(counts.items())]
    text = CARD.format(
        name=name,
        source=source,
        num_clips=len(records),
        example=json.dumps(captions[0], ensure_ascii=False),
        facts="\n".join(f"- {key}: {value}" for key, value in facts.items()),
        licences="\n".join(["| licence | source | clips |", "|---|---|---:|", *rows]),
    )
    write_whole(folder / CAPTIONS_NAME, "".join(f"{caption}\n" for caption in captions))
    write_whole(folder / CARD_NAME, text)


def add_card(source: Path, out: Path) -> None:
    """Copy card and captions of ``source`` into the exported folder ``out``, or write a card to be completed."""
    for name in (CARD_NAME, CAPTIONS_NAME):
        if (source / name).is_file() and source.resolve() != out.resolve():
            write_whole(out / name, (source / name).read_bytes())
    if not (out / CARD_NAME).is_file():
        facts = {"Exported from": str(source), "Data": "to be completed: what it was trained on, and for how long"}
        known = read_lines(out / CAPTIONS_NAME) if (out / CAPTIONS_NAME).is_file() else []
        captions = [caption for caption in known if caption.strip()] or ["a dog barks"]
        write_card(out, out.resolve().name, "random weights or an earlier stage", [], captions, facts)


def _origin(record: Record) -> str:
    """Return a clip's source; for clips without one, ``datasets.folder`` has put the file's name there."""
    return record.source or Path(record.path).name


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
