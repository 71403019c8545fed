"""What a replay runs, what it takes from the capture, and what it says of that."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import attrs
import pytest
from replay_shop import (
    CALLED,
    NOW,
    STOCK,
    WHO,
    Items,
    Push,
    Scarce,
    Shop,
    Slow,
    Stock,
    Taste,
    Weigh,
    again,
    record,
    shop,
)
from replays import differences, recorded

from candidate_pipeline import (
    App,
    CachePolicy,
    Candidates,
    MisconfigurationError,
    NestedPipeline,
    RequestError,
    RunPolicy,
    compose,
)
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.testing import TopScore, run_in_virtual_time


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    """Start every test with nothing called."""
    CALLED.clear()


def test_pure_stages_run_and_nothing_else() -> None:
    """Expect filters, scorers and selectors to run, and neither what fetches nor what acts."""
    outcome, capture = record(shop())
    found = again(shop(), capture)
    assert not differences(found, outcome)
    assert CALLED == ["weigh", "push"]
    assert (found.live, found.reused, found.notes) == ((), (), ())
    assert capture.recording.components["side_effects/tell"].status in {"", "ok"}


def test_a_changed_component_runs_live_and_what_depends_on_it_too() -> None:
    """Expect a component with other settings to run, and those that read what it found to be asked anew."""
    _, capture = record(shop())
    found = again(shop(query_hydrators=[Taste(add=1)]), capture)
    assert found.live == ("taste", "items")
    fresh, _ = record(shop(query_hydrators=[Taste(add=1)]))
    assert not differences(found, fresh)
    with pytest.raises(CaptureError, match=r"taste \(Taste\) would have to run: the capture has no answer of it"):
        again(shop(query_hydrators=[Taste(add=1)]), capture, live="never")


def test_recorded_answers_count_by_name_if_wanted() -> None:
    """Expect `live="recorded"` to use what is recorded under a name, whatever its settings."""
    outcome, capture = record(shop())
    found = again(shop(query_hydrators=[Taste(add=1)]), capture, live="recorded")
    assert found.live == ()
    assert not differences(found, outcome)


def test_rows_that_were_not_selected_are_looked_up() -> None:
    """Expect a hydrator after selection to run for the rows that nothing is recorded of, and for no others."""
    outcome, capture = record(shop())
    assert outcome.item_ids.tolist() == [6, 5, 4]
    other = {"scorers": [Weigh(weight=-1.0), Push()]}
    found = again(shop(**other), capture)
    assert found.item_ids.tolist() == [1, 3, 4]
    assert [call for call in CALLED if call.startswith("stock")] == ["stock of 1,3"]
    assert found.live == ("stock",)
    fresh, _ = record(shop(**other))
    assert not differences(found, fresh)


def test_rows_that_may_not_be_looked_up_fail() -> None:
    """Expect their cells to fail, and a note to say so, where nothing may run."""
    _, capture = record(shop())
    for live in ("never", "recorded"):
        found = again(shop(scorers=[Weigh(weight=-1.0), Push()]), capture, live=live)
        assert found.selected.failed(STOCK).tolist() == [True, True, True]  # item 4 failed when it was recorded
        assert found.live == ()
        assert found.notes == ("stock: nothing is recorded of 2 rows, which failed",)


def test_a_moved_hydrator_keeps_its_answers() -> None:
    """Expect what is recorded of a hydrator in one stage to count in another."""
    _, capture = record(shop(hydrators=[Stock()], post_selection_hydrators=[]))
    found = again(shop(), capture, live="never")
    assert found.selected.failed(STOCK).tolist() == [False, False, True]


def test_new_rows_are_hydrated_live() -> None:
    """Expect a source with more rows to run, and hydrators to be asked of the new rows only."""
    stages = {"hydrators": [Stock()], "post_selection_hydrators": []}
    _, capture = record(shop(**stages))
    found = again(shop(**stages, sources=[Items(last=8)]), capture)
    assert [call for call in CALLED if call.startswith("stock")] == ["stock of 7,8"]
    fresh, _ = record(shop(**stages, sources=[Items(last=8)]))
    assert not differences(found, fresh)


def test_failures_are_repeated() -> None:
    """Expect recorded failures to fail again, so that policies apply, fallbacks included."""
    stages = {
        "sources": [("main", Items(fails=True)), ("more", Items(first=10, last=11))],
        "fallbacks": [("spare", Items(first=20, last=22))],
        "run": {"main": RunPolicy(on_error="fallback:spare")},
    }
    outcome, capture = record(shop(**stages))
    assert 22 in outcome.item_ids
    found = again(shop(**stages), capture, live="never")
    assert not differences(found, outcome)
    stricter = again(shop(**stages | {"run": {"main": RunPolicy(on_error="skip")}}), capture, live="never")
    assert 22 not in stricter.item_ids
    assert "items" not in CALLED
    with pytest.raises(RequestError, match=r"main .* failed: OSError: no line"):
        again(shop(**stages | {"run": {"main": RunPolicy(on_error="fail")}}), capture, live="never")


def test_timeouts_are_repeated_and_new_ones_do_not_apply() -> None:
    """Expect what ran out of time to do so again at once, and what runs live to have all the time it needs."""
    limits = {"slow": RunPolicy(timeout=dt.timedelta(milliseconds=20), on_timeout="skip")}
    outcome, capture = record(shop(sources=[Items(), Slow()], run=limits))
    assert 99 not in outcome.item_ids
    found = again(shop(sources=[Items(), Slow()], run=limits), capture, live="never")
    assert not differences(found, outcome)
    late = again(shop(sources=[Items(), Slow(2.0)], run=limits, deadline=dt.timedelta(milliseconds=50)), capture)
    assert late.live == ("slow", "stock")
    assert late.item_ids.tolist()[0] == 99


def test_cached_answers_are_recorded_and_replayed() -> None:
    """Expect an answer that came from a cache to be in the capture like any other."""
    caches = {name: RunPolicy(cache=CachePolicy(ttl=dt.timedelta(hours=1))) for name in ("taste", "items")}
    app = shop(run=caches)

    async def main() -> Any:
        async with app:
            await app["shop"].run(now=NOW, who=2)
            CALLED.clear()
            return await recorded(app, "shop", now=NOW, who=2)

    outcome, capture = run_in_virtual_time(main())
    assert "taste" not in CALLED
    assert not differences(again(shop(run=caches), capture, live="never"), outcome)
    fresh = again(shop(run=caches, query_hydrators=[Taste(add=1)]), capture)
    assert fresh.live == ("taste", "items")


def nested(inner_last: int = 4, weight: float = 1.0, *, fails: bool = False, least: int = 0) -> App:
    """A pipeline with one inside, one that tops it up, and refills."""
    common: dict[str, Any] = {"inputs": {"who": WHO}, "query_hydrators": [Taste()]}
    stall = compose(
        "stall",
        sources=[Items(last=inner_last, fails=fails)],
        hydrators=[Stock()],
        filters=[Scarce(least)],
        scorers=[Weigh(weight)],
        selector=TopScore(3),
        run={"items": RunPolicy(on_error="fail")},
        **common,
    )
    spare = compose("spare", sources=[Items(first=30, last=33)], scorers=[Weigh()], selector=TopScore(), **common)
    return compose(
        "shop",
        sources=[("stall", NestedPipeline(stall["stall"].plan)), Items(first=10, last=13)],
        scorers=[Weigh(), Push()],
        selector=TopScore(2),
        post_selection_hydrators=[Stock(add=1)],
        post_selection_filters=[Scarce(125)],
        result_size=8,
        min_results=6,
        max_refills=2,
        top_up=spare["spare"],
        **common,
    )


@pytest.mark.parametrize("fails", [False, True])
def test_nested_pipelines_and_top_ups_replay(fails: bool) -> None:
    """Expect pipelines inside to be replayed from recordings of their own, refills and top-up included."""
    outcome, capture = record(nested(fails=fails))
    assert {entry.refill for entry in outcome.trace} > {0}
    assert "spare" in outcome.inner
    assert ("stall" in outcome.inner) is not fails
    found = again(nested(fails=fails), capture, live="never")
    assert not differences(found, outcome)
    assert not [call for call in CALLED if call.startswith(("items", "taste", "stock"))]


def test_a_change_inside_a_nested_pipeline_is_a_fresh_run() -> None:
    """Expect a weight, a filter or a source changed inside to have its effect outside."""
    _, capture = record(nested())
    for change, live in (
        ({"weight": -1.0}, ("stock",)),
        ({"least": 30}, ("stock",)),
        ({"inner_last": 6}, ("items", "stock")),
    ):
        found = again(nested(**change), capture)
        fresh, _ = record(nested(**change))
        assert not differences(found, fresh)
        assert set(found.live) <= set(live)


def test_a_nested_pipeline_that_was_not_called_runs_live() -> None:
    """Expect what tops up only now to run, and to be refused where nothing may."""
    spare = compose(
        "spare",
        inputs={"who": WHO},
        sources=[Items(first=50, last=59)],
        query_hydrators=[Taste()],
        scorers=[Weigh()],
        selector=TopScore(),
    )
    stages = {"top_up": spare["spare"], "min_results": 2, "result_size": 8}
    _, capture = record(shop(**stages))
    more = stages | {"min_results": 5}
    found = again(shop(**more), capture)
    assert len(found.selected) == 8
    assert set(found.live) == {"taste", "items"}
    with pytest.raises(CaptureError, match="taste"):
        again(shop(**more), capture, live="never")


def test_reused_scorers_do_not_run() -> None:
    """Expect a scorer's recorded columns to stand in for it, whatever its settings are now."""
    outcome, capture = record(shop())
    found = again(shop(scorers=[Weigh(weight=-5.0), Push()]), capture, reuse=["weigh"])
    assert CALLED == ["push"]
    assert found.reused == ("weigh",)
    assert not differences(found, outcome)
    with pytest.raises(MisconfigurationError, match=r"reuse: pipeline 'shop' has no scorer 'weight'.*did you mean"):
        again(shop(), capture, reuse=["weight"])
    with pytest.raises(CaptureError, match="the capture has no columns of extra"):
        again(shop(scorers=[Weigh(), Push(), ("extra", Push())]), capture, reuse=["extra"])


def test_resources_open_only_where_they_are_needed() -> None:
    """Expect an application that opens nothing by itself to open what runs, when it runs."""

    def app(weight: float = 1.0, **options: Any) -> App:
        store, model = Shop("store"), Shop("model")
        found = shop(
            scorers=[Weigh(weight, model), Push()],
            query_hydrators=[Taste(shop=store)],
            post_selection_hydrators=[Stock(shop=store)],
            resources=[store, model],
        )
        for name, value in options.items():
            setattr(found, name, value)
        return found

    outcome, capture = record(app())
    assert not differences(again(app(_only=()), capture), outcome)
    assert [call for call in CALLED if call.startswith("open")] == ["open model"]
    CALLED.clear()
    again(app(_only=()), capture, reuse=["weigh"])
    assert CALLED == ["push"]
    CALLED.clear()
    again(app(-1.0, _only=()), capture)
    assert [call for call in CALLED if call.startswith("open")] == ["open model", "open store"]


def test_what_ran_out_of_time_is_repeated_in_pure_stages() -> None:
    """Expect a scorer that was too late to be too late again if it is asked the same, and to run if not."""

    @attrs.frozen
    class Late(Push):
        seconds: float = 1.0

        async def score(self, query: Any, candidates: Candidates, ctx: Any) -> Any:
            await asyncio.sleep(self.seconds)
            return Push.score(self, query, candidates, ctx)

    def app(weight: float = 1.0) -> App:
        policy = RunPolicy(timeout=dt.timedelta(milliseconds=20), on_timeout="fallback:push")
        scorers = [Weigh(weight), ("late", Late(100.0))]
        return shop(scorers=scorers, fallbacks=[("push", Push())], run={"late": policy})

    outcome, capture = record(app())
    assert not differences(again(app(), capture), outcome)
    found = again(app(2.0), capture)
    assert [step.scorer for step in found.score_steps] == ["weigh", "late"]
