"""Capture files that are damaged, forged or huge: a clear error, and no more memory than they are worth."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replays import recorded
from structlog.testing import capture_logs

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    CandidatePipelineError,
    Candidates,
    Column,
    QueryFeature,
    compose,
    patch,
    query_patch,
)
from candidate_pipeline.engine.recording import Recorder
from candidate_pipeline.engine.serve import serve
from candidate_pipeline.errors import CaptureError, DataError
from candidate_pipeline.testing import TopScore
from candidate_pipeline.what_if.archive import Arrays, pack, unpack, unpack_bytes
from candidate_pipeline.what_if.capture import Capture, capture_of
from candidate_pipeline.what_if.replay import replay
from candidate_pipeline.what_if.writer import manifest_of

NOW = dt.datetime(2026, 5, 15, 12, tzinfo=dt.UTC)
WHO = QueryFeature("shop.who", int)
TAGS = QueryFeature("shop.tags", tuple)
NAME = Column("shop.name", np.object_)
PARTS = Column("shop.parts", np.object_)
ODDS = Column("shop.odds", np.float32, labels=("buy", "look"))


class Who:
    """Says what the buyer likes."""

    reads = (WHO,)
    writes = (TAGS,)

    def hydrate(self, query: Any, ctx: Any) -> Any:
        """Two tags."""
        return query_patch(TAGS(("red", query[WHO])))


class Shelf:
    """Four items."""

    reads = ()
    writes = (NAME,)

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """With names, one of them missing."""
        return Candidates.of(ITEM_ID([4, 3, 2, 1]), NAME(["four", None, "zwei", ""]))


class Known:
    """What is known of items."""

    reads = (ITEM_ID,)
    writes = (PARTS, ODDS)

    def hydrate(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Parts, and odds under one label."""
        ids = candidates[ITEM_ID]
        return patch(
            PARTS([(int(item), "x") for item in ids]),
            ODDS((ids[:, None] / 10).astype(np.float32), labels=("look",)),
            failed=ids == 3,
        )


class Rank:
    """Scores by odds."""

    reads = (ODDS, PARTS, NAME)
    writes = (SCORE,)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """The odds of a look."""
        return patch(SCORE(candidates.label(ODDS, "look"), valid=candidates.valid(ODDS)))


def shop() -> Any:
    """The pipeline."""
    return compose(
        "shop",
        inputs={"who": WHO},
        query_hydrators=[Who()],
        sources=[Shelf()],
        hydrators=[Known()],
        scorers=[Rank()],
        selector=TopScore(),
    )


async def _bytes() -> bytes:
    async with shop() as app:
        plan = app["shop"].plan
        query = app["shop"].query(NOW, 0, "one", {"who": 7})
        recorder = Recorder(plan, query)
        outcome = await serve(app.runtime, plan, query, recorder=recorder)
        return pack(*manifest_of(recorder, outcome))


WHOLE = asyncio.run(_bytes())


def use(data: bytes) -> None:
    """Read a capture and replay it, as far as it can be."""
    capture = capture_of(*unpack_bytes(data))

    async def main() -> None:
        async with shop() as app:
            await replay(app, capture)

    with capture_logs():
        asyncio.run(main())


def forged(change: Callable[[dict[str, Any]], Any], arrays: dict[str, Any] | None = None) -> bytes:
    """The capture with something else in its manifest or its arrays."""
    manifest, members = unpack_bytes(WHOLE)
    change(manifest)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, array in {**members, **(arrays or {})}.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"arrays/{name}.npy", member.getvalue())
    return stream.getvalue()


def test_a_capture_replays() -> None:
    """Expect the whole file to be read and replayed, and to be the same bytes when it is made again."""
    use(WHOLE)
    use(forged(lambda manifest: None))


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_random_bytes_are_a_capture_error_or_nothing(data: Any) -> None:
    """Expect a file with some bytes changed, cut out or put in to be read, or refused with a capture error."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        if not damaged:
            break
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del damaged[at:]
    try:
        use(bytes(damaged))
    except CaptureError:
        return


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        found += _paths(each, (*path, key))
    return found


PATHS = _paths(unpack_bytes(WHOLE)[0])
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[]])
)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(PATHS), junk=JUNK, drop=st.booleans())
def test_random_manifests_are_a_capture_error_or_nothing(path: tuple[Any, ...], junk: Any, drop: bool) -> None:
    """Expect a manifest with anything in any place to be replayed, or refused with an error of this project's."""

    def change(manifest: dict[str, Any]) -> None:
        *outer, last = path
        place: Any = manifest
        for key in outer:
            place = place[key]
        if drop:
            del place[last]
        else:
            place[last] = junk

    try:
        use(forged(change))
    except CandidatePipelineError:  # what it says may be a request that fails
        return


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(unpack_bytes(WHOLE)[1])),
    array=st.sampled_from(
        [
            *(np.zeros(0), np.zeros((2, 2)), np.arange(4), np.full(4, 2**62), np.ones(4, bool), np.array(["x"] * 4)),
            *(np.full(9, -1), np.zeros(4, np.uint8), np.full(4, 77, np.uint8), np.zeros((4, 1), np.float32)),
        ]
    ),
)
def test_other_arrays_are_a_capture_error_or_nothing(name: str, array: Any) -> None:
    """Expect an array of another dtype, shape or content to be replayed, or refused with a capture error."""
    try:
        use(forged(lambda manifest: None, {name: array}))
    except CaptureError:
        return


def members(*pairs: tuple[str, bytes]) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pairs:
            archive.writestr(name, content)
    return stream.getvalue()


def npy(header: bytes) -> bytes:
    """An npy file with any header and eight bytes of data."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8


def with_array(content: bytes) -> bytes:
    """A capture of one array."""
    return members(("manifest.json", b"{}"), ("arrays/0.npy", content))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a capture"),
        (b"PK\x05\x06" + b"\0" * 18, "has no manifest.json"),
        (
            members(
                ("manifest.json", b"{"),
            ),
            "not the JSON of a capture",
        ),
        (
            members(
                ("manifest.json", b'{"x": NaN}'),
            ),
            "NaN is no number",
        ),
        (
            members(
                ("manifest.json", b"[" * 100_000),
            ),
            "not the JSON of a capture",
        ),
        (
            members(
                ("manifest.json", b"[]"),
            ),
            "wanted a table, found list",
        ),
        (members(("manifest.json", b"{}"), ("../../etc/passwd", b"x")), "'../../etc/passwd': a capture holds"),
        (members(("manifest.json", b"{}"), ("arrays/../x.npy", b"x")), "a capture holds"),
        (members(("manifest.json", b"{}"), ("/arrays/1.npy", b"x")), "a capture holds"),
        (members(("manifest.json", b"{}"), ("arrays/1.pkl", b"x")), "a capture holds"),
        (with_array(b"\x93NUMPY\x02\x00" + b"\0" * 99), "version 1.0 of npy"),
        (with_array(b"nonsense"), "no npy array"),
        (with_array(npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n")), "no place in a capture"),
        (with_array(npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n")), "claims to be"),
        (with_array(npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n")), "claims to be"),
        (with_array(npy(b"{'descr': '<V8', 'fortran_order': False, 'shape': (1,)}\n")), "no place in a capture"),
        (with_array(npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (9999999999999,)}\n")), "no place"),
        (with_array(npy(b"{'descr': '|b1', 'fortran_order': False, 'shape': (8,)}\n")[:-1] + b"\7"), "true and false"),
        (with_array(npy(b"__import__('os').system('x')\n")), "no npy array"),
    ],
)
def test_what_is_no_capture_is_named(data: bytes, why: str) -> None:
    """Expect the error to say which member is wrong, and how."""
    with pytest.raises(CaptureError, match=why):
        unpack_bytes(data)


def test_bombs_do_not_go_off() -> None:
    """Expect members that unpack to hundreds of megabytes to be refused before memory is taken for them."""
    bomb = members(("manifest.json", b"{}"), *((f"arrays/{n}.npy", b"\0" * 60_000_000) for n in range(5)))
    assert len(bomb) < 2_000_000
    lying = bytearray(members(("manifest.json", b"{}"), ("arrays/0.npy", b"\0" * 60_000_000)))
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = (100).to_bytes(4, "little")  # the size that the directory claims
    tracemalloc.start()
    try:
        for data in (bomb, bytes(lying)):
            with pytest.raises(CaptureError):
                unpack_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_files_say_where(tmp_path: Path) -> None:
    """Expect errors to begin with the path, to be data errors, and directories and missing files to be refused."""
    path = tmp_path / "x.capture"
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"x\.capture: not a capture"):
        Capture.read(path)
    path.write_bytes(members(("manifest.json", b"{}")))
    with pytest.raises(CaptureError, match=r"x\.capture: wanted the format"):
        Capture.read(path)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(CaptureError, match=r"cannot be read|no plain file"):
            unpack(wrong)
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(CaptureError, match="more than a capture may have"):
        unpack(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda manifest: manifest.update(schema=2), "wanted schema 1, found 2: written by another version"),
        (lambda manifest: manifest.update(now="2026-05-15T12:00:00"), "now: wanted a time"),
        (lambda manifest: manifest.update(seed=True), "seed: wanted int, found True"),
        (lambda manifest: manifest["ranking"].update(version=9), "ranking"),
        (lambda manifest: manifest["recording"]["inner"].update(x={}), "inner: wanted the recording of a component"),
        (lambda manifest: manifest["inputs"].update({"shop.who": "x"}), "query feature shop.who: .*wanted int"),
        (lambda manifest: manifest["inputs"].clear(), "needs the input 'who'"),
        (lambda manifest: _calls(manifest, "known")["columns"][0].update(column="shop.x"), "which it does not declare"),
        (lambda manifest: _calls(manifest, "known")["columns"][1].update(labels=["x"]), "wanted labels among"),
        (lambda manifest: _calls(manifest, "who")["features"].update({"shop.x": 1}), "which it does not declare"),
        (lambda manifest: _calls(manifest, "shelf").update(columns=[]), "a table without core.item_id"),
        (lambda manifest: _calls(manifest, "known").update(ids="999"), "it has no array '999'"),
    ],
)
def test_what_a_manifest_may_not_say_is_named(change: Callable[[dict[str, Any]], Any], why: str) -> None:
    """Expect a capture error with what was wanted and what was found."""
    with pytest.raises(CaptureError, match=why):
        use(forged(change))


def _calls(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    (component,) = (each for each in manifest["recording"]["components"] if each["name"] == name)
    call: dict[str, Any] = component["calls"][0]
    return call


def test_a_request_that_is_too_large_is_refused() -> None:
    """Expect limits on arrays, on the file and on what kinds of arrays there may be."""
    with pytest.raises(CaptureError, match="too large"):
        Arrays(limit=10).add(np.zeros(2))
    arrays = Arrays()
    rng = np.random.default_rng(3)
    arrays.add(rng.integers(0, 255, 5000, np.uint8))
    with pytest.raises(CaptureError, match="too large"):
        pack({}, arrays, 1000)
    with pytest.raises(CaptureError, match="cannot be captured"):
        arrays.add(np.array([None]))


def test_equal_requests_are_equal_files() -> None:
    """Expect the same bytes, times of writing and order of arrays included."""

    async def twice() -> list[bytes]:
        made = []
        for _ in range(2):
            async with shop() as app:
                _, capture = await recorded(app, "shop", who=7)
                made.append(capture)
        return [json.dumps({name: array.tolist() for name, array in each.arrays.items()}).encode() for each in made]

    one, other = asyncio.run(twice())
    assert one == other
    arrays = Arrays()
    assert arrays.add(np.arange(3)) == arrays.add(np.arange(3)) != arrays.add(np.arange(3.0))
