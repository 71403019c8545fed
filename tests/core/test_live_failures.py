"""Reloading: what happens when opening hangs, when somebody gives up, and when the application closes meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_toys import Config, Ledger, fresh_ledger, in_virtual_time, spec, stamps, tag
from toys import LONG, until

from candidate_pipeline import MisconfigurationError, RequestError, SpecError
from candidate_pipeline.reloading.attempts import Attempts
from candidate_pipeline.reloading.live import REPORT

#: Of the test for leaks.
RELOADS = 1000


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """What the toys write down."""
    yield from fresh_ledger()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config file."""
    found = Config(tmp_path / "pipelines.toml")
    found.write(spec())
    return found


def in_real_time(main: Any) -> None:
    """Run a test whose threads wait for the event loop; no task may be left at its end."""

    async def run() -> None:
        async with asyncio.timeout(LONG):
            await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


# Reloads at once


def test_reloads_at_once_share_one(ledger: Ledger, config: Config) -> None:
    """Whoever asks during a reload gets the next one, which sees what was written before they asked."""

    async def main() -> None:
        async with config.live() as app:
            config.write(spec(1, above=71))
            first = asyncio.create_task(app.reload())
            await until(lambda: ledger.going == 1)
            config.write(spec(2, above=3))
            others = [asyncio.create_task(app.reload()) for _ in range(5)]
            await asyncio.sleep(1)
            assert app.generation == 0
            ledger.gate.set()
            assert (await first).generation == 1
            found = await asyncio.gather(*others)
            assert {id(reload) for reload in found} == {id(found[0])}
            assert found[0].generation == 2
            assert stamps(await app["main"].run(who=1)) == {2}

    in_virtual_time(main())


def test_a_mended_config_does_not_wait_for_a_resource_that_hangs(ledger: Ledger, config: Config) -> None:
    """When a new config is found while a resource hangs as it opens, that is given up, and who waited gets the new."""

    async def main() -> None:
        async with config.live(poll=dt.timedelta(seconds=1)) as app:
            config.write(spec(1, above=71))
            await until(lambda: ledger.going == 1)
            waiting = asyncio.create_task(app.reload())
            await asyncio.sleep(10)
            assert stamps(await app["main"].run(who=1)) == {0}
            config.write(spec(2, above=3))
            reload = await waiting
            assert (reload.generation, ledger.going) == (1, 0)
            assert stamps(await app["main"].run(who=1)) == {2}
            await asyncio.sleep(1)
            assert ledger.tags() == [1, 3]

    in_virtual_time(main())


def test_reloads_that_nobody_waits_for_are_given_up(ledger: Ledger, config: Config) -> None:
    """A caller who gives up takes the reload along only if nobody else waits for it; the application goes on."""

    async def main() -> None:
        async with config.live() as app:
            config.write(spec(1, above=71))
            tasks = [asyncio.create_task(app.reload()) for _ in range(2)]
            await until(lambda: ledger.going == 1)
            tasks[0].cancel()
            await asyncio.sleep(1)
            assert ledger.going == 1
            tasks[1].cancel()
            await asyncio.sleep(1)
            assert (ledger.going, app.generation, app.failed, app.last_error) == (0, 0, 0, None)
            assert ledger.tags() == [1, 2]
            config.write(spec(3, above=4))
            assert (await app.reload()).generation == 1
            config.write(spec(3, above=72))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(app.reload(), 5)
            assert stamps(await app["main"].run(who=1)) == {3}

    in_virtual_time(main())


def test_a_thread_that_hangs_closes_what_it_opens(ledger: Ledger, config: Config, logs: Any) -> None:
    """A plain `open` cannot be interrupted: when it ends after all, what it opened is closed, below it first."""

    async def main() -> None:
        async with config.live(drain=dt.timedelta(milliseconds=50)) as app:
            config.write(spec(1, base=71, above=3))
            task = asyncio.create_task(app.reload())
            await until(lambda: ledger.going == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            config.write(spec(2, base=4))
            assert (await app.reload()).generation == 1
            await until(lambda: any("cannot be interrupted" in entry["event"] for entry in logs))
            ledger.gate.set()
            await until(lambda: "close base 71" in ledger.events)
            assert stamps(await app["main"].run(who=1)) == {2}

    in_real_time(main)


def test_a_thread_that_ends_soon_is_waited_for(ledger: Ledger, config: Config) -> None:
    """A cancelled reload waits for the thread that opens, for as long as `drain`, and closes what it opened."""

    async def main() -> None:
        async with config.live() as app:
            config.write(spec(1, base=71))
            task = asyncio.create_task(app.reload())
            await until(lambda: ledger.going == 1)
            task.cancel()
            await asyncio.sleep(0.05)
            ledger.gate.set()
            await until(lambda: "close base 71" in ledger.events)
            assert ledger.tags() == [1, 2]

    in_real_time(main)


# Closing


@pytest.mark.parametrize("base", [1, 71])
def test_closing_during_a_reload(ledger: Ledger, config: Config, base: int) -> None:
    """Closing gives up the reload under way, whose caller is told, and closes everything."""

    async def main() -> None:
        async with config.live(drain=dt.timedelta(milliseconds=200)) as app:
            config.write(spec(1, base=base, above=72 if base == 1 else 3))
            tasks = [asyncio.create_task(app.reload()) for _ in range(2)]
            await until(lambda: ledger.going == 1)
            asyncio.get_running_loop().call_later(0.05, ledger.gate.set)
        for task in tasks:
            with pytest.raises(MisconfigurationError, match="closed while its config was reloaded"):
                await task
        assert ledger.open == []

    in_real_time(main)


def test_closing_waits_for_requests(ledger: Ledger, config: Config, logs: Any) -> None:
    """Requests under way end before anything closes, on whichever generation; those that take too long do not."""

    async def main() -> None:
        config.write(spec(1, source="slow = 5.0"))
        async with config.live(drain=dt.timedelta(seconds=20)) as app:
            old = asyncio.create_task(app["main"].run(who=1))
            await asyncio.sleep(1)
            config.write(spec(2, base=3, source="slow = 10.0"))
            await app.reload()
            new = asyncio.create_task(app["main"].run(who=1))
            await asyncio.sleep(1)
        assert (old.done(), new.done()) == (True, True)
        assert (stamps(old.result()), stamps(new.result())) == ({1}, {2})
        assert len(ledger.effects) == 2

        async with config.live(drain=dt.timedelta(seconds=2)) as app:
            late = asyncio.create_task(app["main"].run(who=1))
            await asyncio.sleep(1)
        with pytest.raises(RequestError, match="above 2 is not open"):
            await late
        assert [entry["requests"] for entry in logs if "the application closes" in entry["event"]] == [1]

    in_virtual_time(main())


def test_closing_may_be_cancelled(ledger: Ledger, config: Config) -> None:
    """Whoever has no time to wait for the last requests still closes everything."""

    async def main() -> None:
        config.write(spec(1, source="slow = 5000.0"))

        async def use() -> None:
            async with config.live(drain=dt.timedelta(hours=1)) as app:
                requests.append(asyncio.create_task(app["main"].run(who=1)))
                await asyncio.sleep(1)
                config.write(spec(2, base=3))
                await app.reload()

        requests: list[asyncio.Task[Any]] = []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(use(), 10)
        assert ledger.open == []
        requests[0].cancel()
        await asyncio.wait(requests)

    in_virtual_time(main())


def test_a_resource_that_does_not_close_well_harms_nobody(ledger: Ledger, config: Config, logs: Any) -> None:
    """An error of `close` is logged, and everything else is closed."""

    async def main() -> None:
        config.write(spec(0, base=1, above=81))
        async with config.live() as app:
            config.write(spec(0, base=2, above=82))
            assert (await app.reload()).changed
        assert ledger.events[-4:-2] == ["close above 81", "close base 1"] or ledger.tags() == []
        assert sum(entry["event"] == "closing a resource failed" for entry in logs) == 2

    in_virtual_time(main())


def test_a_live_application_opens_again(ledger: Ledger, config: Config) -> None:
    """After it closed it may be opened again, and begins to count anew."""

    async def main() -> None:
        app = config.live(poll=dt.timedelta(seconds=1))
        for _ in range(2):
            async with app:
                config.write(spec(1))
                await asyncio.sleep(3)
                assert stamps(await app["main"].run(who=1)) == {1}
            config.write(spec(2))

    in_virtual_time(main())


def held_now() -> Counter[str]:
    """What a process holds that a reload could leave behind."""
    gc.collect()
    watched = {"Generation", "App", "Plan", "Runtime", "Scored", "Base", "Above", "Bulkhead", "Document", "Made"}
    found = Counter(name for each in gc.get_objects() if (name := type(each).__name__) in watched)
    files = Path("/proc/self/fd")
    found["files"] = len(list(files.iterdir())) if files.exists() else 0
    return found


def test_nothing_leaks_over_many_reloads(ledger: Ledger, config: Config) -> None:
    """Hundreds of reloads, good and bad, leave no task, thread, resource, file or generation behind."""

    async def main() -> None:
        async with config.live() as app:
            before: Counter[str] = Counter()
            for number in range(1, RELOADS + 1):
                if number % 10 == 5:
                    config.write("[")
                    with pytest.raises(SpecError):
                        await app.reload()
                elif number % 10 == 6:
                    config.write(spec(number, above=61))
                    with pytest.raises(MisconfigurationError):
                        await app.reload()
                else:
                    config.write(spec(number % 10, base=number % 7, above=number % 3))
                    await app.reload()
                    assert tag(await app["main"].run(who=1)) == number % 3
                if number in {RELOADS // 10, RELOADS}:
                    await asyncio.sleep(10)
                    assert app.reports()[REPORT]["older_generations"] == 0
                    assert len(ledger.open) == len(app._pool.open) == 2
                    assert len(asyncio.all_tasks()) == 1
                    await until(lambda: sum("candidate-pipeline" in each.name for each in threading.enumerate()) <= 1)
                    now = held_now()
                    assert not before or now - before == Counter()
                    before = now
            assert app.failed == RELOADS // 5
        assert ledger.open == []

    in_virtual_time(main())


# Attempts


def test_attempts_pass_errors_to_all_who_wait() -> None:
    """An attempt's error reaches everybody who waits, and the next one begins afresh; unwaited errors are no noise."""
    made = 0

    async def work() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(1)
        if made == 1:
            raise ValueError("first")
        return made

    async def main() -> None:
        attempts = Attempts(work)
        found = await asyncio.gather(attempts.ask(), attempts.ask(), return_exceptions=True)
        first, second = found
        assert isinstance(first, ValueError)
        assert second == 2
        assert await attempts.ask() == 3
        await attempts.close(RuntimeError())

    in_virtual_time(main())


def test_attempts_that_give_way_hand_on_those_who_wait() -> None:
    """Who waits for an attempt that is superseded gets the later one's result, over several of them."""
    started = 0

    async def work() -> int:
        nonlocal started
        started += 1
        mine = started
        await asyncio.sleep(1 if mine > 2 else 1000)
        return mine

    async def main() -> None:
        attempts = Attempts(work)
        tasks = [asyncio.create_task(attempts.ask())]
        for _ in range(2):
            await asyncio.sleep(1)
            tasks.append(asyncio.create_task(attempts.ask(supersede=True)))
        assert await asyncio.gather(*tasks) == [3, 3, 3]
        # Nobody waits for the later one itself, but somebody for the one that gave way to it.
        started_before = started
        tasks = [asyncio.create_task(attempts.ask())]
        await asyncio.sleep(0.1)
        tasks.append(asyncio.create_task(attempts.ask(supersede=True)))
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        assert await tasks[0] == started_before + 2
        # And when that one leaves as well, it is given up.
        tasks = [asyncio.create_task(attempts.ask())]
        await asyncio.sleep(0.1)
        tasks.append(asyncio.create_task(attempts.ask(supersede=True)))
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await attempts.ask() == started
        await attempts.close(RuntimeError())

    in_virtual_time(main())
