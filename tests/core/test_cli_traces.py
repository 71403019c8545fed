"""What the commands show of nested pipelines, caches, gates, circuits and refills."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toys import GUEST, NOW, STOCK, best_first

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    BreakerPolicy,
    CachePolicy,
    Candidates,
    NestedPipeline,
    RunPolicy,
    compose,
    patch,
    rank_order,
)
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.cli.pictures_run import print_funnel, print_waterfall
from candidate_pipeline.cli.render import print_explanation, print_outcome
from candidate_pipeline.testing import run_in_virtual_time


@pytest.fixture(scope="module")
def outcome(make: Any) -> Any:
    """The second request of a pipeline in which a little of everything happens."""

    def items(*ids: int) -> Any:
        return lambda query, ctx: Candidates.of(ITEM_ID(list(ids)))

    def broken(*_: Any) -> Any:
        raise OSError("[no] line")

    inner = compose(
        "inner",
        sources=[make("source", items(1, 2, 3, 4), "stall")],
        filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] != 4, "no_fours")],
        selector=make("selector", best_first, "all"),
    )
    app = compose(
        "outer",
        inputs={"guest": GUEST},
        sources=[("market", NestedPipeline(inner["inner"].plan)), make("source", items(5, 6), "members")],
        hydrators=[
            make("hydrator", lambda q, c, ctx: patch(STOCK(c[ITEM_ID])), "stock", reads=[ITEM_ID], writes=[STOCK]),
            make("hydrator", broken, "broken", writes=[SCORE]),
        ],
        filters=[make("filter", broken, "first")],
        fallbacks=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 0, "second")],
        selector=make("selector", lambda q, c, ctx: np.arange(min(1, len(c))), "one"),
        post_selection_filters=[make("filter", lambda q, c, ctx: c[ITEM_ID] > 1, "large")],
        run={
            "members": RunPolicy(when={"toy.guest": False}),
            "stock": RunPolicy(cache=CachePolicy(ttl=dt.timedelta(seconds=9))),
            "broken": RunPolicy(breaker=BreakerPolicy(min_calls=2)),
            "first": RunPolicy(on_error="fallback:second"),
        },
        result_size=9,
        show=[STOCK],
    )

    async def main() -> Any:
        async with app:
            await app["outer"].run(guest=False, now=NOW)
            await app["outer"].run(guest=True, now=NOW)
            return await app["outer"].run(guest=True, now=NOW)

    return run_in_virtual_time(main())


def printed(show: Any, width: int = 110) -> list[str]:
    """The lines that something prints, bars left out."""
    out = io.StringIO()
    show(Console(file=out, width=width))
    return [re.sub(r" *[█▉▊▋▌▍▎▏▐▕▒▓░]+", "", line).rstrip() for line in out.getvalue().splitlines()]


def test_the_funnel_says_how_many_are_left(outcome: Any) -> None:
    """Sources, filters, the selector and refills have their counts and losses; inner ones stand below their source."""
    lines = printed(lambda console: print_funnel(console, outcome))
    assert lines == [
        "",
        "funnel: 3 rows fetched, 1 of at most 9 in the response",
        "sources",
        "  members      0   closed",
        "  market       3",
        "    sources",
        "      stall    4",
        "    filters",
        "      no_fours 3 -1",
        "    selector",
        "      all      3",
        "  all sources  3",
        "filters",
        "  first        3  second took over",
        "  second       3",
        "selector",
        lines[16],
        "post selection filters",
        lines[18],
        "selector (refill 1)",
        lines[20],
        "post selection filters (refill 1)",
        "  large        1",
        "response       1",
    ]
    assert [line.split() for line in (lines[16], lines[18], lines[20])] == [
        ["one", "1", "-2"],
        ["large", "0", "-1"],
        ["one", "1", "-1"],
    ]


def test_the_waterfall_says_what_happened(outcome: Any) -> None:
    """Gates, caches, circuits, fallbacks and refills are told apart, and an inner pipeline stands below its source."""
    lines = printed(lambda console: print_waterfall(console, outcome))
    told = [re.sub(r" +0\.0$", "", line) for line in lines]
    assert told == [
        "",
        "waterfall: 0.0 ms",
        "sources",
        "  members",
        "    └ closed: toy.guest is True, wanted is False",
        "  market",
        "    sources",
        "      stall",
        "    filters",
        "      no_fours",
        "    selector",
        "      all",
        "hydrators",
        "  broken",
        told[14],
        "  stock",
        "    └ 3 of 3 from the cache",
        "filters",
        "  first",
        "    └ second took over: OSError: [no] line",
        "  second",
        "selector",
        "  one",
        "post selection filters",
        "  large",
        "selector (refill 1)",
        "  one",
        "post selection filters (refill 1)",
        "  large",
        "in all",
    ]
    assert told[14].startswith("    └ skipped: the circuit is open: 2 of 2 calls failed in the last 30s")


def test_rows_come_first_then_the_funnel_then_the_waterfall(outcome: Any) -> None:
    """The pictures stand below the rows, and between them why the response is short."""
    text = "\n".join(printed(lambda console: print_outcome(console, outcome, 20)))
    places = [text.index(part) for part in ("outer: guest True", "funnel:", "1 of at most 9 rows out of", "waterfall:")]
    assert places == sorted(places)


def test_an_open_circuit_is_named_where_the_error_is_another(make: Any) -> None:
    """A call whose failure opened the circuit says so beside its error."""
    breaker = RunPolicy(breaker=BreakerPolicy(min_calls=1), on_error="skip")

    def broken(*_: Any) -> Any:
        raise OSError("no line")

    app = compose(
        "toy",
        sources=[make("source", broken, "s")],
        selector=make("selector", lambda q, c, ctx: rank_order(c), "top"),
        run={"s": breaker},
    )

    async def main() -> Any:
        async with app:
            return await app["toy"].run(now=NOW)

    outcome = run_in_virtual_time(main())
    lines = printed(lambda console: print_waterfall(console, outcome))
    assert [line for line in lines if "└" in line] == [
        "    └ skipped: OSError: no line",
        "    └ its circuit is open",
    ]


def test_an_explanation_of_an_item_lost_inside(outcome: Any) -> None:
    """The explanation says inside of what it was lost."""
    out = io.StringIO()
    print_explanation(Console(file=out, width=200), outcome.explain(4))
    assert out.getvalue().startswith("item 4: dropped by no_fours (filters) inside market\n")


# The commands on a document with a pipeline in a pipeline

OUTER = """
[pipelines.outer]
inputs = { buyer = "shop.buyer" }
sources = ["market"]
selector = "shop.first"

[components.market]
use = "pipeline"
pipeline = "shop"
"""


@pytest.fixture
def command(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the shop's document with a pipeline around its own, and returns what it prints."""
    document = tmp_path / "shop.toml"
    document.write_text(shop.spec + OUTER)
    monkeypatch.setattr("candidate_pipeline.app.installed", lambda: shop.registry)
    monkeypatch.setattr("candidate_pipeline.cli.check.installed", lambda: shop.registry)
    monkeypatch.setattr("candidate_pipeline.cli.components.installed", lambda: shop.registry)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.toml").write_text("")

    def command(*arguments: str) -> str:
        words = [str(document) if word == "SPEC" else word for word in arguments]
        build_group("candidate-pipeline", dict(BUILTIN)).main(words, standalone_mode=False)
        return capsys.readouterr().out

    return command


def test_run_prints_what_happened_inside(command: Any) -> None:
    """`run` prints the nested pipeline's calls, in its pictures and as JSON."""
    text = command("run", "outer", "--config", "SPEC", "--buyer", "3", "--now", "2026-05-01T12:00:00Z")
    assert "  shop.wallet" in text
    assert "market" in text
    found = json.loads(command("run", "outer", "--config", "SPEC", "--buyer", "3", "--format", "json"))
    assert [entry["component"] for entry in found["trace"]] == ["market", "shop.first"]
    assert found["trace"][0]["inner"][0]["component"] == "shop.wallet"


def test_run_explains_items_inside(command: Any) -> None:
    """`run --explain` tells of an item that the nested pipeline left."""
    text = command("run", "outer", "--config", "SPEC", "--buyer", "3", "--explain", "3")
    assert text.startswith("item 3: not selected inside market\n")


def test_check_counts_the_pipelines(command: Any) -> None:
    """`check` passes a document with nested pipelines, and names each."""
    lines = command("check", "SPEC").splitlines()
    assert [line.rpartition("pipeline ")[2] for line in lines] == [
        "shop: 7 components, no problems",
        "outer: 2 components, no problems",
    ]


def test_components_lists_the_nested_pipeline(command: Any) -> None:
    """`components` offers the source that every document has, with its option."""
    assert "Returns what another pipeline of the spec selects" in command("components", "--kind", "source")
    described = json.loads(command("components", "pipeline", "--format", "json"))["components"]
    assert [(each["kind"], each["name"], each["options"][0]["name"]) for each in described] == [
        ("source", "pipeline", "pipeline")
    ]
