"""Which requests are captured, where to, and that this harms none of them."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from structlog.testing import capture_logs

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    App,
    Candidates,
    Column,
    MisconfigurationError,
    QueryFeature,
    RequestError,
    compose,
    load_document,
    query_patch,
)
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.plugin import Plugin
from candidate_pipeline.registry import Registry
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import TopScore
from candidate_pipeline.what_if.capture import Capture, Captures, capture_paths, captures_in
from candidate_pipeline.what_if.replay import replay
from candidate_pipeline.what_if.writer import CaptureWriter, file_stem, write_new

WHO = QueryFeature("cap.who", int)
HANDLE = QueryFeature("cap.handle", object)
NAME = Column("cap.name", np.object_)


@attrs.frozen
class Shelf:
    """Three items."""

    token: str = ""
    reads = ()
    writes = (NAME, SCORE)

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """With names that hold the token, if there is one."""
        return Candidates.of(
            ITEM_ID([3, 2, 1]), NAME([f"item {self.token}"] * 3), SCORE(np.array([1, 2, 3], np.float32))
        )


@attrs.frozen
class Handle:
    """Gives something that cannot be captured."""

    reads = ()
    writes = (HANDLE,)

    def hydrate(self, query: Any, ctx: Any) -> Any:
        """An object."""
        return query_patch(HANDLE(object()))


@attrs.frozen
class Reader:
    """Reads it."""

    reads = (HANDLE,)

    def keep(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Keep all, if it is there."""
        return np.full(len(candidates), query[HANDLE] is not None)


@attrs.frozen
class Broken:
    """A scorer that fails."""

    reads = ()
    writes = (SCORE,)

    def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
        """Fail."""
        raise OSError("broken")


def shop(captures: Captures | None = None, **stages: Any) -> App:
    """A small pipeline."""
    given: dict[str, Any] = {"sources": [Shelf()], "selector": TopScore(), "inputs": {"who": WHO}}
    return compose("shop", captures=captures, **(given | stages))


def run(app: App, *requests: dict[str, Any]) -> None:
    """Answer requests at once."""

    async def main() -> None:
        async with app:
            await asyncio.gather(*(app["shop"].run(**{"who": 1, **request}) for request in requests))

    asyncio.run(main())


def test_a_capture_on_request_is_there_when_the_request_returns(tmp_path: Path) -> None:
    """Expect one file named after the request, for its owner alone, in a folder for its owner alone."""
    folder = tmp_path / "new" / "captures"

    async def main() -> None:
        async with shop(Captures(folder)) as app:
            outcome = await app["shop"].run(who=7, seed=5, request_id="abc", capture=True)
            await app["shop"].run(who=7)
            (path,) = capture_paths(folder)
            assert path.name == "abc.capture"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            capture = Capture.read(path)
            assert (capture.pipeline, capture.request_id, capture.seed) == ("shop", "abc", 5)
            assert capture.query([WHO]).features == {WHO: 7}
            assert capture.now == outcome.query.now
            assert capture.config_hash == app["shop"].plan.config_hash
            assert capture.ranking.item_ids.tolist() == outcome.item_ids.tolist() == [1, 2, 3]

    asyncio.run(main())


def test_nothing_is_recorded_unless_asked(tmp_path: Path) -> None:
    """Expect no file without a sample, and a capture asked for without a folder to be refused."""
    run(shop(Captures(tmp_path / "none")), {}, {})
    assert not (tmp_path / "none").exists()
    with pytest.raises(MisconfigurationError, match="no folder for captures"):
        run(shop(), {"capture": True})


def test_the_sample_depends_on_the_request_id_alone(tmp_path: Path) -> None:
    """Expect about the share asked for, the same requests every time, and more of them in a larger sample."""
    names = [f"request {n}" for n in range(2000)]
    some = {name for name in names if Captures(tmp_path, sample=0.1).sampled(name)}
    more = {name for name in names if Captures(tmp_path, sample=0.5).sampled(name)}
    assert 140 < len(some) < 260
    assert 900 < len(more) < 1100
    assert some < more
    assert all(Captures(tmp_path, sample=1.0).sampled(name) for name in names)
    assert not any(Captures(tmp_path).sampled(name) for name in names)
    with pytest.raises(ValueError, match="sample: wanted a share from 0 to 1, found 7"):
        Captures(tmp_path, sample=7)


def test_sampled_requests_are_written_before_the_application_closes(tmp_path: Path) -> None:
    """Expect every sampled request's capture, and them in order of their names."""
    app = shop(Captures(tmp_path, sample=1.0))
    run(app, *({"request_id": f"r{n}"} for n in range(5)))
    assert [capture.request_id for capture in captures_in(tmp_path)] == ["r0", "r1", "r2", "r3", "r4"]
    assert app.captures is not None
    assert (app.captures.saved, app.captures.failed) == (5, 0)


def test_too_many_pending_captures_are_left_out(tmp_path: Path) -> None:
    """Expect sampled requests beyond the limit to be left out, counted and logged, and those asked for never."""
    writer = CaptureWriter(Captures(tmp_path, sample=1.0, max_pending=0))
    with capture_logs() as logs:
        assert not writer.wanted("r", asked=False)
        assert writer.wanted("r", asked=True)
    assert writer.left_out == 1
    assert logs[0]["event"].startswith("capture left out")


def test_requests_that_began_together_keep_to_the_limit(tmp_path: Path) -> None:
    """Expect no more to wait than may, even if all requests began while none did."""
    app = shop(Captures(tmp_path, sample=1.0, max_pending=3))
    with capture_logs():
        run(app, *({"request_id": f"r{n}"} for n in range(40)), {"request_id": "asked", "capture": True})
    assert app.captures is not None
    counts = app.captures.counts
    assert counts.saved + counts.left_out == 41
    assert counts.left_out > 20
    assert (counts.failed, counts.waiting) == (0, 0)
    assert "asked.capture" in {path.name for path in capture_paths(tmp_path)}


def test_a_machine_without_threads_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the request to be answered although no thread can be started to write it down."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("candidate_pipeline.what_if.writer.ThreadPoolExecutor", refuse)
    app = shop(Captures(tmp_path, sample=1.0))
    with capture_logs() as logs:
        run(app, {"capture": True}, {})
    assert app.captures is not None
    assert (app.captures.failed, app.captures.counts.waiting) == (2, 0)
    assert "new thread" in logs[0]["error"]


@pytest.mark.parametrize(
    "request_id", ["../../etc/passwd", "/abs", "", ".", "..", "a/b", "A b", "ü" * 200, "x\0y", "C:\\x"]
)
def test_names_of_files_are_safe(request_id: str, tmp_path: Path) -> None:
    """Expect any request id to give a plain name inside the folder, apart from other ids that look alike."""
    path = write_new(tmp_path / "in", request_id, b"x")
    assert path.parent == tmp_path / "in"
    assert path.name.isascii()
    assert len(path.name) < 120
    assert file_stem(request_id) != file_stem(request_id + "/")
    assert sorted(each.name for each in (tmp_path / "in").iterdir()) == [path.name]


def test_no_capture_overwrites_another(tmp_path: Path) -> None:
    """Expect a second request of an id to get a file of its own, whatever the file system can do."""
    assert write_new(tmp_path, "r", b"one").name == "r.capture"
    assert write_new(tmp_path, "r", b"two").name == "r.2.capture"
    assert [path.read_bytes() for path in capture_paths(tmp_path)] == [b"two", b"one"]


def test_file_systems_without_links_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect files to be renamed into place there, never over another."""

    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert write_new(tmp_path, "r", b"one").name == "r.capture"
    assert write_new(tmp_path, "r", b"two").name == "r.2.capture"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_capture_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    """Expect the request to be answered, and the failure to be logged and counted."""
    (tmp_path / "file").write_text("in the way")
    for captures in (Captures(tmp_path / "file"), Captures(tmp_path / "small", max_bytes=10)):
        app = shop(captures)
        with capture_logs() as logs:
            run(app, {"capture": True})
        assert app.captures is not None
        assert (app.captures.saved, app.captures.failed) == (0, 1)
        assert [entry["event"] for entry in logs] == ["a request could not be captured"]


def test_a_mistake_in_writing_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect even an error that nobody thought of to be logged and counted."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("candidate_pipeline.what_if.writer.manifest_of", broken)
    app = shop(Captures(tmp_path, sample=1.0))
    with capture_logs() as logs:
        run(app, {})
    assert app.captures is not None
    assert app.captures.failed == 1
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_requests_that_fail_are_not_recorded(tmp_path: Path) -> None:
    """Expect the request's own error, and no file."""
    with capture_logs(), pytest.raises(RequestError, match="broken"):
        run(shop(Captures(tmp_path), scorers=[Broken()]), {"capture": True})
    assert not capture_paths(tmp_path)


def test_what_cannot_be_captured_is_said(tmp_path: Path) -> None:
    """Expect a feature of another kind to be left out with a warning, and to matter only where it is read."""
    with capture_logs() as logs:
        run(shop(Captures(tmp_path), query_hydrators=[Handle()]), {"request_id": "r", "capture": True})
    assert logs[0]["event"] == "a query feature cannot be captured"
    (capture,) = captures_in(tmp_path)
    ((component, key, why),) = capture.recording.uncaptured()
    assert (component, key) == ("handle", "cap.handle")
    assert "a object cannot be captured" in why

    async def main() -> None:
        async with shop(query_hydrators=[Handle()]) as app:
            assert (await replay(app, capture, live="never")).live == ()
        async with shop(query_hydrators=[Handle()], filters=[Reader()]) as app:
            with pytest.raises(
                CaptureError, match=r"cap\.handle, which handle writes and reader reads, was not captured"
            ):
                await replay(app, capture, live="never")
            assert (await replay(app, capture)).live == ("handle",)

    asyncio.run(main())


HIDDEN = "hush-hush-7"
SPEC = """
schema = 1

[pipelines.shop]
sources = ["shelf"]
selector = "cap.top"

[components.shelf]
use = "cap.shelf"
token = { env = "CAP_TOKEN" }
"""


@attrs.frozen
class Leaky(Shelf):
    """A shelf that shows its token only in an error, or in a name."""

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """Fail with the token."""
        if query.seed:
            return Shelf.fetch(self, query, ctx)
        raise OSError(f"refused: {self.token}")


def test_secrets_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a value from the environment to be replaced in errors, and columns that hold it not to be written."""
    monkeypatch.setenv("CAP_TOKEN", HIDDEN)
    registry = Registry([Plugin("cap", components={"source": {"shelf": Leaky}, "selector": {"top": TopScore}})])

    async def main() -> None:
        captures = Captures(tmp_path)
        async with load_document(Document(SPEC, "shop.toml"), registry=registry, captures=captures) as app:
            await app["shop"].run(request_id="error", capture=True)
            await app["shop"].run(request_id="column", seed=1, capture=True)
            assert app.captures is not None
            assert (app.captures.saved, app.captures.failed) == (1, 1)

    with capture_logs():
        asyncio.run(main())
    (capture,) = captures_in(tmp_path)
    call = capture.recording.components["sources/shelf"].calls[0]
    assert call.error == "OSError: refused: ***"
    assert HIDDEN.encode() not in capture_paths(tmp_path)[0].read_bytes()
    assert HIDDEN not in repr(attrs.asdict(capture, recurse=True, filter=lambda field, _: field.name != "ranking"))


def test_places_without_captures_are_told_apart(tmp_path: Path) -> None:
    """Expect an empty folder to hold none, other files to be passed over, and a missing folder to be an error."""
    (tmp_path / "x.txt").write_text("no capture")
    assert list(captures_in(tmp_path)) == []
    with pytest.raises(CaptureError, match="no such file or folder"):
        list(captures_in(tmp_path / "none"))
