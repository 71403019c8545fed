"""Opening and closing an application, and cancelling its requests."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import attrs
import numpy as np
import pytest
from toys import hanging, three_rows, toy

from candidate_pipeline import (
    ITEM_ID,
    Candidates,
    DataError,
    MisconfigurationError,
    Plugin,
    Query,
    Registry,
    RunPolicy,
    load_document,
)
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import run_in_virtual_time


@attrs.define(eq=False)
class Recorder:
    """A resource that writes down what happens to it."""

    name: str
    log: list[str]
    fail: str = ""

    def open(self) -> None:
        """Open, or fail."""
        self._happens("open")

    def close(self) -> None:
        """Close, or fail."""
        self._happens("close")

    def _happens(self, what: str) -> None:
        self.log.append(f"{what} {self.name}")
        if self.fail == what:
            raise OSError(f"{self.name} is broken")


@attrs.define(eq=False)
class AsyncRecorder(Recorder):
    """A resource that opens on the event loop."""

    async def open(self) -> None:  # type: ignore[override]  # either is allowed of a resource
        """Open in the event loop."""
        await asyncio.sleep(1)
        self._happens("open")


# Resources


def test_resources_open_in_order_and_close_in_reverse(make: Any) -> None:
    """Resources open in order, plain ones in a thread, and close in reverse."""
    log: list[str] = []
    app = toy(make, resources=[Recorder("a", log), AsyncRecorder("b", log), Recorder("c", log)])
    assert not app.is_open

    async def use() -> None:
        async with app:
            assert app.is_open
            log.append("use")

    run_in_virtual_time(use())
    assert log == ["open a", "open b", "open c", "use", "close c", "close b", "close a"]
    assert not app.is_open


def test_resource_that_fails_to_open_closes_those_before_it(make: Any) -> None:
    """What was opened is closed again; the error names the resource and keeps the cause."""
    log: list[str] = []
    app = toy(make, resources=[Recorder("a", log), Recorder("b", log, fail="open"), Recorder("c", log)])
    with (
        pytest.raises(
            MisconfigurationError, match=r"opening the resource 'resource 1' \(Recorder\) failed: OSError: b is broken"
        ),
        app,
    ):
        pytest.fail("it must not open")
    assert log == ["open a", "open b", "close a"]
    assert not app.is_open


def test_a_projects_own_error_keeps_its_class_when_opening_fails(make: Any) -> None:
    """A `DataError` from a resource stays one, with a note of the resource."""

    class Tables(Recorder):
        def open(self) -> None:
            """Fail with a data error."""
            raise DataError("no table users")

    with pytest.raises(DataError, match="no table users") as caught, toy(make, resources=[Tables("t", [])]):
        pytest.fail("it must not open")
    assert caught.value.__notes__ == ["while opening the resource 'resource 0' (Tables)"]


def test_resource_that_fails_to_close_does_not_keep_others_open(make: Any) -> None:
    """All resources are closed even when one of them cannot be."""
    log: list[str] = []
    with toy(make, resources=[Recorder("a", log), Recorder("b", log, fail="close"), Recorder("c", log)]):
        pass
    assert log[-3:] == ["close c", "close b", "close a"]


def test_cancelled_while_closing_still_closes_the_rest(make: Any) -> None:
    """Cancelling the application while a resource closes does not leave the others open."""
    log: list[str] = []

    class Slow(Recorder):
        async def close(self) -> None:  # type: ignore[override]  # either is allowed of a resource
            """Take long."""
            await asyncio.sleep(100)

    app = toy(make, resources=[Recorder("a", log), Slow("slow", log)])

    async def use() -> None:
        async with app:
            pass

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(use(), 10)

    run_in_virtual_time(main())
    assert log == ["open a", "open slow", "close a"]


def test_error_in_the_block_still_closes(make: Any) -> None:
    """An exception inside `with app:` closes the resources and passes through."""
    log: list[str] = []
    with pytest.raises(ZeroDivisionError), toy(make, resources=[Recorder("a", log)]):
        raise ZeroDivisionError
    assert log == ["open a", "close a"]


def test_application_opens_again_after_it_closed_but_not_twice_at_once(make: Any) -> None:
    """An application may be opened again, but not while it is open."""
    log: list[str] = []
    app = toy(make, resources=[Recorder("a", log)])
    for _ in range(2):
        with app:
            assert app["toy"].run_sync().item_ids.tolist() == [1, 2, 3]
    assert log == ["open a", "close a"] * 2

    async def twice() -> None:
        async with app:
            with pytest.raises(MisconfigurationError, match="the application is open already"):
                await app.__aenter__()
            await app["toy"].run()

    run_in_virtual_time(twice())
    assert log == ["open a", "close a"] * 3


def test_requests_need_an_open_application(make: Any) -> None:
    """Running before opening says what to write."""
    app = toy(make)
    with pytest.raises(MisconfigurationError, match="the application is not open: use `with app:` around run_sync"):
        app["toy"].run_sync()
    with pytest.raises(MisconfigurationError, match="the application is not open: use `async with app:`"):
        run_in_virtual_time(app["toy"].run())


def test_sync_use_inside_an_event_loop_says_what_to_write(make: Any) -> None:
    """In an event loop (a notebook) `with app:` and `run_sync` say to use the async forms; nothing is left behind."""
    app = toy(make)

    async def notebook() -> None:
        with pytest.raises(MisconfigurationError, match="an event loop runs here already: use `async with app:`"), app:
            pytest.fail("it must not open")
        assert not app.is_open

    run_in_virtual_time(notebook())
    with app:
        assert len(app["toy"].run_sync().selected) == 3


def test_names_that_are_not_there_have_neighbours(make: Any) -> None:
    """A pipeline or resource that the application lacks is named with the nearest one."""
    app = toy(make, resources=[Recorder("a", [])])
    with pytest.raises(MisconfigurationError, match=r"no pipeline named 'toi': did you mean 'toy'\?"):
        app["toi"]
    with pytest.raises(MisconfigurationError, match=r"no resource named 'resource 9': did you mean 'resource 0'\?"):
        app.resource("resource 9")


LOG: list[str] = []


@attrs.define(eq=False)
class Base:
    """A resource of the registry."""

    name: str = "base"

    def open(self) -> None:
        """Write it down."""
        LOG.append(f"open {self.name}")

    def close(self) -> None:
        """Write it down."""
        LOG.append(f"close {self.name}")


@attrs.define(eq=False)
class Above(Base):
    """A resource over another."""

    base: Base | None = None
    bases: tuple[Base, ...] = ()


@attrs.frozen
class From:
    """A source that takes a resource."""

    base: Base
    reads = ()
    writes = ()

    def fetch(self, query: Query, ctx: Any) -> Candidates:
        """One row."""
        return Candidates.of(ITEM_ID([1]))


@attrs.frozen
class All:
    """A selector of everything."""

    reads = ()

    def select(self, query: Query, candidates: Candidates, ctx: Any) -> Any:
        """All rows."""
        return np.arange(len(candidates))


RESOURCES = """\
schema = 1
[pipelines.a]
sources = ["from_top"]
selector = "toy.all"
[pipelines.b]
sources = ["from_alone"]
selector = "toy.all"
[components.from_top]
use = "toy.from"
base = "top"
[components.from_alone]
use = "toy.from"
base = "alone"
[resources.top]
use = "toy.above"
name = "top"
base = "middle"
bases = ["low", "middle"]
[resources.middle]
use = "toy.above"
name = "middle"
base = "low"
[resources.low]
use = "toy.base"
name = "low"
[resources.alone]
use = "toy.base"
name = "alone"
[resources.unused]
use = "toy.base"
name = "unused"
"""


@pytest.mark.parametrize(
    ("only", "opened"),
    [
        (None, ["low", "middle", "top", "alone"]),
        (["a"], ["low", "middle", "top"]),
        (["b"], ["alone"]),
    ],
)
def test_only_resources_that_a_pipeline_needs_are_opened(only: Any, opened: list[str]) -> None:
    """Resources open after those they need, once, and only for the pipelines that will run."""
    registry = Registry(
        [
            Plugin(
                namespace="toy",
                components={
                    "resource": {"base": Base, "above": Above},
                    "source": {"from": From},
                    "selector": {"all": All},
                },
            )
        ]
    )
    LOG.clear()
    with load_document(Document(RESOURCES), registry=registry, only=only) as app:
        assert [entry for entry in LOG if entry.startswith("open")] == [f"open {name}" for name in opened]
        top = app.resource("top")
        assert top.bases == (app.resource("low"), app.resource("middle"))
        assert top.base is app.resource("middle")
    assert LOG[len(opened) :] == [f"close {name}" for name in reversed(opened)]


def test_unknown_pipeline_in_only_is_refused(shop: Any) -> None:
    """Asking to open a pipeline that is not there fails before anything opens."""
    with pytest.raises(MisconfigurationError, match=r"no pipeline named 'shp': did you mean 'shop'\?"):
        shop.load(shop.spec, only=["shp"])


# Cancellation and leaks


@pytest.mark.parametrize("stage", ["query_hydrator", "source", "hydrator", "scorer"])
@pytest.mark.parametrize("beside", [0, 2])
def test_cancelling_a_request_leaves_no_task(make: Any, stage: str, beside: int) -> None:
    """A request cancelled while components, and a `prepare`, run leaves no task behind, whatever their policy."""
    listed = [make(stage, hanging, f"h{at}") for at in range(1 + beside)] if stage != "scorer" else []
    stages: dict[str, Any] = {f"{stage}s": listed} if listed else {}
    stages["scorers"] = [make("scorer", hanging, "model", prepare=hanging)]
    app = toy(make, **stages)

    async def main() -> set[str]:
        async with app:
            before = asyncio.all_tasks()
            task = asyncio.create_task(app["toy"].run())
            await asyncio.sleep(1)
            assert len(asyncio.all_tasks()) > len(before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return {left.get_name() for left in asyncio.all_tasks() - before}

    assert run_in_virtual_time(main()) == set()


def test_failing_requests_leave_no_task(make: Any) -> None:
    """A request that fails cancels what still runs beside the component that failed it."""
    app = toy(
        make,
        sources=[make("source", hanging, "hangs"), make("source", three_rows, "fine")],
        hydrators=[make("hydrator", hanging, "h")],
        run={
            "h": RunPolicy(timeout=dt.timedelta(seconds=1), on_error="fail"),
            "hangs": RunPolicy(timeout=dt.timedelta(seconds=1)),
        },
    )

    async def main() -> None:
        async with app:
            before = asyncio.all_tasks()
            for _ in range(3):
                with pytest.raises(Exception, match="hydrator h"):
                    await app["toy"].run()
            assert asyncio.all_tasks() == before

    run_in_virtual_time(main())
