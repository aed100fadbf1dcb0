"""The endpoints of `impact serve`: the guide's curl lines, refusals in one line, and what no caller may reach."""

import json
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from impact_pl.cli.serve import check_address, main
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.serving.studio import Limits, Studio, Take
from tests.helpers.documents import commands

pytest.importorskip("gradio", reason="the extra serve is not installed")
CURL = shutil.which("curl")
GUIDE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from impact_pl.serving.app import build_app, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        folder = tmp_path_factory.mktemp("sessions")
        studio = Studio(ImpactPipeline.from_pretrained(device="cpu"), folder, limits=Limits(upload_mb=1))
        app = build_app(studio)
        yield launch(app, studio, "127.0.0.1", None).rstrip("/")
        app.close(verbose=False)


def post(url: str, body: bytes, kind: str = "application/json") -> dict | list:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def call(server: str, name: str, *data) -> tuple[str, list | dict | None]:
    """Call an endpoint as the guide does, and return the last event and its data."""
    event = post(f"{server}/gradio_api/call/{name}", json.dumps({"data": data}).encode())["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/{name}/{event}", timeout=120) as answer:
        *_, kind, told = answer.read().decode().strip().splitlines()
    return kind.removeprefix("event: "), json.loads(told.removeprefix("data: "))


def upload(server: str, name: str, content: bytes) -> dict:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    (path,) = post(
        f"{server}/gradio_api/upload", head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.skipif(CURL is None, reason="no curl is installed")
def test_the_guide_s_curl_lines_run(server, tmp_path):
    soundfile.write(tmp_path / "in.wav", 0.1 * np.random.default_rng(0).standard_normal(32_000), 16_000)
    generate, result, uploading, replacing = (line for line in commands("docs/serve.md") if line.startswith("curl"))

    def curl(line: str) -> str:
        arguments = shlex.split(line.replace(GUIDE, server))
        return subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120).stdout

    told = curl(result.replace("EVENT_ID", json.loads(curl(generate))["event_id"]))
    assert told.startswith("event: complete")
    _, (file,), (details,) = json.loads(told.partition("data: ")[2])
    urllib.request.urlretrieve(file["url"], tmp_path / "made.wav")
    assert soundfile.info(tmp_path / "made.wav").duration == 2.0
    assert details["settings"]["seed"] == 1
    (path,) = json.loads(curl(uploading))
    event = json.loads(curl(replacing.replace("/tmp/.../in.wav", path)))["event_id"]
    told = curl(result.replace("generate/EVENT_ID", f"replace/{event}"))
    _, _, (details,) = json.loads(told.partition("data: ")[2])
    assert details["title"] == "replace 0.50 to 1.25 s: a rooster crows"
    assert details["seconds"] == 2.0


def test_mistakes_are_told_in_one_line(server):
    letter = upload(server, "letter.wav", b"dear model")
    for name, data, told in (
        ("generate", ["", 1, 1, 0, "fast"], "no caption"),
        ("generate", ["rain", 1, 9, 0, "fast"], "9"),
        ("generate", ["rain", 99, 1, 0, "fast"], "99"),
        ("generate", ["x" * 301, 1, 1, 0, "fast"], "301"),
        ("replace", [letter, "rain", 0, 1, 0, "fast"], "letter.wav: cannot be read as audio"),
        ("vary", [None, "rain", 0.3, 0, "fast"], "no sound to edit"),
    ):
        kind, error = call(server, name, *data)
        assert kind == "error"
        assert told in error["error"], error
        assert "\n" not in error["error"]


def test_what_no_caller_may_reach(server):
    named = json.loads(urllib.request.urlopen(f"{server}/gradio_api/info").read())["named_endpoints"]
    assert named.keys() == {"/generate", "/replace", "/extend", "/vary", "/loop"}
    assert [each["parameter_name"] for each in named["/replace"]["parameters"]] == [
        *("sound", "caption", "start", "end", "seed", "preset")
    ]
    with pytest.raises(urllib.error.HTTPError):  # larger than the limit
        upload(server, "long.wav", bytes(2_000_000))
    with pytest.raises(urllib.error.HTTPError):  # past the queue
        post(f"{server}/gradio_api/run/generate", json.dumps({"data": ["rain", 1, 1, 0, "fast"]}).encode())
    outside = {"path": str(Path(__file__)), "meta": {"_type": "gradio.FileData"}}
    assert call(server, "vary", outside, "rain", 0.3, 0, "fast")[0] == "error"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server}/gradio_api/file={Path(__file__)}")


def test_captions_and_warnings_are_text(tmp_path):
    from impact_pl.serving.app import describe

    shown = describe(
        Take(tmp_path / "0001.wav", "<script>", "<script>", {"seed": 1, "command": "a <b>"}, 1.0, "silent: <")
    )
    assert not re.search(r"<script|<b>(?!&lt;script)", shown)
    assert "This sound is silent: &lt;" in shown


def test_an_address_that_cannot_be_used_is_told(server):
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port \d+ \(Address already in use\)"):
        check_address("127.0.0.1", int(server.rpartition(":")[2]))
    with pytest.raises(UserError, match="cannot listen on no such host"):
        check_address("no such host", 7860)


def test_without_the_extra_one_line_names_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: impact serve needs Gradio: pip install "impact_pl[serve]"\n'
