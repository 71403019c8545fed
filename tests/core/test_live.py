"""Reloading: what is served, what stays open, what is said about a config that cannot be used."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_toys import Config, Ledger, fresh_ledger, in_virtual_time, spec, stamps, tag
from prometheus_client import CollectorRegistry

from candidate_pipeline import App, Live, MisconfigurationError, Outcome, Reload, SpecError, live
from candidate_pipeline.observers.prometheus import PrometheusObserver
from candidate_pipeline.reloading.live import REPORT


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


async def served(app: Live, **given: Any) -> Outcome:
    """One request."""
    return await app["main"].run(who=1, **given)


def test_thousand_requests_over_ten_reloads(ledger: Ledger, config: Config, logs: Any) -> None:
    """Of 1,000 concurrent requests over ten reloads, one of them broken, none fails, and each is of one generation."""
    chosen = random.Random(5)  # noqa: S311 - a test's
    outcomes: list[Outcome] = []

    async def client(app: Live, at: float) -> None:
        await asyncio.sleep(at)
        outcomes.append(await served(app))

    async def main() -> None:
        async with config.live(poll=dt.timedelta(milliseconds=50)) as app:
            clients = [asyncio.create_task(client(app, chosen.uniform(0, 3.3))) for _ in range(1000)]
            for number in range(1, 11):
                await asyncio.sleep(0.3)
                if number == 5:
                    config.write(spec(number).replace("[pipelines.main]", "[pipelines.main"))
                else:
                    config.write(spec(number, base=number // 4, above=number // 2))
            await asyncio.gather(*clients)
            assert app.generation == 9
            assert app.failed == 1
            assert app.last_error is None
        assert len(ledger.effects) == 1000

    in_virtual_time(main())
    seen: dict[int, tuple[set[int], int]] = {}
    for outcome in outcomes:
        found = (stamps(outcome), tag(outcome))
        assert len(found[0]) == 1
        assert seen.setdefault(outcome.trace.generation, found) == found
    assert [min(seen[generation][0]) for generation in sorted(seen)] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [seen[generation][1] for generation in sorted(seen)] == [2, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert all(mine == of_request for mine, of_request, _ in ledger.effects)
    assert len({request for _, _, request in ledger.effects}) == 1000
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["event"] for entry in errors] == ["the config cannot be used; the one before goes on"]


def test_what_did_not_change_stays_open(ledger: Ledger, config: Config) -> None:
    """A changed weight opens nothing; a changed resource opens it and what stands on it; closing is in reverse."""

    async def main() -> None:
        async with config.live() as app:
            assert ledger.events == ["open base 1", "open above 2"]
            before = app.resource("above")
            config.write(spec(1))
            assert await app.reload() == Reload(1, True, kept=("base", "above"))
            assert app.resource("above") is before
            assert ledger.events == ["open base 1", "open above 2"]

            config.write(spec(1, above=3))
            reload = await app.reload()
            assert reload == Reload(2, True, kept=("base",), opened=("above",), closing=("above",))
            await asyncio.sleep(1)
            assert ledger.events[2:] == ["open above 3", "close above 2"]
            assert tag(await served(app)) == 3

            config.write(spec(1, base=5, above=3))
            reload = await app.reload()
            assert reload == Reload(3, True, opened=("base", "above"), closing=("base", "above"))
            await asyncio.sleep(1)
            assert ledger.events[4:] == ["open base 5", "open above 3", "close above 3", "close base 1"]
        assert ledger.events[8:] == ["close above 3", "close base 5"]

    in_virtual_time(main())


def test_what_is_written_otherwise_is_the_same(ledger: Ledger, config: Config) -> None:
    """Comments, an order of tables, a default that is written out and a `doc` make no new generation."""

    async def main() -> None:
        async with config.live() as app:
            text = spec().replace("[pipelines.main]", '[pipelines.main]\ndoc = "the first"')
            head, _, tail = text.partition("[components.featured]")
            config.write(
                f"# a comment\n{head}[components.featured]{tail}".replace('"toy.scored"', '"toy.scored"\nweight=1.0')
            )
            assert await app.reload() == Reload(0, False, kept=("base", "above"))
            assert app.generation == 0

    in_virtual_time(main())


def test_a_resource_may_be_renamed(ledger: Ledger, config: Config) -> None:
    """A resource of another name and the same options stays open, and goes by its new name."""

    async def main() -> None:
        async with config.live() as app:
            config.write(spec().replace('"base"', '"ground"').replace("[resources.base]", "[resources.ground]"))
            reload = await app.reload()
            assert reload.kept == ("ground", "above")
            assert not reload.opened + reload.closing
            assert app.resource("ground").tag == 1

    in_virtual_time(main())


def test_equal_resources_stay_apart(ledger: Ledger, config: Config) -> None:
    """Two resources of equal options are two, before and after a reload, and each keeps its name."""
    tail = '[resources.twin]\nuse = "toy.base"\ntag = 1'
    effect = '[components.effect]\nuse = "toy.effect"\nbase = "twin"'

    def text(stamp: int) -> str:
        return spec(stamp, tail=tail).replace('[components.effect]\nuse = "toy.effect"\nbase = "base"', effect)

    async def main() -> None:
        config.write(text(0))
        async with config.live() as app:
            before = app.resource("base"), app.resource("twin")
            assert before[0] is not before[1]
            config.write(text(1))
            assert set((await app.reload()).kept) == {"base", "above", "twin"}
            assert (app.resource("base"), app.resource("twin")) == before

    in_virtual_time(main())


def test_requests_end_on_the_generation_they_began_in(ledger: Ledger, config: Config) -> None:
    """An old generation's resources close after its last request and side effect, and not before."""

    async def main() -> None:
        config.write(spec(1, base=1, source="slow = 5.0", effect="takes = 7.0"))
        async with config.live() as app:
            pipeline = app["main"]
            old = asyncio.create_task(pipeline.run(who=1))
            await asyncio.sleep(1)
            config.write(spec(2, base=3, above=4))
            await app.reload()
            assert stamps(await pipeline.run(who=1)) == {2}
            assert app.reports()[REPORT]["older_generations"] == 1
            outcome = await old
            assert (stamps(outcome), outcome.trace.generation) == ({1}, 0)
            assert ledger.tags() == [1, 2, 3, 4]
            await asyncio.sleep(6)
            assert ledger.tags() == [1, 2, 3, 4]
            await asyncio.sleep(2)
            assert ledger.tags() == [3, 4]
            assert [effect[:2] for effect in ledger.effects] == [(2, 2), (1, 1)]
            assert app.reports()[REPORT]["older_generations"] == 0

    in_virtual_time(main())


def test_a_config_that_comes_back_finds_its_resources_open(ledger: Ledger, config: Config) -> None:
    """While an older generation still answers, a config that needs its resources again takes them over."""

    async def main() -> None:
        config.write(spec(1, base=1, source="slow = 50.0"))
        async with config.live() as app:
            old = asyncio.create_task(served(app))
            await asyncio.sleep(1)
            config.write(spec(2, base=3))
            await app.reload()
            config.write(spec(3, base=1))
            assert await app.reload() == Reload(2, True, kept=("base", "above"), closing=("base", "above"))
            assert stamps(await served(app)) == {3}
            await old
        assert ledger.events.count("open base 1") == ledger.events.count("close base 1") == 1

    in_virtual_time(main())


BROKEN: dict[str, tuple[Callable[[str], str], type[Exception], str]] = {
    "no TOML": (lambda text: text + "\n[", SpecError, "E100"),
    "wiring": (lambda text: text.replace('query_hydrators = ["featured"]', ""), SpecError, "E300"),
    "unknown key": (lambda text: text.replace("stamp =", "stmp ="), SpecError, "E101"),
    "refused": (lambda text: spec(13), SpecError, "E204"),
    "does not open": (lambda text: spec(0, base=1, above=61), MisconfigurationError, "no such thing"),
    "base does not open": (lambda text: spec(0, base=61, above=3), MisconfigurationError, "no such thing"),
    "no pipeline": (lambda text: text.replace("pipelines.main", "pipelines.other"), MisconfigurationError, "'main'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_config_keeps_the_last_good_one(ledger: Ledger, config: Config, logs: Any, name: str) -> None:
    """Whatever is wrong with a config, the one before goes on; it is said once, and counts until a good one comes."""
    breaks, kind, words = BROKEN[name]

    async def main() -> None:
        only = ["main"] if name == "no pipeline" else None
        async with config.live(only=only) as app:
            config.write(breaks(spec()))
            for attempt in range(1, 3):
                with pytest.raises(kind, match=words):
                    await app.reload()
                assert app.failed == attempt
                assert isinstance(app.last_error, kind)
                assert stamps(await served(app)) == {0}
                assert ledger.tags() == [1, 2]
            (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
            assert entry["event"] == "the config cannot be used; the one before goes on"
            assert words in entry["error"]
            assert words in str(app.reports()[REPORT]["last_error"]) or kind is SpecError
            config.write(spec(1))
            assert (await app.reload()).generation == 1
            assert app.last_error is None
            assert app.reports()[REPORT] == {
                "generation": 1,
                "older_generations": app.reports()[REPORT]["older_generations"],
                "failed_reloads": 2,
                "last_error": None,
            }
            config.write(breaks(spec()))
            with pytest.raises(kind):
                await app.reload()
            assert len([entry for entry in logs if entry["log_level"] == "error"]) == 2

    in_virtual_time(main())


def test_what_was_opened_for_a_config_that_fails_is_closed(ledger: Ledger, config: Config) -> None:
    """When the second resource does not open, the first, opened for it, is closed again."""

    async def main() -> None:
        async with config.live() as app:
            config.write(spec(1, base=3, above=61))
            with pytest.raises(MisconfigurationError, match=r"opening the resource 'above' \(Above\) failed: OSError"):
                await app.reload()
            assert ledger.events[2:] == ["open base 3", "open above 61", "close base 3"]

    in_virtual_time(main())


def test_a_config_that_is_mended_to_what_it_was_clears_the_error(ledger: Ledger, config: Config) -> None:
    """Back at the config that serves, there is no error any more, and no new generation."""

    async def main() -> None:
        async with config.live() as app:
            config.write("schema = 2")
            with pytest.raises(SpecError) as caught:
                await app.reload()
            assert app.last_error is caught.value
            config.write(spec())
            assert not (await app.reload()).changed
            assert app.last_error is None

    in_virtual_time(main())


def test_the_first_config_must_be_good(ledger: Ledger, config: Config) -> None:
    """There is nothing to go on with before the first: its mistakes are raised, and it can be opened once mended."""

    async def main() -> None:
        config.write(spec(13))
        app = config.live()
        with pytest.raises(SpecError, match="13 is unlucky"):
            await app.__aenter__()
        assert not app.is_open
        config.write(spec(0, above=61))
        with pytest.raises(MisconfigurationError, match="no such thing"):
            await app.__aenter__()
        assert ledger.open == []
        config.write(spec(2))
        async with app:
            assert stamps(await served(app)) == {2}
            assert app.generation == 0

    in_virtual_time(main())


def test_reading_a_live_application(ledger: Ledger, config: Config) -> None:
    """It reads as an application does: names, resources, reports, and says when it is not open."""

    async def main() -> None:
        app = config.live()
        closed = "the application is not open: use `async with live"
        for look in (lambda: app["main"], lambda: list(app), app.reports, lambda: app.runtime):
            with pytest.raises(MisconfigurationError, match=closed):
                look()
        with pytest.raises(MisconfigurationError, match=closed):
            await app.reload()
        with pytest.raises(MisconfigurationError, match=closed):
            await app.check()
        async with app:
            assert list(app) == ["main", "inner"]
            assert len(app) == 2
            was_open = app.is_open
            assert app.dataset is None
            assert app["main"].plan is app.app["main"].plan
            assert app.runtime.generation == app.generation == 0
            assert isinstance(app.app, App)
            with pytest.raises(MisconfigurationError, match="no pipeline named 'mein': did you mean 'main'"):
                app["mein"]
            with pytest.raises(MisconfigurationError, match="open already"):
                await app.__aenter__()
            pipeline = app["main"]
        assert was_open
        assert not app.is_open
        with pytest.raises(MisconfigurationError, match=closed):
            await pipeline.run(who=1)

    in_virtual_time(main())


def test_a_pipeline_that_is_gone_says_so(ledger: Ledger, config: Config) -> None:
    """A handle on a pipeline that the newest config has no more raises, with what there is."""

    async def main() -> None:
        async with config.live() as app:
            pipeline = app["inner"]
            assert len((await pipeline.run()).selected) == 5
            text = (
                spec()
                .replace("pipelines.inner", "pipelines.inside")
                .replace('pipeline = "inner"', 'pipeline = "inside"')
            )
            config.write(text)
            await app.reload()
            with pytest.raises(MisconfigurationError, match="no pipeline named 'inner'"):
                await pipeline.run()
            assert list(app) == ["main", "inside"]

    in_virtual_time(main())


def test_holding_a_generation(ledger: Ledger, config: Config) -> None:
    """Requests that belong together are answered by one generation, however often it is reloaded meanwhile."""

    async def main() -> None:
        async with config.live() as app:
            with app.hold() as held:
                config.write(spec(1, base=4))
                await app.reload()
                await asyncio.sleep(100)
                assert stamps(await held["main"].run(who=1)) == {0}
                assert stamps(await served(app)) == {1}
            await asyncio.sleep(1)
            assert ledger.tags() == [2, 4]

    in_virtual_time(main())


def test_observers_hear_of_reloads(ledger: Ledger, config: Config, logs: Any) -> None:
    """An observer with a method `reloaded` gets every result, failures included; one that raises harms nothing."""

    class Hears:
        def __init__(self) -> None:
            self.heard: list[Reload] = []

        def request(self, request: Any) -> None:
            return None

        def reloaded(self, reload: Reload) -> None:
            self.heard.append(reload)
            raise ZeroDivisionError

    class Deaf:
        def request(self, request: Any) -> None:
            return None

    hears = Hears()

    async def main() -> None:
        async with config.live(observers=[hears, Deaf()]) as app:
            config.write(spec(1))
            await app.reload()
            config.write("")
            with pytest.raises(SpecError):
                await app.reload()
            assert stamps(await served(app)) == {1}

    in_virtual_time(main())
    assert [(reload.generation, reload.changed) for reload in hears.heard] == [(0, True), (1, True), (1, False)]
    assert [problem.code for problem in hears.heard[2].problems] == ["E103", "E103"]
    assert any(entry["event"] == "an observer failed" and entry["observer"] == "Hears" for entry in logs)


def test_metrics_of_reloads(ledger: Ledger, config: Config) -> None:
    """Prometheus reads how many reloads there were, how they ended, and whether the newest config is refused."""
    registry = CollectorRegistry()

    def reads(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"candidate_pipeline_{name}", labels)

    async def main() -> None:
        async with config.live(observers=[PrometheusObserver(registry)]) as app:
            assert not (await app.reload()).changed
            config.write("schema = 1")
            for _ in range(2):
                with pytest.raises(SpecError):
                    await app.reload()
            assert reads("config_refused") == 1
            config.write(spec(1))
            await app.reload()
            await served(app)
            assert reads("config_refused") == 0
            assert reads("generation", pipeline="main") == 1
            found = {status: reads("reloads_total", status=status) for status in ("changed", "unchanged", "failed")}
            assert found == {"changed": 2, "unchanged": 1, "failed": 2}

    in_virtual_time(main())


def test_errors_tell_no_secrets(ledger: Ledger, config: Config, logs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came from the environment is in no log line and no report, even if a resource's error tells it."""
    monkeypatch.setenv("TOY_SECRET", "hunter2-hunter2")

    async def main() -> None:
        async with config.live() as app:
            config.write(spec(1, above=61).replace("tag = 61", 'tag = 61\nwords_of_error = { env = "TOY_SECRET" }'))
            with pytest.raises(MisconfigurationError, match=r"no such thing at \*\*\*"):
                await app.reload()
            assert app.reports()[REPORT]["last_error"] == (
                "opening the resource 'above' (Above) failed: OSError: no such thing at ***"
            )
        assert "hunter2" not in str(logs)

    in_virtual_time(main())


def test_polls_must_take_time() -> None:
    """A poll of no time is refused, with what to write instead."""
    with pytest.raises(MisconfigurationError, match="wanted a time above 0, or None"):
        live("pipelines.toml", poll=dt.timedelta(0))
