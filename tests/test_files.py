"""Reading text that others wrote: right, or refused with the line's number."""

import re
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from annotated_types import Ge, Le

from impact_pl.errors import UserError
from impact_pl.files import STRICT, read_csv, read_json, read_jsonl, read_lines, read_text


@dataclass
class Inner:
    size: Annotated[int, Ge(1), Le(8)] = 1


@dataclass
class Outer:
    __pydantic_config__ = STRICT

    inner: Inner
    share: float = 0.5
    names: list[str] = field(default_factory=list)


@pytest.fixture
def written(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_lines_end_at_line_feeds_alone(written):
    text = "\ufeffone\u2028still one\r\ntwo\u0085\x0b\x0cstill two\n\nfour"
    assert read_lines(written(text)) == ["one\u2028still one", "two\u0085\x0b\x0cstill two", "", "four"]
    assert read_lines(written("one\n")) == ["one"]
    assert read_lines(written("")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n".encode("utf-16"), "line 1: the text is in UTF-16"),
        ("a,b\n".encode("utf-16-le"), "line 1: contains a NUL character"),
        (b"a\nb\nc\0d\n", "line 3: contains a NUL character"),
        (b"a\nb\xe9\n", "line 2: byte 3 is not UTF-8"),
    ],
)
def test_what_is_no_utf8_is_refused_with_its_line(written, content, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_text(written(content))


@pytest.mark.parametrize(
    "text",
    [
        '\ufefffile,caption\n a.wav,rain\n\nb.wav,"x, y"\n',
        'file, caption\r\n a.wav,rain\r\n\r\nb.wav,"x, y"\r\n',
    ],
)
def test_tables_keep_what_they_say(written, text):
    first, second = read_csv(written(text), ["file", "caption"])
    assert first == (2, {"file": " a.wav", "caption": "rain"})
    assert second == (4, {"file": "b.wav", "caption": "x, y"})


def test_a_cell_may_span_lines(written):
    rows = read_csv(written('file,caption\na,"rain\nfalls"\nb,"he said ""no"""\n'), ["caption"])
    assert [(line, cells["caption"]) for line, cells in rows] == [(2, "rain\nfalls"), (4, 'he said "no"')]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a;b\n1;2\n", "line 1: no column 'a'; its header, split at ',', is a;b"),
        ("a,a,b\n1,2,3\n", "line 1: two columns are named 'a'"),
        ("a,b\n\n\n1\n", "line 4: 1 cells, but the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 cells"),
        ('a,b\n1,2\n1,"open\n2,x\n3,y\n', "line 3: not a row of cells (unexpected end of data); is a quote not"),
        ('a,b\n1,"open\n2,x\n3,5"\n4,y\n', "line 2: a quoted cell goes on to line 4 and holds ','"),
        ('a,b\n1,"x"y\n', "line 2: not a row of cells"),
        ('a,b\n1,"' + "x" * 200_000 + '"\n', "line 2: not a row of cells (field larger"),
    ],
)
def test_bad_tables_are_refused_with_their_line(written, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_csv(written(text), ["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "not JSON (EOF while parsing an object at line 1 column 1)"),
        ("[" * 100_000, "not JSON (recursion limit exceeded"),
        ("[]", "expected a JSON object, got []"),
        ("{}", "key 'inner' is missing"),
        ('{"inner": {"sise": 3}}', "unknown key 'inner.sise'"),
        ('{"inner": {"size": 9}}', "key 'inner.size': input should be less than or equal to 8, got 9"),
        ('{"inner": {"size": 1e308}}', "key 'inner.size': input should be a valid integer, got 1e+308"),
        ('{"inner": {"size": %s}}' % ("9" * 4000), "key 'inner.size': input should be less than or equal to 8"),
        ('{"inner": {"size": %s}}' % ("9" * 9000), "not JSON (number out of range"),
        ('{"inner": {"size": true}}', "key 'inner.size': input should be a valid integer, got True"),
        ('{"inner": {}, "share": NaN}', "key 'share': input should be a finite number, got nan"),
        ('{"inner": {}, "names": ["a", 3]}', "key 'names.1': input should be a valid string, got 3"),
        ('{"inner": {}, "names": "%s"}' % ("x" * 1000), "got 'xxxxxxxxx"),
    ],
)
def test_bad_json_names_field_value_and_remedy(written, text, message):
    with pytest.raises(UserError) as caught:
        read_json(written(text), Outer, remedy="write it again")
    said = str(caught.value)
    assert message in said
    assert said.endswith("; write it again")
    assert len(said) < 300 + len(message)
    assert "\n" not in said


def test_json_lines_are_numbered_and_sizes_bounded(written):
    path = written('{"inner": {"size": 2}}\n\n{"inner": {}}\r\n')
    assert [(number, value.inner.size) for number, value in read_jsonl(path, Outer)] == [(1, 2), (3, 1)]
    with pytest.raises(UserError, match="at most 10 are read"):
        read_json(path, Outer, max_bytes=10)
    with pytest.raises(UserError, match="line 2: not JSON"):
        list(read_jsonl(written("{}\n[\n"), dict[str, int]))
