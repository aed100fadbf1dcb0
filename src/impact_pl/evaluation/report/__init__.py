"""The report of a run as one HTML page."""

from impact_pl.evaluation.report.page import (
    CaptionSounds,
    Report,
    choose_captions,
    read_caption_sounds,
    write_report,
)

__all__ = ["CaptionSounds", "Report", "choose_captions", "read_caption_sounds", "write_report"]
