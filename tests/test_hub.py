"""The network is used where somebody has typed ``hub:``, and not because a file says so."""

import json
import shutil
import socket

import pytest

from impact_pl.errors import UserError
from impact_pl.hub import model_folder, without_downloads
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.spec import BUILTIN_FOLDER


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[str]:
    """Hosts that somebody has looked for; none is found."""
    hosts: list[str] = []

    def getaddrinfo(host, *args, **kwargs):
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return hosts


@pytest.fixture(params=["codec", "text_encoder"])
def stranger(request, tmp_path):
    """A model folder that names a part on the hub."""
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    kind = {"codec": "audioldm", "text_encoder": "t5"}[request.param]
    config[request.param]["name"] = f"{kind}:hub:someone/something"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_received_model_downloads_nothing(stranger, asked):
    with pytest.raises(UserError, match=r"hub:someone/something: not on this machine, and a file asks .*--allow-hub"):
        ImpactPipeline.from_pretrained(stranger, "cpu")
    assert asked == []


def test_unless_it_may(stranger, asked):
    with pytest.raises(UserError, match="hub:someone/something: not found on the Hugging Face hub"):
        ImpactPipeline.from_pretrained(stranger, "cpu", allow_hub=True)
    assert "huggingface.co" in asked


def test_a_typed_name_is_downloaded(asked):
    with pytest.raises(UserError, match="not found on the Hugging Face hub"):
        model_folder("hub:someone/something", [])
    assert "huggingface.co" in asked
    asked.clear()
    with without_downloads(), pytest.raises(UserError, match="not on this machine"):
        model_folder("hub:someone/something", [])
    assert asked == []
