"""Reloading: what components keep over it, and the property that the last good config is what serves."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_toys import LEDGER, Config, Ledger, fresh_ledger, in_virtual_time, spec, stamps, tag
from toys import NOW, entry_of

from candidate_pipeline import Live, MisconfigurationError

CACHE = 'run = { cache = { ttl = "1h" } }'
BREAKER = 'run = { on_error = "skip", breaker = { min_calls = 2, window = "1h", open_for = "1h" } }'


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


async def served(app: Live) -> Any:
    """One request, always at the same time."""
    return await app["main"].run(who=1, now=NOW)


def hits(outcome: Any, component: str) -> int:
    """How much of a component's answer came from its cache."""
    return int(entry_of(outcome, component).cache_hits)


# What is kept


def test_caches_of_what_did_not_change_go_on(ledger: Ledger, config: Config) -> None:
    """A changed weight leaves the caches of other components warm; a changed component, cache or resource does not."""

    def text(**changes: Any) -> str:
        given = {"hydrated": CACHE, "source": CACHE, **changes}
        return spec(1, **given)

    async def main() -> None:
        config.write(text())
        async with config.live() as app:
            assert hits(await served(app), "hydrated") == 0
            outcome = await served(app)
            assert (hits(outcome, "hydrated"), hits(outcome, "stamped")) == (5, 1)

            config.write(text(scored="weight = -1.0"))
            assert (await app.reload()).changed
            outcome = await served(app)
            assert (hits(outcome, "hydrated"), hits(outcome, "stamped")) == (5, 1)
            assert outcome.item_ids.tolist() == [1, 2, 3, 4, 5]

            config.write(
                text(scored="weight = 1.0").replace(
                    'use = "toy.hydrated"\nstamp = 1', 'use = "toy.hydrated"\nstamp = 3'
                )
            )
            await app.reload()
            outcome = await served(app)
            assert (hits(outcome, "hydrated"), hits(outcome, "stamped")) == (0, 1)
            assert stamps(outcome) == {1, 3}

            config.write(text(above=3))
            await app.reload()
            outcome = await served(app)
            assert (hits(outcome, "stamped"), tag(outcome)) == (0, 3)

            assert hits(await served(app), "hydrated") == 5
            config.write(text(above=3, hydrated=CACHE.replace("1h", "2h")))
            await app.reload()
            outcome = await served(app)
            assert (hits(outcome, "hydrated"), hits(outcome, "stamped")) == (0, 1)

    in_virtual_time(main())


def test_a_cache_outlives_the_generation_that_filled_it(ledger: Ledger, config: Config) -> None:
    """While generations come and go, also with requests of older ones under way, a shared cache stays open."""

    async def main() -> None:
        config.write(spec(1, hydrated=CACHE, source="slow = 100.0"))
        async with config.live() as app:
            old = asyncio.create_task(served(app))
            await asyncio.sleep(1)
            config.write(spec(1, hydrated=CACHE, source="slow = 1.0"))
            await app.reload()
            assert hits(await served(app), "hydrated") == 0
            config.write(spec(1, hydrated=CACHE, source="slow = 2.0"))
            await app.reload()
            await asyncio.sleep(10)
            assert hits(await served(app), "hydrated") == 5
            config.write(spec(1, source="slow = 3.0"))  # nobody but the oldest request uses the cache
            await app.reload()
            await asyncio.sleep(10)
            outcome = await old
            assert (hits(outcome, "hydrated"), outcome.trace.generation) == (5, 0)
            await asyncio.sleep(10)
            assert app.runtime._holders.total() == 1  # the threads of the scorer

    in_virtual_time(main())


def test_what_is_being_fetched_for_a_cache_goes_on(ledger: Ledger, config: Config) -> None:
    """A request that joined the fetch of an older generation's request gets it, though that generation has closed."""

    async def main() -> None:
        config.write(spec(1, source=f"slow = 10.0\n{CACHE}"))
        async with config.live() as app:
            old = asyncio.create_task(served(app))
            await asyncio.sleep(1)
            config.write(spec(1, scored="weight = 2.0", source=f"slow = 10.0\n{CACHE}"))
            await app.reload()
            new = asyncio.create_task(served(app))
            await asyncio.sleep(1)
            old.cancel()
            await asyncio.wait({old})
            await asyncio.sleep(1)
            assert stamps(await new) == {1}
        assert ledger.calls == 2  # the source and the hydrator, once

    in_virtual_time(main())


def test_breakers_of_what_did_not_change_stay_open(ledger: Ledger, config: Config) -> None:
    """A component that keeps failing stays shut out over a reload, until it is changed itself."""

    def text(stamp: int, **changes: Any) -> str:
        scored = f'{BREAKER}\n[components.spare]\nuse = "toy.scored"'.replace('"skip"', '"fallback:spare"')
        return spec(1, scored=scored, **changes).replace(
            'use = "toy.scored"\nstamp = 1', f'use = "toy.scored"\nstamp = {stamp}'
        )

    async def main() -> None:
        config.write(text(14))
        async with config.live() as app:
            for _ in range(3):
                outcome = await served(app)
            assert "the circuit is open" in str([entry.error for entry in outcome.trace])
            config.write(text(14, above=5))
            assert (await app.reload()).changed
            assert "the circuit is open" in str([entry.error for entry in (await served(app)).trace])
            config.write(text(15, above=5))
            await app.reload()
            assert "the circuit is open" not in str([entry.error for entry in (await served(app)).trace])

    in_virtual_time(main())


def test_threads_of_what_did_not_change_go_on(ledger: Ledger, config: Config) -> None:
    """A blocking component that is the same keeps its threads; those of one that is not are let go."""

    def names() -> set[int | None]:
        return {each.ident for each in threading.enumerate() if each.name.startswith("candidate-pipeline scored")}

    async def main() -> None:
        before = names()
        async with config.live() as app:
            await served(app)
            mine = names() - before
            config.write(spec(0, above=4))
            await app.reload()
            await asyncio.sleep(10)
            await served(app)
            assert mine <= names()
            config.write(spec(0, above=4, scored="weight = 2.0"))
            await app.reload()
            await served(app)
            await asyncio.sleep(10)
            while mine & names():  # noqa: ASYNC110  # idle threads end in real time
                await asyncio.sleep(0.01)

    in_virtual_time(main())


def test_a_pipeline_that_is_the_same_is_the_same_object(ledger: Ledger, config: Config) -> None:
    """Of two pipelines the one that is not touched goes on as it is, and the other, which it is part of, does not."""

    async def main() -> None:
        async with config.live() as app:
            main, inner = app["main"].plan, app["inner"].plan
            config.write(spec(0, effect="takes = 0.5"))
            await app.reload()
            assert app["main"].plan is not main
            assert app["inner"].plan is inner
            assert app["main"].plan.config_hash != main.config_hash
            main = app["main"].plan
            config.write(spec(0, effect="takes = 0.5", inside='run = { timeout = "1s" }'))
            await app.reload()
            assert app["inner"].plan is not inner
            assert app["main"].plan is not main

    in_virtual_time(main())


# A model of it

#: Tags of resources that open, and one that does not.
TAGS = st.sampled_from([1, 2, 3, 61])
#: What a file may hold: a stamp and the tags of its resources, or how it is broken.
CONTENTS = st.one_of(
    st.tuples(st.sampled_from([0, 1, 2, 13]), TAGS, TAGS), st.sampled_from(["", "[", "schema = 1\n", "gone"])
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), CONTENTS),
        st.tuples(st.just("reload"), st.none()),
        st.tuples(st.just("look"), st.integers(1, 3)),
        st.tuples(st.just("request"), st.floats(0.001, 0.5)),
    ),
    max_size=25,
)


def is_good(content: Any) -> bool:
    """Whether a config can be used."""
    return isinstance(content, tuple) and content[0] != 13 and 61 not in content[1:]


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_the_last_good_config_serves(steps: list[tuple[str, Any]]) -> None:
    """Whatever is written, read and asked, in whatever order: requests and resources are of the last good config."""
    for _ in fresh_ledger():
        with tempfile.TemporaryDirectory() as folder:
            in_virtual_time(follow(Config(Path(folder) / "pipelines.toml"), steps))


async def follow(config: Config, steps: list[tuple[str, Any]]) -> None:
    """Take steps with a live application, and with a model of it."""
    written: Any = (0, 1, 2)
    good, generation, failing = written, 0, False
    seen: Any = None
    tried: Any = written
    requests: list[tuple[asyncio.Task[Any], tuple[int, int, int], int]] = []
    config.write(spec(0, base=1, above=2))
    async with config.live() as app:

        def read() -> None:
            nonlocal good, generation, failing, tried
            tried = written
            failing = not is_good(written)
            if not failing and written != good:
                good, generation = written, generation + 1

        for step, value in steps:
            if step == "write":
                written = value
                if value == "gone":
                    config.path.unlink(missing_ok=True)
                else:
                    config.write(value if isinstance(value, str) else spec(value[0], base=value[1], above=value[2]))
            elif step == "reload":
                read()
                if failing:
                    with pytest.raises(MisconfigurationError):
                        await app.reload()
                else:
                    assert (await app.reload()).generation == generation
            elif step == "look":
                for _ in range(value):
                    if seen == written != tried:
                        read()
                    seen = written
                    await app.check()
            else:
                requests.append((asyncio.create_task(served(app)), good, generation))
                await asyncio.sleep(value)
            assert app.generation == generation
            assert (app.last_error is not None) == failing
            assert stamps(await served(app)) == {good[0]}
            if all(task.done() for task, _, _ in requests):
                await asyncio.sleep(1)
                assert sorted(good[1:]) == LEDGER.tags()
                assert app.resource("base").tag == good[1]
        for task, content, number in requests:
            outcome = await task
            assert (stamps(outcome), tag(outcome), outcome.trace.generation) == ({content[0]}, content[2], number)
