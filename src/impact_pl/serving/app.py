"""The page itself, in Gradio: components, and what pressing them does.

Its public endpoints are ``generate``, ``replace``, ``extend``, ``vary`` and ``loop``: each returns the files of the
sounds that it made and their settings. What only updates the page is private.
"""

import functools
import html
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import numpy as np

from impact_pl.config import PRESETS
from impact_pl.errors import UserError
from impact_pl.inference.edit import SIDES
from impact_pl.models.spec import BUILTIN
from impact_pl.serving.picture import draw_sound, mark_region
from impact_pl.serving.studio import SEED_LIMIT, Session, Studio, Take, waveform_of

SESSION_SECONDS = 3600  # without a new sound, after which a session's files are deleted
SWEEP_SECONDS = 600  # between two looks for old files
FONTS = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
KINDS = " Best at dogs, roosters, fires, babies and helicopters; weak at sneezes and chainsaws. No speech or music."
CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
.take-sound audio { width: calc(100% - 2rem); }
.take-note { font-size: .85rem; line-height: 1.4; overflow-wrap: anywhere; }
.take-note code { font-size: .75rem; white-space: pre-wrap; }
.warning { color: #b45309; font-weight: 600; }
.dark .warning { color: #fbbf24; }
#history .wrap { flex-direction: column; align-items: stretch; }
#history label { overflow-wrap: anywhere; }
#picture img { width: 100%; cursor: crosshair; }
"""


def build_app(studio: Studio) -> gr.Blocks:
    """Build the page of a studio. :func:`launch` serves it."""
    return Page(studio).app


def launch(app: gr.Blocks, studio: Studio, host: str, port: int | None) -> str:
    """Serve a page in threads of this process, and return its URL. Without a port, the first free one from 7860."""
    app.queue(max_size=studio.limits.waiting, default_concurrency_limit=1, api_open=False)
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=f"{studio.limits.upload_mb}mb",
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        _frontend=False,  # skips a request to the page itself, whose time limit a busy machine exceeds
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
    return url


class Page:
    """Components of the page, from top to bottom."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.limits = studio, studio.limits
        with gr.Blocks(
            title="impact_pl", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, SESSION_SECONDS)
        ) as self.app:
            self.session = gr.State(Session(), time_to_live=SESSION_SECONDS, delete_callback=Session.close)
            self.files = gr.File(file_count="multiple", visible=False, label="sounds")
            self.details = gr.JSON(visible=False, label="details")
            gr.HTML(self._header(), padding=False)
            self._add_generation()
            self._add_sounds()
            self._add_editing()
            self._add_history()
            self._connect()

    def _header(self) -> str:
        pipeline, model = self.studio.pipeline, self.studio.model
        return (
            f"<h1>impact_pl</h1><p>Sounds from captions. Model <b>{html.escape(model)}</b>: up to "
            f"{pipeline.max_duration:.2f} s at {pipeline.sample_rate / 1000:g} kHz, mono."
            f"{KINDS if model == BUILTIN else ''} Recordings of up to {self.limits.seconds:g} s and "
            f"{self.limits.upload_mb} MB can be edited.</p>"
        )

    def _add_generation(self) -> None:
        longest = int(self.studio.pipeline.max_duration * 100 + 1e-6) / 100
        gr.HTML("<h2>Make a sound</h2>", padding=False)
        self.caption = gr.Textbox(
            label="Caption", placeholder="a dog barks", max_length=self.limits.caption, elem_id="caption"
        )
        with gr.Row():
            self.seconds = gr.Slider(0.1, longest, longest, step=0.01, label="Seconds", elem_id="seconds")
            self.variations = gr.Slider(1, self.limits.variations, 2, step=1, label="Variations")
        with gr.Row():
            self.seed = gr.Number(
                0, label="Seed (same seed, same sound)", precision=0, minimum=0, min_width=100, elem_id="seed"
            )
            self.preset = gr.Radio(
                list(PRESETS), value="exact", label="Preset (fast: a fifth of the time)", min_width=160
            )
        with gr.Row():
            self.other_seed = gr.Button("Another seed", min_width=180, scale=0)
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=160)

    def _add_sounds(self) -> None:
        with gr.Row():
            self.slots = [Slot("Edit this sound", f"sound-{number}") for number in range(self.limits.variations)]

    def _add_editing(self) -> None:
        gr.HTML(
            "<h2>Edit a sound</h2><p>Upload one, or press “Edit this sound” under a sound. A click on its picture "
            "moves the nearer edge of the region. To build on a result, press “Edit this sound further”.</p>",
            padding=False,
        )
        self.source = gr.Audio(
            sources=["upload"], type="filepath", buttons=["download"], label="Sound to edit", elem_id="source"
        )
        self.picture = gr.Image(
            show_label=False, interactive=False, buttons=[], visible=False,
            elem_id="picture",
        )  # fmt: skip
        with gr.Row():
            self.start = gr.Slider(0, self.limits.seconds, 0, step=0.01, label="Region starts at (s)", elem_id="start")
            self.end = gr.Slider(0, self.limits.seconds, 0, step=0.01, label="Region ends at (s)", elem_id="end")
        with gr.Row():
            self.drawn = gr.Textbox(
                label="What to hear there", placeholder="a rooster crows", max_length=self.limits.caption,
                elem_id="drawn", scale=3, min_width=240,
            )  # fmt: skip
            self.edit_seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=100)
            self.edit_preset = gr.Radio(list(PRESETS), value="exact", label="Preset", min_width=160)
        with gr.Tabs():
            with gr.Tab("Replace"):
                self.replace = gr.Button("Replace the region", variant="primary", elem_id="replace")
            with gr.Tab("Extend"):
                with gr.Row():
                    self.added = gr.Slider(0.1, self.limits.added, 2, step=0.1, label="Seconds to add")
                    self.side = gr.Radio(list(SIDES), value="end", label="Side")
                self.extend = gr.Button("Extend", variant="primary")
            with gr.Tab("Vary"):
                self.share = gr.Slider(0.05, 1, 0.3, step=0.05, label="Share to draw again")
                self.vary = gr.Button("Vary", variant="primary")
            with gr.Tab("Loop"):
                self.seam = gr.Slider(0.1, 2, 1, step=0.1, label="Seconds of the seam, at most half of the sound")
                self.loop = gr.Button("Loop", variant="primary")
        self.edited = Slot("Edit this sound further", "edited")

    def _add_history(self) -> None:
        gr.HTML(
            f"<h2>History</h2><p>The last {self.limits.history} sounds since the page was loaded. Choose one to edit "
            "it.</p>",
            padding=False,
        )
        self.history = gr.Radio([], show_label=False, elem_id="history", container=False)

    def _connect(self) -> None:
        studio, made = self.studio, [slot.column for slot in self.slots]
        for slot in self.slots:
            made += [slot.audio, slot.note]
        inputs = [self.caption, self.seconds, self.variations, self.seed, self.preset]
        event = self._call([self.generate.click, self.caption.submit], studio.generate, "generate", inputs)
        event.success(self._show_made, self.session, made, **QUIET).success(
            _show_history, self.session, self.history, **QUIET
        )
        style = [self.edit_seed, self.edit_preset]
        for button, call, own in (
            (self.replace, studio.replace, [self.start, self.end]),
            (self.extend, studio.extend, [self.added, self.side]),
            (self.vary, studio.vary, [self.share]),
            (self.loop, studio.loop, [self.seam]),
        ):
            event = self._call([button.click], call, call.__name__, [self.source, self.drawn, *own, *style])
            shown = [self.edited.column, self.edited.audio, self.edited.note]
            event.success(_show_edited, self.session, shown, **QUIET).success(
                _show_history, self.session, self.history, **QUIET
            )
        self._connect_source()

    def _connect_source(self) -> None:
        for slot in (*self.slots, self.edited):
            slot.edit.click(lambda sound: sound, slot.audio, self.source, **QUIET)
        self.history.input(_choose, [self.session, self.history], self.source, **QUIET)
        self.other_seed.click(lambda: random.randrange(SEED_LIMIT - 9), None, self.seed, **QUIET)
        told = QUIET | {"queue": True}  # Gradio shows no error of a call outside of its queue
        shown = [self.start, self.end, self.picture]
        self.source.change(self._open, self.source, shown, concurrency_limit=None, **told)
        region = [self.source, self.start, self.end]
        for slider in (self.start, self.end):
            slider.change(self._draw, region, self.picture, trigger_mode="always_last", **QUIET)
        self.picture.select(self._move_edge, region, [self.start, self.end], **QUIET)

    def _call(self, triggers: list, call: Callable, name: str, inputs: list) -> Any:
        """Connect a call of the studio, as a queued endpoint; only one runs at a time."""

        def run(session: Session, *arguments: Any) -> tuple:
            *given, progress = arguments
            with _told():
                takes = call(session, *given, progress=lambda done, total: progress((done, total)))
            return session, [str(take.file) for take in takes], [take.details for take in takes]

        # Gradio names the endpoint's parameters by the signature, and passes a progress where its default is one.
        signature = inspect.signature(call)
        own = {"progress": signature.parameters["progress"].replace(default=gr.Progress())}
        run.__signature__ = signature.replace(parameters=(signature.parameters | own).values())  # type: ignore
        return gr.on(
            triggers, run, [self.session, *inputs], [self.session, self.files, self.details], api_name=name,
            api_description=(call.__doc__ or "").splitlines()[0], concurrency_limit=1, concurrency_id="model",
        )  # fmt: skip

    def _show_made(self, session: Session) -> list:
        takes: list[Take | None] = list(session.latest)
        takes += [None] * (len(self.slots) - len(takes))
        columns = [gr.update(visible=take is not None) for take in takes]
        return columns + [value for take in takes for value in _shown(take)]

    def _open(self, sound: str | None) -> tuple:
        """Fit the region to a new sound: its middle third."""
        if not sound:
            return gr.skip(), gr.skip(), gr.update(visible=False, value=None)
        with _told():
            seconds = self.studio.open(sound).duration
        start, end = round(seconds / 3, 2), round(2 * seconds / 3, 2)
        bounds: dict[str, Any] = {"maximum": int(seconds * 100) / 100}
        return gr.update(value=start, **bounds), gr.update(value=end, **bounds), self._draw(sound, start, end)

    def _draw(self, sound: str | None, start: float, end: float) -> Any:
        if not sound:
            return gr.skip()
        with _told():
            pixels, seconds = self._pixels(sound)
        return gr.update(value=mark_region(pixels, seconds, start, end), visible=True)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a page lives as long as its server
    def _pixels(self, sound: str) -> tuple[np.ndarray, float]:
        recording = self.studio.open(sound)
        return draw_sound(waveform_of(recording), recording.sample_rate), recording.duration

    def _move_edge(self, sound: str | None, start: float, end: float, event: gr.SelectData) -> tuple:
        """Move the nearer edge of the region to where the picture was clicked."""
        with _told():
            pixels, seconds = self._pixels(sound or "")
        time = round(event.index[0] / pixels.shape[1] * seconds, 2)
        return (time, end) if abs(time - start) < abs(time - end) else (start, time)


class Slot:
    """A player, the settings of its sound, and a button to edit it."""

    def __init__(self, action: str, name: str) -> None:
        with gr.Column(visible=False, min_width=260, elem_id=name) as self.column:
            self.audio = gr.Audio(
                interactive=False, type="filepath", buttons=["download"], show_label=False, elem_classes="take-sound",
                waveform_options=gr.WaveformOptions(show_recording_waveform=False),  # the browser's own player
            )  # fmt: skip
            self.note = gr.HTML()
            self.edit = gr.Button(action, size="sm")


def describe(take: Take) -> str:
    """Describe a take as HTML: what it is, how to make it again, and what is wrong with it."""
    words = " · ".join(f"{name} {take.settings[name]}" for name in ("of", "seed", "preset") if name in take.settings)
    lines = [f"<b>{html.escape(take.title)}</b>", f"{take.seconds:.2f} s · {html.escape(words)}"]
    if take.warning:
        lines.insert(1, f'<span class="warning">This sound is {html.escape(take.warning)}. Try another seed.</span>')
    if "command" in take.settings:
        lines.append(f"<code>{html.escape(take.settings['command'])}</code>")
    return f'<div class="take-note">{"<br>".join(lines)}</div>'


def _shown(take: Take | None) -> tuple:
    return (None, "") if take is None else (str(take.file), describe(take))


def _show_edited(session: Session) -> tuple:
    return gr.update(visible=True), *_shown(session.takes[-1])


def _show_history(session: Session) -> Any:
    choices = [
        (f"{take.file.stem[:4]} {take.title} · seed {take.settings['seed']} · {take.seconds:.2f} s", take.file.name)
        for take in reversed(session.takes)
    ]
    return gr.update(choices=choices, value=None)


def _choose(session: Session, name: str) -> Any:
    return next((str(take.file) for take in session.takes if take.file.name == name), None)


@contextmanager
def _told() -> Iterator[None]:
    """Show a user's mistake on the page, in one line."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
