"""The smallest single change that makes two items change places: what it is, and that it does."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar

import attrs
import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval, Lt, MultipleOf, Predicate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranked import HEADS, REGISTRY, SPEC, Again, Boost, Diversity, Drop, Secret, Top, Weighted, heads

from candidate_pipeline import (
    ITEM_ID,
    ITEM_TEXT_ID,
    SCORE,
    MisconfigurationError,
    RequestError,
    load_document,
    patch,
    text_ids,
)
from candidate_pipeline.spec.document import Document
from candidate_pipeline.testing import run_in_virtual_time
from candidate_pipeline.what_if.capture import Captures, captures_in
from candidate_pipeline.what_if.replay import Replayer
from candidate_pipeline.what_if.swap import SwapOption, SwapResult, smallest_swap
from candidate_pipeline.what_if.swap_options import numeric_options

#: Typed as anything, so that it may stand where a number is expected.
approx: Any = pytest.approx


def found(replayer: Any, ahead: Any, behind: Any, **settings: Any) -> SwapResult:
    """The result of a search, in virtual time."""
    return run_in_virtual_time(smallest_swap(replayer, ahead, behind, **settings))


def by_name(result: SwapResult) -> dict[str, SwapOption]:
    """All options of a result."""
    return {option.option: option for option in (*result.found, *result.failed)}


def places(replayer: Again, name: str, component: Any) -> list[int]:
    """The response of a fresh run with a component replaced."""
    return [int(item) for item in run_in_virtual_time(replayer.run({name: component})).item_ids]


# Linear scorers

#: 1 is ahead of 2 by (.9 + .1 * 5) - (.2 + .2 * 5) = .2, and more replies are to the good of 2.
TWO = heads({1: (0.9, 0.1, 0.0), 2: (0.2, 0.2, 0.0)})


def test_the_boundary_of_a_weight_in_closed_form() -> None:
    """Expects the weight where the sums meet, a value of few digits beyond it, and that every option is told of."""
    result = found(Again(TWO, (("weighted", Weighted()),)), 1, 2)
    options = by_name(result)
    reply, like = options["weighted.weights.reply"], options["weighted.weights.like"]
    assert reply.boundary == approx(7.0, rel=1e-5)
    assert (reply.value, reply.new, reply.change) == (5.0, approx(7.0, abs=0.021), approx(2.0, abs=0.021))
    assert reply.relative == approx((reply.change or 0.0) / 5.0)
    assert reply.override == f"components.weighted.weights.reply={reply.new!r}"
    assert len(str(reply.new)) <= 5
    assert like.boundary == approx(5 / 7, rel=1e-5)
    assert (like.new or math.inf) <= (like.boundary or -math.inf)
    assert result.best is min(result.found, key=lambda each: each.relative or math.inf)
    assert [each.option for each in result.failed] == ["weighted.weights.share", "weighted.bias", "top.size"]
    assert (result.rank_ahead, result.rank_behind, result.complete) == (1, 2, True)
    assert {each.note for each in result.failed[:1]} == {"it changes nothing here"}


def test_a_weight_that_is_not_set_starts_from_its_value_in_effect() -> None:
    """Expects the preset's value, unless it is overridden."""
    options = by_name(found(Again(TWO, (("weighted", Weighted({"reply": 6.0})),)), 1, 2))
    assert {name: option.value for name, option in options.items()} == {
        "weighted.weights.like": 1.0,
        "weighted.weights.reply": 6.0,
        "weighted.weights.share": 2.0,
        "weighted.bias": 0.0,
        "top.size": 3,
    }


def test_the_order_in_which_items_are_named_does_not_count() -> None:
    """Expects the same result either way."""
    one, other = (found(Again(TWO, (("weighted", Weighted()),)), *pair) for pair in ((1, 2), (2, 1)))
    assert one.as_dict() == other.as_dict() or str(one) == str(other)


def test_a_factor_within_its_constraints() -> None:
    """Expects the factor where the scores meet, and none where that is out of its range."""
    table = heads({2: (0.3, 0.0), 1: (0.9, 0.0)})
    options = by_name(found(Again(table, (("weighted", Weighted()), ("boost", Boost(1.0)))), 1, 2))
    assert options["boost.factor"].boundary == approx(3.0, rel=1e-5)
    table = heads({2: (0.2, 0.0), 1: (0.9, 0.0)})
    factor = by_name(found(Again(table, (("weighted", Weighted()), ("boost", Boost(1.0)))), 1, 2))["boost.factor"]
    assert not factor.swaps
    assert (factor.note, factor.highest) == ("it does not swap them", 4.0)
    assert 0 < factor.lowest < 1e-300


def test_weights_before_a_factor() -> None:
    """Expects the boundary of a weight whose term is multiplied afterwards."""
    table = heads({1: (0.9, 0.1), 2: (0.2, 0.1)})
    options = by_name(found(Again(table, (("weighted", Weighted()), ("boost", Boost(1.5)))), 1, 2))
    # .9 w + .5 = 1.5 (.2 w + .5)
    assert options["weighted.weights.like"].boundary == approx(0.25 / 0.6, rel=1e-5)


def test_an_item_outside_the_response_must_come_in_ahead() -> None:
    """Expects that reaching the response behind the other one is not enough, and that its rank says it is outside."""
    table = heads({1: (0.9, 0.0), 2: (0.8, 0.0), 3: (0.1, 0.1)})
    again = Again(table, (("weighted", Weighted({"reply": 1.0})),), Top(2))
    result = found(again, 3, 1)
    assert (result.ahead, result.behind, result.rank_behind) == ("1", "3", None)
    assert by_name(result)["weighted.weights.reply"].boundary == approx(8.0, rel=1e-5)
    assert not by_name(result)["top.size"].swaps
    reply = by_name(result)["weighted.weights.reply"].new or 0.0
    assert places(again, "weighted", Weighted({"reply": reply}))[0] == 3


def test_whole_numbers_and_steps() -> None:
    """Expects whole numbers for an integer option, and multiples where the option takes no others."""

    @attrs.frozen
    class Rate:
        likes: Annotated[int, Interval(ge=0, lt=40)] = 4
        threes: Annotated[int, MultipleOf(3)] = 3
        halves: Annotated[float, MultipleOf(0.5), Gt(-2)] = 0.5
        name: str = "a"
        on: bool = True

        reads: ClassVar = (HEADS,)
        writes: ClassVar = (SCORE,)

        def score(self, query: Any, candidates: Any, ctx: Any) -> Any:
            like, reply, share = (candidates.label(HEADS, head) for head in HEADS.labels)
            return patch(SCORE((like * self.likes + reply * self.threes + share * self.halves).astype(np.float32)))

    table = heads({1: (0.9, 0.1, 0.0), 2: (0.5, 0.3, 0.1)})
    options = by_name(found(Again(table, (("rate", Rate()),)), 1, 2))
    assert options["rate.likes"].new == 1  # .9 l + .3 = .5 l + .95
    assert options["rate.threes"].new == 9  # 3.6 + .1 t = 2.05 + .3 t
    assert options["rate.threes"].override == "components.rate.threes=9"
    assert options["rate.halves"].new == 10.0  # 3.9 = 2.9 + .1 h
    assert {name.partition(".")[2] for name in options} == {"likes", "threes", "halves", "size"}
    assert options["rate.likes"].highest == 39


# Scorers that look at several rows


def test_author_diversity() -> None:
    """Expects the decay at which an author's second item is as good as another author's."""
    table = heads({1: (1.0, 0.0), 2: (0.8, 0.0), 3: (0.6, 0.0)}, {1: 7, 2: 7, 3: 8})
    again = Again(table, (("weighted", Weighted()), ("diversity", Diversity(0.5))))
    options = by_name(found(again, 3, 2))
    assert options["diversity.decay"].boundary == approx(0.75, rel=1e-4)
    assert places(again, "diversity", Diversity(options["diversity.decay"].new or 0.0)) == [1, 2, 3]
    assert options["weighted.weights.like"].note


def test_a_change_on_the_nearer_side_wins() -> None:
    """Expects the lesser of two changes where both a larger and a smaller value swap the items."""

    @attrs.frozen
    class Bowl:
        at: float = 0.0

        reads: ClassVar = ()
        writes: ClassVar = (SCORE,)

        def score(self, query: Any, candidates: Any, ctx: Any) -> Any:
            better = self.at > 1.0 or self.at < -0.9
            return patch(SCORE(np.where((candidates[ITEM_ID] == 1) == better, 0.0, 1.0)))

    option = by_name(found(Again(heads({1: (0.0,), 2: (0.0,)}), (("bowl", Bowl()),)), 1, 2))["bowl.at"]
    assert (option.boundary, option.new) == (approx(-0.9, rel=1e-5), approx(-0.909, abs=0.009))


# What cannot be


def test_an_item_that_a_filter_drops_first() -> None:
    """Expects no search, and the filter's name."""
    table = heads({1: (0.9, 0.0), 2: (0.8, 0.0)})
    again = Again(table, (("weighted", Weighted()),), stages={"drop": 2})
    result = found(again, 1, 2)
    assert result.reason == "drop drops 2 before anything is scored"
    assert (result.found, result.failed, result.complete, again.runs) == ((), (), True, 1)


def test_an_item_that_is_dropped_after_selection() -> None:
    """Expects a search, which finds nothing where the filter drops the item in any case."""
    table = heads({1: (0.9, 0.0), 2: (0.8, 0.0)})
    again = Again(table, (("weighted", Weighted()),), stages={"post_selection_filters": [("late", Drop(2))]})
    result = found(again, 1, 2)
    assert not result.found
    assert result.best is None
    assert result.reason == ""


def test_twins_cannot_be_swapped() -> None:
    """Expects every option among those that cannot, with the range that was searched."""
    result = found(Again(heads({1: (0.5, 0.1), 2: (0.5, 0.1)}), (("weighted", Weighted()),)), 1, 2)
    assert not result.found
    like = by_name(result)["weighted.weights.like"]
    assert (like.lowest, like.highest) == (1.0 - 2000.0, 1.0 + 2000.0)
    assert like.note == "it does not swap them"
    assert (
        by_name(found(Again(TWO, (("weighted", Weighted()),)), 1, 2, reach=0.1))["weighted.weights.reply"].highest
        == 5.5
    )


def test_values_that_a_component_refuses() -> None:
    """Expects the search to stop there, and its reason where nothing swaps the items."""

    @attrs.frozen
    class Picky(Weighted):
        bias: Annotated[float, Predicate(math.isfinite)] = 0.0
        sure: float = 1.0
        even: Annotated[int, Predicate(lambda number: number == 2)] = 2

        def __attrs_post_init__(self) -> None:
            if self.weights.get("reply", 0) > 6 or self.weights.get("like", 1) < 0:
                raise ValueError("that is too much")
            if self.sure != 1.0:
                raise MisconfigurationError("I am not sure")

        def score(self, query: Any, candidates: Any, ctx: Any) -> Any:
            if self.weights.get("share", 0) > 3:
                raise OSError("out of shares")
            return super().score(query, candidates, ctx)

    options = by_name(found(Again(TWO, (("picky", Picky()),)), 1, 2))
    assert "was refused: that is too much" in options["picky.weights.reply"].note
    assert options["picky.weights.like"].swaps
    assert "I am not sure" in options["picky.sure"].note
    assert "out of shares" in options["picky.weights.share"].note
    assert "wanted a value that passes" in options["picky.even"].note


def test_requests_that_make_no_sense() -> None:
    """Expects errors that say what was wanted: two items, both candidates, one of them in the response."""
    table = heads({1: (0.9, 0.0), 2: (0.8, 0.0), 3: (0.1, 0.1), 4: (0.0, 0.1)})
    again = Again(table, (("weighted", Weighted()),), Top(2))
    for pair, message in (
        ((1, 1), "item 1 cannot change places with itself"),
        ((1, 9), "item 9 was not a candidate of this request; its response: 1, 2"),
        ((4, 3), "neither 4 nor 3 is in the response"),
    ):
        with pytest.raises(MisconfigurationError, match=message):
            found(again, *pair)


def test_a_bounded_number_of_replays() -> None:
    """Expects no more replays than allowed, and the rest of the options as not searched."""
    again = Again(TWO, (("weighted", Weighted()),))
    result = found(again, 1, 2, max_replays=25)
    assert again.runs == result.replays == 25
    assert not result.complete
    assert result.failed[-1].note == "not searched"
    whole = Again(TWO, (("weighted", Weighted()),))
    assert found(whole, 1, 2).replays == whole.runs < 150


def test_progress_and_interruption() -> None:
    """Expects to be told of every option as it is done, and that what was found outlives a cancelled search."""
    told: list[tuple[SwapResult, int, int]] = []
    found(Again(TWO, (("weighted", Weighted()),)), 1, 2, progress=lambda *args: told.append(args))
    assert [(done, total) for _, done, total in told] == [(number, 5) for number in range(1, 6)]
    assert told[-1][0].failed[-1].option == "top.size"

    async def interrupted() -> None:
        def stop(result: SwapResult, done: int, total: int) -> None:
            kept.append(result)
            if done == 2:
                raise asyncio.CancelledError

        await smallest_swap(Again(TWO, (("weighted", Weighted()),)), 1, 2, progress=stop)

    kept: list[SwapResult] = []
    with pytest.raises(asyncio.CancelledError):
        run_in_virtual_time(interrupted())
    assert [option.option for option in kept[-1].found]


def test_a_request_that_fails_in_the_first_place() -> None:
    """Expects its error."""

    class Broken:
        async def run(self, components: Any) -> Any:
            raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        found(Broken(), 1, 2)


def test_text_ids_and_plain_replays() -> None:
    """Expects items by their texts, and a replayer that is no coroutine."""
    base = heads({int(text_ids(["a"])[0]): (0.9, 0.1), int(text_ids(["b"])[0]): (0.2, 0.2)})
    again = Again(base.patched(patch(ITEM_TEXT_ID(["a", "b"]))), (("weighted", Weighted()),))

    class Plain:
        def run(self, components: Any) -> Any:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(run_in_virtual_time, again.run(components)).result()

    result = found(Plain(), "a", "b", max_replays=60)
    assert (result.ahead, result.behind) == ("a", "b")
    as_numbers = found(Plain(), *(str(int(text_ids([text])[0])) for text in "ab"), max_replays=1)
    assert (as_numbers.ahead, as_numbers.behind) == ("a", "b")
    assert json.loads(json.dumps(result.as_dict()))["found"][0]["option"] == result.best.option  # type: ignore[union-attr]  # it has one


# From a capture to the spec


def test_what_is_found_holds_in_a_fresh_run(tmp_path: Path) -> None:
    """Expects, of a recorded request, that each override found swaps the items in a new application, and none else."""

    def app(sets: Any = (), captures: Any = None) -> Any:
        document = Document(SPEC, "ranked.toml")
        return load_document(document, registry=REGISTRY, sets=sets, captures=captures)

    async def recorded() -> None:
        async with app(captures=Captures(tmp_path)) as opened:
            await opened["ranked"].run(request_id="r", capture=True)

    async def search() -> SwapResult:
        (capture,) = captures_in(tmp_path)
        async with app() as opened:
            return await smallest_swap(Replayer(opened, capture), 2, 1)

    async def fresh(*sets: str) -> list[int]:
        async with app(sets) as opened:
            outcome = await opened["ranked"].run()
            return [int(item) for item in outcome.item_ids]

    asyncio.run(recorded())
    result = asyncio.run(search())
    assert asyncio.run(fresh()) == [1, 2, 3]
    assert {option.option for option in result.found} == {
        "weighted.weights.like",
        "weighted.weights.reply",
        "boost.factor",
    }
    for option in result.found:
        assert option.override is not None
        items = asyncio.run(fresh(option.override))
        assert items.index(2) < items.index(1)
        assert option.boundary is not None
        short = option.value + (option.boundary - option.value) * 0.999
        items = asyncio.run(fresh(f"components.{option.option}={short!r}"))
        assert items.index(1) < items.index(2)
    (decay,) = (option for option in result.failed if option.option == "ranked.diversity.decay")
    assert decay.override is None


# Options


def test_numbers_among_options() -> None:
    """Expects fields, entries of tables, options of options, and values in effect; no texts, truths or resources."""

    @attrs.frozen
    class Inner:
        depth: Annotated[int, Ge(1), Lt(5)] = 2

    @attrs.define
    class Store:
        size: int = 3

        def open(self) -> None:
            """Nothing to open."""

        def close(self) -> None:
            """Nothing to close."""

    @attrs.frozen
    class Many:
        inner: Inner = attrs.field(factory=Inner)
        store: Store | None = None
        unset: float | None = None
        unknown: float | None = None
        table: Mapping[str, Annotated[float, Gt(0)]] = attrs.field(factory=lambda: {"a": 4.0, "b": 0.5})
        names: Mapping[str, str] = attrs.field(factory=dict)
        more: Mapping[str, float] = attrs.field(factory=dict)
        text: str = ""
        truth: bool = True
        several: tuple[float, ...] = (1.0,)
        _hidden: int = 7

        in_effect: ClassVar = {"unset": 2.5, "more": {"c": 0.0}}
        reads: ClassVar = ()
        writes: ClassVar = (SCORE,)

        def score(self, query: Any, candidates: Any, ctx: Any) -> Any:
            return patch(SCORE(candidates[ITEM_ID].astype(np.float32)))

    Many.__annotations__.update(inner=Inner, store=Store | None, table=Mapping[str, Annotated[float, Gt(0)]])
    outcome = run_in_virtual_time(Again(TWO, (("many", Many(store=Store())),)).run({}))
    options = {option.name: option for option in numeric_options(outcome.plan)}
    assert {name: option.value for name, option in options.items()} == {
        "many.inner.depth": 2,
        "many.unset": 2.5,
        "many.table.a": 4.0,
        "many.table.b": 0.5,
        "many.more.c": 0.0,
        "many.hidden": 7,
        "top.size": 3,
    }
    depth, entry = options["many.inner.depth"], options["many.table.b"]
    assert (depth.lower, depth.upper, depth.step, depth.unit) == (1, 4, 1, 2)
    assert (entry.lower, entry.unit) == (math.nextafter(0.0, 1.0), 2.25)
    assert options["many.more.c"].unit == 1.0
    assert depth.changed(3).inner == Inner(3)
    assert entry.changed(1.5).table == {"a": 4.0, "b": 1.5}
    assert options["many.hidden"].changed(8)._hidden == 8
    assert options["many.unset"].changed(1).unset == 1.0
    with pytest.raises(ValueError, match=r"many\.table\.b: wanted more than 0, found -1\.0"):
        entry.changed(-1)
    assert attrs.evolve(entry, component="feed.many").override(1.0) is None


# Any linear pipeline

cells = st.floats(0, 1, width=16)
numbers = st.floats(-8, 8, width=16)


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=2, max_size=3),
    weights=st.tuples(numbers, numbers, numbers),
    factor=st.floats(0.5, 2, width=16),
    secret=st.floats(-1, 1, width=16),
)
def test_any_linear_pipeline(rows: Any, weights: Any, factor: float, secret: float) -> None:
    """Expects each weight's boundary where the scores meet, wherever they do, and that the value found swaps them."""
    scorers = (
        ("weighted", Weighted(dict(zip(HEADS.labels, weights, strict=True)))),
        ("boost", Boost(factor)),
        ("secret", Secret(secret)),
    )
    again = Again(heads(dict(enumerate(rows, 1))), scorers, Top(4))
    order = run_in_virtual_time(again.run({})).item_ids.tolist()
    result = found(again, order[0], order[1])
    gains = [1.0 if item % 2 else factor for item in order[:2]]
    values = [np.array(rows[item - 1]) * gain for item, gain in zip(order[:2], gains, strict=True)]
    more = [secret * (item % 3) for item in order[:2]]
    gap = float(values[0] @ weights + more[0] - values[1] @ weights - more[1])
    for head, weight, slope in zip(HEADS.labels, weights, values[0] - values[1], strict=True):
        option = by_name(result)[f"weighted.weights.{head}"]
        if option.new is not None:
            changed = {**scorers[0][1].weights, head: option.new}
            after = places(again, "weighted", Weighted(changed))
            assert after.index(order[1]) < after.index(order[0])
        if abs(gap) < 1e-3 or 0 < abs(slope) < 1e-3:
            continue  # rounding to float32 decides
        wanted = -gap / slope if slope else math.inf
        if abs(wanted) < 500 * max(abs(weight), 1e-3):
            assert option.boundary == approx(weight + wanted, abs=1e-3 * max(abs(wanted), 1))
        elif not slope:
            assert not option.swaps
    assume(result.complete)
