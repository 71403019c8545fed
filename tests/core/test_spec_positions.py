"""The scanner that finds where TOML values stand, against `tomllib`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from candidate_pipeline import SpecError
from candidate_pipeline.spec.document import MAX_DEPTH, Document
from candidate_pipeline.spec.positions import Span, TomlPath, scan

# A generator of TOML documents: a plan of tables with unique keys, written out in random ways.

BARE = st.text("abcXYZ019_-", min_size=1, max_size=4)
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
SPACE = st.sampled_from(["", " ", "  ", "\t"])
COMMENT = st.sampled_from(["", ' # [not.a.table] = "x"', "# a = 1, ]}", " #'''"])
LINES = st.sampled_from(["", "\n", "\n\n", "# = [\n", " \t\n"])


def basic(text: str) -> str:
    """A text as a basic string on one line."""
    escaped = "".join(f"\\u{ord(char):04x}" if ord(char) < 0x20 or ord(char) == 0x7F else char for char in text)
    return '"' + escaped.replace("\\", "\\\\").replace("\\\\u00", "\\u00").replace('"', '\\"') + '"'


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A TOML string in one of its four forms."""
    form = draw(st.integers(0, 3))
    if form == 0:
        return basic(draw(ANY_TEXT))
    safe = st.text('ab #[]{}=,."é漢\\', max_size=6)
    if form == 1:
        return "'" + draw(safe) + "'"
    if form == 2:
        return (
            "'''"
            + draw(st.text("a\n '#[]{}=\\\"", max_size=8)).replace("'''", "''").rstrip("'")
            + draw(st.sampled_from(["", "'", "''"]))
            + "'''"
        )
    body = draw(st.lists(st.sampled_from(["a", "\n", '\\"', '"', "#", "]", "\\\\", "\\\n  ", "'", " "]), max_size=8))
    text = "".join(body)
    while '"""' in text:
        text = text.replace('"""', '""')
    return '"""' + text + draw(st.sampled_from(["", '\\"'])) + '"""'


SCALARS = st.one_of(
    strings(),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(
        "0xFF 0b101 1_000 +5 3.14 -0.0 1e6 inf -nan true false 1979-05-27T07:32:00Z 1979-05-27_07:32:00.999-07:00 "
        "1979-05-27 07:32:00".replace("27_07", "27 07").split(" ")
    ),
)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A TOML value: a scalar, an array over several lines, or an inline table."""
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind <= 3:
        return draw(SCALARS)
    if kind == 4:
        items = draw(st.lists(values(depth - 1), max_size=3))
        gap = st.sampled_from(["", " ", "\n", " # c ]\n", "\n\t"])
        text = "["
        for at, item in enumerate(items):
            last = at == len(items) - 1
            text += draw(gap) + item + draw(gap) + ("" if last and draw(st.booleans()) else ",")
        return text + draw(gap) + "]"
    keys = draw(st.lists(keys_of(), max_size=3, unique_by=lambda pair: pair[0]))
    pairs = [key + draw(SPACE) + "=" + draw(SPACE) + draw(values(depth - 1)) for _, key in keys]
    return "{" + draw(SPACE) + (draw(SPACE) + "," + draw(SPACE)).join(pairs) + draw(SPACE) + "}"


@st.composite
def keys_of(draw: st.DrawFn) -> tuple[str, str]:
    """A key's name and one way to write it."""
    if draw(st.booleans()):
        name = draw(BARE)
        return name, draw(st.sampled_from([name, basic(name), f"'{name}'"]))
    name = draw(st.text("a.b #=[]\"é'", max_size=4))
    return name, basic(name) if "'" in name or draw(st.booleans()) else f"'{name}'"


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A TOML document; now and then one that `tomllib` refuses."""
    text = ""
    for _ in range(draw(st.integers(0, 6))):
        text += draw(LINES) + draw(SPACE)
        dotted = (draw(SPACE) + "." + draw(SPACE)).join(
            key for _, key in draw(st.lists(keys_of(), min_size=1, max_size=3))
        )
        kind = draw(st.integers(0, 5))
        if kind == 0:
            text += "[" + draw(SPACE) + dotted + draw(SPACE) + "]"
        elif kind == 1:
            text += "[[" + draw(SPACE) + dotted + draw(SPACE) + "]]"
        else:
            text += dotted + draw(SPACE) + "=" + draw(SPACE) + draw(values())
        text += draw(SPACE) + draw(COMMENT) + "\n"
    return text + draw(st.sampled_from(["", "\n", "# end", " "]))


def paths(value: Any, path: TomlPath = ()) -> Iterator[tuple[TomlPath, Any]]:
    """Every path of parsed TOML below the top, with its value."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from paths(item, (*path, at))


def written_out(text: str, span: Span) -> str:
    """The text of a value's span."""
    return text[slice(*span.value)]


def assert_spans(text: str) -> None:
    """Every path has a span; that of a value re-parses to it, that of a key to the key."""
    data = tomllib.loads(text)
    spans = scan(text)
    found = dict(paths(data))
    assert set(spans) == set(found)
    for path, value in found.items():
        span = spans[path]
        key_text, value_text = text[slice(*span.key)], written_out(text, span)
        if isinstance(path[-1], str):
            assert tomllib.loads(f"{key_text} = 1") == {path[-1]: 1}
        header = value_text.startswith("[") and isinstance(value, dict | list) and not _inline(text, span)
        dotted_parent = isinstance(value, dict) and not value_text.startswith(("{", "["))
        if not header and not dotted_parent and not _dotted_inline(path, value, value_text, text, span):
            assert repr(tomllib.loads(f"x = {value_text}")["x"]) == repr(value), (path, value_text)


def _inline(text: str, span: Span) -> bool:
    """Whether a span starts behind an equals sign or inside an array, as against a header."""
    line = text[: span.value[0]]
    return not (line == "" or line.rsplit("\n", 1)[-1].strip(" \t") == "") or span.key == span.value


def _dotted_inline(path: TomlPath, value: Any, value_text: str, text: str, span: Span) -> bool:
    """Whether a table's span is that of a pair with a dotted key: `a.b = {}` gives `a` the text of `b`."""
    after_key = text[span.key[1] : span.value[0]].lstrip(" \t")
    return isinstance(value, dict) and after_key.startswith(".")


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(documents())
@example('a = """x"""\n')
@example('a = """"x""""\nb = 1\n')
@example("a = ''''x'''''\nb = 1\n")
@example('a = """"""\nb = 1\n')
@example('a = """\\""""\nb = 1\n')
@example('"" = ""\n')
@example("[a.b]\n[a]\nx = 1\n")
@example("[[a]]\n[a.b]\nc = 1\n[[a]]\n[[a.d]]\ne = [1, [2]]\n[[a.d]]\n")
@example("a.b.c = 1\na.b.d = { e.f = 2, g = [] }\n")
@example("a = [\n# ]\n1, # ,\n2\n]\n")
@example("t = 1979-05-27 07:32:00 # c\n")
def test_every_path_has_a_span_that_reparses(text: str) -> None:
    """Whatever `tomllib` accepts, every path it yields has a span whose text is that value."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert_spans(text)


def test_generator_makes_documents_worth_scanning() -> None:
    """The generator above mostly makes valid documents, so that the property is not empty."""
    good: list[int] = []

    @settings(max_examples=100, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(documents())
    def collect(text: str) -> None:
        try:
            good.append(len(tomllib.loads(text)))
        except tomllib.TOMLDecodeError:
            good.append(-1)

    collect()
    assert sum(count > 0 for count in good) > 30


@settings(deadline=None)
@given(documents())
def test_windows_line_ends_change_no_place(text: str) -> None:
    """A document with Windows line ends gives the same lines and columns."""
    try:
        unix = Document(text)
    except SpecError:
        return
    windows = Document(text.replace("\n", "\r\n"))
    assert repr(windows.data) == repr(unix.data)
    for path, _ in paths(unix.data):
        assert windows.locate(path) == unix.locate(path)


def place(text: str, path: TomlPath, part: str = "value") -> str:
    """Line, column and the marked text of a path."""
    found = Document(text, "f").locate(path, part)
    return f"{found.line}:{found.column} {found.text[found.column - 1 : found.column - 1 + found.length]}"


def test_places_are_lines_and_columns_from_one() -> None:
    """Keys and values are located in the file's own lines, headers by the table's own header."""
    text = "# c\n[components.age.run]\ntimeout = '5s'\n[components.age]\nuse = 'x'\nlist = [\n  1,\n  22 ]\n"
    assert place(text, ("components", "age", "run", "timeout")) == "3:11 '5s'"
    assert place(text, ("components", "age", "run", "timeout"), "key") == "3:1 timeout"
    assert place(text, ("components", "age")) == "4:1 [components.age]"
    assert place(text, ("components", "age"), "key") == "4:13 age"
    assert place(text, ("components", "age", "list", 1)) == "8:3 22"
    assert place(text, ("components", "age", "list")) == "6:8 ["
    assert place(text, ("components", "age", "missing")) == "4:13 age"
    assert place(text, ()) == "1:1 #"


def test_columns_count_characters() -> None:
    """Columns count characters, not bytes, so that the caret stands right under accented and wide letters."""
    assert place("'é漢' = { x = 'ü', y = 7 }", ("é漢", "y")) == "1:23 7"


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 400, 100_000])
def test_deep_nesting_is_an_error_not_a_crash(depth: int) -> None:
    """Lists nested too deep are a `SpecError`, however deep."""
    with pytest.raises(SpecError, match=f"E100 tables and lists may be nested {MAX_DEPTH} deep"):
        Document("a = " + "[" * depth + "]" * depth)


def test_a_number_too_long_to_read_is_an_error_not_a_crash() -> None:
    """An integer with more digits than Python reads is a `SpecError`."""
    with pytest.raises(SpecError, match="E100 not TOML: an integer has to fit into 64 bits"):
        Document("a = " + "9" * 5000)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("[]{}=.,\"'#\n\\ abc1-:T", max_size=40)))
def test_no_text_crashes_the_reader(text: str) -> None:
    """Any text is a document or a `SpecError` with a place."""
    found: list[str] = []
    try:
        Document(text)
    except SpecError as error:
        found += [problem.code for problem in error.problems]
    assert found in ([], ["E100"])
