"""Broken specs of every kind over the shipped plugins: each loads or says what is wrong; nothing else is raised."""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import SpecError, load_document
from candidate_pipeline.build import build
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.expand import expanded
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.write import written

T = TypeVar("T")
SHIPPED = (Path(__file__).resolve().parents[2] / "pipelines.toml").read_text(encoding="utf-8")
EXTENDING = """
[pipelines.mine]
extends = "for_you"
filters = ["again", "...", "-age"]
stages = { sources = { timeout = "25s", when = { "feed.viewer_id" = { min = 3 } } } }
top_up = "for_you"
min_results = { env = "FUZZ_NUMBER", default = 3 }

[components.inner]
use = "pipeline"
pipeline = "for_you"

[components.again]
use = "feed.age"
max_age = { env = "FUZZ_TEXT" }
run = { on_error = "fallback:age", when = { "feed.viewer_id" = 3 } }
"""
TEXT = SHIPPED + EXTENDING
TOKENS = re.findall(r'"[^"\n]*"|[A-Za-z0-9_.-]+|\n|[^\S\n]+|.', TEXT)
KEYS = sorted({token for token in TOKENS if re.fullmatch(r"[a-z_]+", token)} | {"extends", "env", "default"})

SNIPPETS = st.sampled_from(
    [
        *KEYS,
        *[
            "=",
            ",",
            "[",
            "]",
            "{",
            "}",
            "\n",
            '"',
            "'",
            ".",
            "#",
            " ",
            "...",
            '"..."',
            '"-age"',
            "-1",
            "3",
            "1e400",
            "nan",
        ],
        *[
            "true",
            '"5s"',
            '"0s"',
            '""',
            "{ env = 'FUZZ_NUMBER' }",
            "{ env = 'NONE' }",
            "[[components.age]]",
            "\n[components]\n",
        ],
        *[
            "2026-05-01T00:00:00Z",
            "extends = 'for_you'\n",
            "extends = 'a.toml'\n",
            '"fallback:age"',
            '"pipeline"',
            '"\\u0000"',
        ],
        *[token for token in TOKENS if token.startswith('"')],
    ]
)
TEXTS = st.text(max_size=8) | st.sampled_from([token.strip('"') for token in TOKENS if token.startswith('"')])
SCALARS = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["1s", "0s", "9" * 400 + "d", "...", "-age", "fallback:age", "~x/y", "a.toml"]),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.datetimes(),
    st.dates(),
    st.times(),
)
REFERENCES = st.fixed_dictionaries(
    {"env": st.sampled_from(["FUZZ_NUMBER", "FUZZ_TEXT", "NONE", "", 3])},
    optional={"default": SCALARS, "defualt": SCALARS},
)
VALUES = st.recursive(
    SCALARS | REFERENCES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    """Variables that the specs name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUZZ_NUMBER", "4")
        patch.setenv("FUZZ_TEXT", "36h")
        yield


def answer(call: Callable[[], T]) -> T | SpecError:
    """What a call returns, or the mistakes that it raises."""
    try:
        return call()
    except SpecError as error:
        return error


def tried(document: Document, sets: list[str] | None = None) -> None:
    """Load and expand a document: what is raised is a `SpecError` that a person can read."""
    spec = load_spec(document, installed(), sets=sets or [])
    built = answer(lambda: build(spec))
    sound = not isinstance(built, SpecError)
    if isinstance(built, SpecError):
        assert built.problems
        assert all(problem.message and problem.render() for problem in built.problems)
    found = expanded(spec.document, defaults=True)
    text = found.toml()
    assert len(found.as_list()) >= len(found.data)
    if sound:
        again = expanded(Document(text, "again.toml", document.base), defaults=True)
        assert repr(tomllib.loads(again.toml())) == repr(tomllib.loads(text))


def read(text: str, sets: list[str] | None = None) -> None:
    """As `tried`, from a text that may not even be TOML."""
    document = answer(lambda: Document(text, "fuzz.toml"))
    if isinstance(document, SpecError):
        assert len(document.problems) == 1
    else:
        tried(document, sets)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The spec with tokens deleted, doubled, moved and changed."""
    tokens = list(TOKENS)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(tokens) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                del tokens[at : at + draw(st.integers(1, 5))]
            case 1:
                tokens[at:at] = tokens[at : at + draw(st.integers(1, 12))]
            case 2:
                tokens[at] = draw(SNIPPETS)
            case 3:
                tokens.insert(at, draw(SNIPPETS))
            case _:
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[at], tokens[other] = tokens[other], tokens[at]
        if not tokens:
            break
    return "".join(tokens)


@st.composite
def planted(draw: st.DrawFn) -> str:
    """The spec with random values at random places, written out as TOML."""
    data = tomllib.loads(TEXT)
    for _ in range(draw(st.integers(1, 4))):
        value: Any = data
        for _ in range(draw(st.integers(0, 4))):
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            inner = [key for key in keys if isinstance(value[key], dict | list) and value[key]]
            if not inner:
                break
            value = value[draw(st.sampled_from(inner))]
        if isinstance(value, list):
            value[draw(st.integers(0, len(value) - 1))] = draw(VALUES)
        else:
            value[draw(st.sampled_from([*value, *KEYS]) | TEXTS)] = draw(VALUES)
    return written(data, (), comments=False)


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_mutated_tokens_never_raise_anything_else(text: str) -> None:
    """Tokens deleted, doubled, moved and replaced give a spec, or its mistakes."""
    read(text)


@settings(max_examples=200, deadline=None)
@given(planted())
def test_random_values_never_raise_anything_else(text: str) -> None:
    """Values of any type at any place, `extends` and `env` among them, give a spec, or its mistakes."""
    read(text)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["pipelines", "components", "resources", *KEYS]) | TEXTS, min_size=1, max_size=4),
            VALUES.map(
                lambda value: tomlkit.item(value).as_string() if not isinstance(value, dict | list) else str(value)
            )
            | TEXTS,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_random_overrides_never_raise_anything_else(overrides: list[tuple[list[str], str]]) -> None:
    """Whatever is given to `--set` changes the spec, or is a mistake."""
    read(TEXT, [f"{'.'.join(path)}={value}" for path, value in overrides])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(mutated() | planted(), min_size=1, max_size=3),
    st.lists(
        st.sampled_from(["a.toml", "b.toml", "c.toml", "./a.toml", "d.toml", "", ".", "/"]), min_size=3, max_size=3
    ),
)
def test_random_chains_of_files_never_raise_anything_else(texts: list[str], bases: list[str]) -> None:
    """Broken files that extend each other in any way give a spec, or its mistakes, each in its file."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text, base in zip("abc", texts, bases, strict=False):
            (Path(folder) / f"{name}.toml").write_text(f"extends = '{base}'\n{text}", encoding="utf-8")
        document = answer(lambda: Document.read(Path(folder) / "a.toml"))
        if not isinstance(document, SpecError):
            tried(document)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200) | st.builds(lambda at, junk: TEXT.encode()[:at] + junk, st.integers(0, 4000), st.binary())
)
def test_random_bytes_never_raise_anything_else(content: bytes) -> None:
    """A file of any bytes, or one that is cut off and goes on with them, gives a spec, or its mistakes."""
    handle, name = tempfile.mkstemp(suffix=".toml")
    try:
        os.write(handle, content)
        os.close(handle)
        document = answer(lambda: Document.read(Path(name)))
        if isinstance(document, SpecError):
            assert len(document.problems) == 1
        else:
            tried(document)
    finally:
        Path(name).unlink()


def test_the_text_itself_loads() -> None:
    """What is mutated above is a spec without mistakes."""
    assert list(load_document(Document(TEXT, "fuzz.toml"))) == ["for_you", "mine"]
