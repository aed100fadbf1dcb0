"""Render HTML pages from templates. Every value is escaped, and a missing value is an error."""

import base64
import io
from typing import Any

import jinja2
import soundfile
from torch import Tensor

from impact_pl.audio import SAMPLE_RATE

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("impact_pl.evaluation", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {}  # keep the order of keys


def render(template: str, **values: Any) -> bytes:
    """Render a template from the folder ``templates``."""
    return _TEMPLATES.get_template(template).render(values).encode()


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def flac(waveform: Tensor) -> bytes:
    """Encode a waveform (S,) at 16 kHz as lossless 16-bit FLAC without metadata."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
