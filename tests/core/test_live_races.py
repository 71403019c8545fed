"""Live applications that are opened, closed and reloaded at the worst moments, and what they record meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_toys import Config, Ledger, fresh_ledger, in_virtual_time, spec, stamps
from toys import until

from candidate_pipeline import MisconfigurationError, RequestError
from candidate_pipeline.reloading.attempts import Attempts
from candidate_pipeline.what_if.capture import Captures, captures_in


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """An empty ledger, at whose end nothing is open."""
    yield from fresh_ledger()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config file that serves 0."""
    found = Config(tmp_path / "pipelines.toml")
    found.write(spec())
    return found


@pytest.mark.parametrize("moment", [None, 0, 1, 2, 3, 9])
def test_opening_may_be_cancelled_at_any_moment(ledger: Ledger, config: Config, moment: int | None) -> None:
    """Whoever gives up entering leaves nothing open, while resources open and when the config has just taken effect."""
    entering: list[asyncio.Task[Any]] = []

    async def cancel(moment: int) -> None:
        for _ in range(moment):
            await asyncio.sleep(0)
        entering[0].cancel()

    class Impatient:
        def request(self, request: Any) -> None:
            return None

        def reloaded(self, reload: Any) -> None:
            if moment == 0:
                entering[0].cancel()
            elif moment is not None:
                entering.append(asyncio.create_task(cancel(moment - 1)))

    async def main() -> None:
        app = config.live(observers=[Impatient()])
        entering.append(asyncio.create_task(app.__aenter__()))
        if moment is None:
            await until(lambda: bool(ledger.open))
            entering[0].cancel()
        await asyncio.wait([entering[0]])
        cut_off.append(entering[0].cancelled())
        if not entering[0].cancelled():
            await app.__aexit__(None, None, None)
        assert not app.is_open
        assert ledger.open == []

    cut_off: list[bool] = []
    in_virtual_time(main())
    assert cut_off == [moment != 9]


def test_nothing_opens_after_closing(ledger: Ledger, config: Config) -> None:
    """A look at the files that ends when the application is closing loads nothing any more."""

    async def main() -> None:
        async with config.live() as app:
            await app.check()
            config.write(spec(1, base=5))
            await app.check()
            look = asyncio.create_task(app.check())
            await asyncio.sleep(0)
        with pytest.raises(MisconfigurationError, match="closed"):
            await look
        assert not app.is_open
        assert ledger.open == []

    in_virtual_time(main())


def test_attempts_end_when_closed() -> None:
    """Nothing is attempted after closing; who asks gets the reason."""
    made = []

    async def work() -> None:
        made.append(1)

    async def main() -> None:
        attempts = Attempts(work)
        await attempts.close(RuntimeError("closed"))
        with pytest.raises(RuntimeError, match="closed"):
            await attempts.ask()

    in_virtual_time(main())
    assert not made


def test_an_observer_that_is_told_of_reloads_may_raise_anything(ledger: Ledger, config: Config) -> None:
    """What `reloaded` raises, a cancellation included, neither fails the reload nor cancels who waits for it."""

    class Broken:
        def request(self, request: Any) -> None:
            return None

        def reloaded(self, reload: Any) -> None:
            raise asyncio.CancelledError

    async def main() -> None:
        async with config.live(observers=[Broken()]) as app:
            config.write(spec(1))
            assert (await app.reload()).generation == 1
            assert stamps(await app["main"].run(who=1)) == {1}

    in_virtual_time(main())


# Captures


def test_captures_outlive_generations(ledger: Ledger, config: Config, tmp_path: Path) -> None:
    """Every sampled request is written, whichever generation served it, and the counts go on over reloads."""
    folder = tmp_path / "captures"

    async def main() -> None:
        app = config.live(captures=Captures(folder, sample=1.0))
        async with app:
            for number in range(4):
                config.write(spec(number))
                requests = [asyncio.create_task(app["main"].run(who=1, request_id=f"r{number}{n}")) for n in range(5)]
                await asyncio.sleep(0)  # so that they have begun, and the reload overtakes them
                await app.reload()
                await asyncio.gather(*requests)
        assert app.captures is not None
        assert (app.captures.saved, app.captures.failed, app.captures.left_out) == (20, 0, 0)
        assert len(list(captures_in(folder))) == 20

    in_virtual_time(main())


def test_a_live_request_may_be_captured_for_certain(ledger: Ledger, config: Config, tmp_path: Path) -> None:
    """`capture=True` is what it is for an application that does not reload."""

    async def main() -> None:
        async with config.live(captures=Captures(tmp_path / "captures")) as app:
            await app["main"].run(who=1, request_id="why", capture=True)
            assert [each.request_id for each in captures_in(tmp_path / "captures")] == ["why"]
            with pytest.raises(RequestError, match="no input"):
                await app["main"].run(whom=1)
        async with config.live() as app:
            with pytest.raises(MisconfigurationError, match="no folder for captures"):
                await app["main"].run(who=1, capture=True)
            assert app.captures is None

    in_virtual_time(main())


def test_a_request_that_outlives_its_generation_is_captured(ledger: Ledger, config: Config, tmp_path: Path) -> None:
    """Closing waits until captures are written, those of older generations too, also if it has to hurry."""

    async def main() -> None:
        config.write(spec(1, source="slow = 5.0"))
        app = config.live(captures=Captures(tmp_path / "captures", sample=1.0), drain=dt.timedelta(seconds=20))
        async with app:
            old = asyncio.create_task(app["main"].run(who=1))
            await asyncio.sleep(1)
            config.write(spec(2, source="slow = 5.0"))
            await app.reload()
            new = asyncio.create_task(app["main"].run(who=1))
            await asyncio.sleep(0)
        assert old.done()
        assert new.done()
        assert len(list(captures_in(tmp_path / "captures"))) == 2

    in_virtual_time(main())
