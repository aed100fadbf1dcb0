"""`impact verify` finds what is wrong with a set of shards, and nothing where all is sound."""

import json
import shutil

import pytest

from impact_pl.cli import precompute, verify
from impact_pl.data.index import ShardIndex
from impact_pl.precompute.plan import read_note

MORE = ["clip_seconds=1.28", "samples_per_shard=5", "text_encoder=none"]


@pytest.fixture(scope="module")
def made(sounds, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "out"
    assert run(precompute.main, f"manifest={sounds}", f"out={out}", *MORE) == 0
    return out


@pytest.fixture
def out(made, tmp_path):
    """Shards without text: three of train, one of valid."""
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def findings(out, run, capsys):
    """Runs verify and returns its findings, or the word of praise alone."""

    def run_verify(*arguments) -> list[str]:
        capsys.readouterr()
        code = run(verify.main, out, *arguments)
        said, error = capsys.readouterr()
        lines = [line for line in said.splitlines() if not line.startswith("verified: ")]
        assert "Traceback" not in error
        if code == 0:
            assert error == ""
            return lines
        assert code == 2
        assert f"{len(lines)} finding(s), see above" in error
        return lines

    return run_verify


def edit(path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_sound_shards(findings, out, sounds):
    size = sum(path.stat().st_size for path in out.rglob("*.tar")) / 1e6
    assert findings() == [f"{out}: 4 shards, 16 samples, {size:.1f} MB: all sound"]
    assert len(findings("--manifest", sounds, "--codec", "builtin")) == 1


@pytest.mark.parametrize("place", [0, 700, -1])
def test_a_flipped_bit(findings, out, place):
    path = out / "train" / "000001.tar"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    (line,) = findings()
    assert line.startswith(f"{path}: damaged (its checksum")
    assert "delete it and run the impact precompute command" in line


def test_damage_is_mended_by_the_remedy(findings, out, sounds, run):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for path in (out / "train" / "000001.tar", out / "valid" / "000000.tar"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"!")
        assert len(findings()) == 1
        path.unlink()
        assert run(precompute.main, f"manifest={sounds}", f"out={out}", *MORE) == 0
        assert "all sound" in findings()[0]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_missing_truncated_and_foreign_files(findings, out, sounds):
    (out / "train" / "000000.tar").unlink()
    path = out / "train" / "000002.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1024])
    (out / "train" / "notes.txt").write_text("x")
    (out / "valid" / ".000000.tar.host.1.partial").write_text("x")
    (out / "more").mkdir()
    found = findings()
    assert sorted(line.partition(";")[0].replace(", or was killed while it did", "") for line in found) == sorted(
        [
            f"{out / 'train' / 'notes.txt'}: impact precompute did not write this",
            f"{out / 'train' / '000000.tar'}: missing",
            f"{out / 'train' / '000002.tar'}: truncated (1024 of {size} bytes)",
            f"{out / 'valid' / '.000000.tar.host.1.partial'}: impact precompute did not write this",
            f"{out / 'more'}: impact precompute did not write this",
        ]
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_that_is_gone(findings, out, sounds, run, split):
    count = len(list((out / split).glob("*.tar")))
    shutil.rmtree(out / split)
    (line,) = findings()
    assert line.startswith(
        f"{out / split}: missing, with its {count} shard(s) and their index; run the impact precompute "
    )
    edit(out / "run.json", lambda run: run.pop("shards"))  # as an earlier version wrote it
    assert findings("--manifest", sounds) == [line]
    assert run(precompute.main, f"manifest={sounds}", f"out={out}", *MORE) == 0
    assert "all sound" in findings()[0]


def test_a_shard_that_nothing_else_speaks_of(findings, out, sounds):
    for name in ("000002.tar", "000002.done.json"):
        (out / "train" / name).unlink()
    edit(out / "train" / "index.json", lambda index: index["shards"].pop())
    assert any("mean and std are not those of the shards" in line for line in findings())
    missing = f"{out / 'train' / '000002.tar'}: missing; run the impact precompute command that made it again"
    assert missing in findings()
    edit(out / "run.json", lambda run: run.pop("shards"))  # as an earlier version wrote it
    assert missing not in findings()
    assert missing in findings("--manifest", sounds)


def test_an_index_that_disagrees(findings, out):
    edit(out / "train" / "index.json", lambda index: index["shards"][1].update(sha256="0" * 64))
    (line,) = findings()
    assert "000001.tar: the index disagrees with 000001.done.json" in line
    edit(out / "train" / "index.json", lambda index: index["latents"].update(std=1.0))
    found = findings()
    assert any("index.json: mean and std are not those of the shards" in line for line in found)
    assert any("of another run than" in line for line in found)
    edit(out / "train" / "index.json", lambda index: index.update(latents={}))
    assert any("index.json: key 'latents.shape' is missing" in line for line in findings())
    (out / "train" / "index.json").write_text("{")
    assert any("train/index.json: not JSON" in line for line in findings())
    (out / "train" / "index.json").unlink()
    assert any("train/index.json: no index of latent shards" in line for line in findings())


def test_stale_codec_and_encoder(findings, out):
    for split in ("train", "valid"):
        edit(out / split / "index.json", lambda index: index["codec"].update(identity="0123456789abcdef"))
    assert all("codec builtin 0123456789abcdef, but run.json says builtin" in line for line in findings())
    edit(out / "run.json", lambda run: run.update(codec="builtin 0123456789abcdef"))
    (line,) = findings()
    assert "stale codec: made by builtin 0123456789abcdef, here is builtin" in line
    edit(out / "run.json", lambda run: run.update(codec="/gone 0123456789abcdef"))
    found = findings()
    assert any("its codec cannot be compared (no codec '/gone'" in line and "pass codec=..." in line for line in found)


def test_stale_text_encoder(findings, out, latents):
    shutil.rmtree(out)
    shutil.copytree(latents, out)
    assert "all sound" in findings("--text-encoder", "minilm")[0]
    for path in (out / "train" / "index.json", out / "valid" / "index.json"):
        edit(path, lambda index: index["text_encoder"].update(identity="0123456789abcdef"))
    assert sum("text_encoder minilm 0123456789abcdef, but run.json says" in line for line in findings()) == 2
    edit(out / "run.json", lambda run: run.update(text_encoder="minilm 0123456789abcdef"))
    (line,) = findings()
    assert "stale text_encoder: made by minilm 0123456789abcdef, here is minilm" in line


def test_damaged_notes(findings, out, tmp_path):
    (out / "train" / "000001.done.json").write_text("{")
    assert any("000001.done.json: damaged" in line for line in findings())
    (out / "train" / "000001.done.json").write_text('{"shard": {}, "sums": [], "rejected": []}')
    assert any("000001.done.json: damaged (no entry of a shard)" in line for line in findings())
    (out / "train" / "000001.done.json").unlink()
    assert any("000001.tar: not marked as done" in line for line in findings())
    (out / "rejected.jsonl").write_text('{"id": "x"}\n')
    assert any("rejected.jsonl: not what the .done.json files say" in line for line in findings())
    (out / "run.json").unlink()
    assert any("run.json: missing; delete the folder" in line for line in findings())
    (tmp_path / "m.jsonl").write_text('{"id": "a", "path": "a.wav"}\n')
    assert read_note(out / "valid" / "000000.done.json", ["sums"], "")["sums"]
    (out / "run.json").write_text(
        '{"manifest": "0", "codec": "builtin 0", "text_encoder": null, "samples_per_shard": 1}'
    )
    assert any("made from another manifest" in line for line in findings("--manifest", tmp_path / "m.jsonl"))


def test_what_cannot_be_verified(run, tmp_path, capsys):
    assert run(verify.main) == 2
    assert "FOLDER" in capsys.readouterr().err
    assert run(verify.main, tmp_path) == 2
    assert "no shards there" in capsys.readouterr().err


def test_an_index_without_its_codec_is_refused_at_load(out):
    for key in ("name", "identity"):
        edit(out / "train" / "index.json", lambda index, key=key: index["codec"].pop(key))
        with pytest.raises(ValueError, match=rf"index\.json: key 'codec\.{key}' is missing"):
            ShardIndex.load(out / "train")
        edit(out / "train" / "index.json", lambda index, key=key: index["codec"].update({key: "x"}))
    edit(out / "train" / "index.json", lambda index: index.update(codec=None))
    with pytest.raises(ValueError, match="key 'codec': input should be an object, got None"):
        ShardIndex.load(out / "train")
