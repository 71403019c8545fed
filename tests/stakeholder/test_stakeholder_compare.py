"""Comparing mixes: what each stakeholder gets, whom responses expose, what moved."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from candidate_pipeline import Capture, Captures, Outcome, captures_in, load
from candidate_pipeline.cli import main
from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_feed.evaluation.bootstrap import Interval
from candidate_pipeline_feed.keys import AUTHOR_ID, TOPIC
from candidate_pipeline_stakeholder.compare_command import default_mixes, parse_mixes, record
from candidate_pipeline_stakeholder.compare_table import print_comparison, sentence
from candidate_pipeline_stakeholder.comparing import (
    POOLED,
    RANDOM,
    RECORDED,
    Comparison,
    Mixed,
    compare,
    stakeholder_scorer,
)
from candidate_pipeline_stakeholder.viewers import draw_viewers

SPEC = Path(__file__).resolve().parents[2] / "examples" / "stakeholders" / "pipelines.toml"
MIXES = {"even": {"user": 1.0, "platform": 1.0}, "user": {"user": 1.0}, "platform": {"platform": 2.0}}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome], Capture]:
    """A folder of three recorded requests, their outcomes, and a request with a mix of its own."""
    folder, other = tmp_path_factory.mktemp("captures"), tmp_path_factory.mktemp("other")
    with load(SPEC, only=["for_you"], captures=Captures(folder)) as app:
        pipeline = app["for_you"]
        people = draw_viewers(app, None, 3, seed=0)
        record(pipeline, people, 0, lambda *_: None)
        outcomes = [pipeline.run_sync(viewer=int(person)) for person in people]
        pipeline.run_sync(capture=True, request_id="its-own", viewer=1, mix={"user": 1.0})
    capture = next(capture for capture in captures_in(folder) if capture.request_id == "its-own")
    for path in folder.iterdir():
        if Capture.read(path).request_id == "its-own":
            path.rename(other / path.name)
    return folder, outcomes, capture


@pytest.fixture(scope="module")
def captures(recorded: tuple[Path, list[Outcome], Capture]) -> list[Capture]:
    """Three requests over the bundled world."""
    return list(captures_in(recorded[0]))


def compared(captures: list[Capture], mixes: dict[str, dict[str, float]]) -> Comparison:
    """The comparison, in an application that opens only what it needs."""

    async def run() -> Comparison:
        async with load(SPEC, only=()) as app:
            return await compare(app, captures, mixes)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def comparison(captures: list[Capture]) -> Comparison:
    """The requests under `MIXES`."""
    return compared(captures, MIXES)


def test_each_stakeholder_gets_most_of_a_mix_of_itself(comparison: Comparison) -> None:
    """A stakeholder's share under a mix of it alone is at least what any other row gives it."""
    rows = {row.name: row for row in comparison.rows}
    for name in ("user", "platform"):
        best = rows[name].shares[name].mean
        assert all(row.shares[name].mean <= best + 0.02 for row in comparison.rows)
        assert best > rows[RANDOM].shares[name].mean + 0.2


def test_shares_lie_between_the_worst_and_the_best_response(comparison: Comparison) -> None:
    """Every share of every row is within 0 and 1."""
    for row in comparison.rows:
        for share in row.shares.values():
            assert 0 <= share.low <= share.mean <= share.high <= 1


def test_the_first_mix_moves_nothing_against_itself(comparison: Comparison) -> None:
    """Replayed against itself, the first mix changes no response and gains nobody anything."""
    first = comparison.rows[0]
    assert (first.changed, first.overlap, first.gains) == (0, 1.0, {})
    assert first.rbo == pytest.approx(1.0)
    assert comparison.rows[1].changed == comparison.requests == 3


def test_the_recorded_mix_replayed_is_what_was_recorded(captures: list[Capture]) -> None:
    """Under the mix that they were recorded with, replays give the recorded responses' figures."""
    with load(SPEC, only=()) as app:
        mix = dict(stakeholder_scorer(app, "for_you")[1].mix)
    rows = {
        row.name: row for row in compared(captures, {"same": mix, "twice": {k: 2 * v for k, v in mix.items()}}).rows
    }
    assert rows["same"].shares == rows[RECORDED].shares == rows["twice"].shares
    assert rows["twice"].changed == 0


def test_a_gain_is_the_difference_of_shares(comparison: Comparison) -> None:
    """Mean gains are mean shares less those of the first mix, and gained and paid follow the intervals' signs."""
    first = comparison.rows[0]
    for row in comparison.rows[1:]:
        for name, gain in row.gains.items():
            assert gain.mean == pytest.approx(row.shares[name].mean - first.shares[name].mean)
            assert (name in row.gained()) == (gain.low > 0)
            assert (name in row.paid()) == (gain.high < 0)


def test_exposure_is_that_of_the_responses(
    recorded: tuple[Path, list[Outcome], Capture], comparison: Comparison
) -> None:
    """Distinct authors and topics, and coverage, agree with a count over the responses themselves."""
    outcomes = recorded[1]
    row = next(row for row in comparison.rows if row.name == RECORDED)
    shares = [len(np.unique(outcome.selected[AUTHOR_ID])) / len(outcome.selected) for outcome in outcomes]
    assert row.exposure["distinct authors"].mean == pytest.approx(np.mean(shares))
    topics = [len(set(outcome.selected[TOPIC])) / len(outcome.selected) for outcome in outcomes]
    assert row.exposure["distinct topics"].mean == pytest.approx(np.mean(topics))
    shown = np.unique(np.concatenate([outcome.selected[AUTHOR_ID] for outcome in outcomes]))
    there = np.unique(np.concatenate([outcome.ranked[AUTHOR_ID] for outcome in outcomes]))
    assert row.exposure["author coverage"].mean == pytest.approx(len(shown) / len(there))
    for name in POOLED:
        assert row.exposure[name].low <= row.exposure[name].mean <= row.exposure[name].high


def test_a_comparison_is_the_same_each_time(captures: list[Capture], comparison: Comparison) -> None:
    """The same captures and mixes give the same figures to the last bit."""
    again = compared(captures, MIXES)
    assert json.dumps(again.as_dict()) == json.dumps(comparison.as_dict())


def test_the_tables_say_who_gained_and_who_paid(comparison: Comparison) -> None:
    """The printed text names each mix, each stakeholder, the controls, and gains and losses in words."""
    console = Console(width=132, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - a sink
    print_comparison(console, comparison, limit=1)
    text = console.export_text()
    for expected in ("even", "platform", RECORDED, RANDOM, "author Gini", "against even", "rbo"):
        assert expected in text
    told = sentence(comparison.rows[2], "even")
    assert told.startswith("platform against even: ")
    assert "gains" in told or "no change shown" in told


@pytest.mark.parametrize(
    ("mixes", "expected"),
    [
        ({}, "found 0"),
        ({"recorded": {"user": 1.0}}, "'recorded': this name is taken"),
        ({str(at): {"user": 1.0} for at in range(21)}, "1 to 20 mixes"),
    ],
)
def test_mixes_that_cannot_be_compared(
    captures: list[Capture], mixes: dict[str, dict[str, float]], expected: str
) -> None:
    """No mixes, too many and reserved names are refused."""
    with pytest.raises(DataError, match=expected):
        compared(captures, mixes)


def test_an_unknown_stakeholder_is_refused(captures: list[Capture]) -> None:
    """A mix of somebody who is not there names who is."""
    with pytest.raises(MisconfigurationError, match="user"):
        compared(captures, {"wrong": {"usr": 1.0}})


def test_no_captures(captures: list[Capture]) -> None:
    """Nothing to compare on is an error."""
    with pytest.raises(DataError, match="no recorded request"):
        compared([], MIXES)


def test_a_request_with_a_mix_of_its_own_is_refused(recorded: tuple[Path, list[Outcome], Capture]) -> None:
    """A mix that a request was made with would hold over those compared, so it is refused by name."""
    with pytest.raises(DataError, match="its-own: it was made with a mix of its own"):
        compared([recorded[2]], MIXES)


def test_a_pipeline_without_the_scorer(captures: list[Capture]) -> None:
    """A spec whose pipeline has no stakeholder scorer says so."""
    with (
        load(SPEC.parents[2] / "pipelines.toml", only=()) as app,
        pytest.raises(MisconfigurationError, match="no scorer"),
    ):
        stakeholder_scorer(app, "for_you")


def test_mixes_are_read_by_name() -> None:
    """A mix may have a name of its own; without one it is called what it says."""
    assert parse_mixes(["mine: user=1,society=.5", "user=2"]) == {
        "mine": {"user": 1.0, "society": 0.5},
        "user=2": {"user": 2.0},
    }


@pytest.mark.parametrize("texts", [["user"], ["user=x"], ["=1"], ["a: user=1", "a: user=2"], ["user=nan"], [""]])
def test_texts_that_are_no_mixes(texts: list[str]) -> None:
    """What is no mix, and a name given twice, are refused."""
    with pytest.raises(DataError, match="mix"):
        parse_mixes(texts)


@given(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), min_size=1, max_size=6, unique=True))
def test_the_default_is_each_stakeholder_alone(names: list[str]) -> None:
    """Without mixes, the spec's own stands first and each stakeholder alone after it."""
    mixes = default_mixes({names[0]: 2.0}, names)
    assert list(mixes) == ["as configured", *(f"{name} alone" for name in names)]
    assert [mixes[f"{name} alone"] for name in names] == [{name: 1.0} for name in names]


def test_the_command_prints_json(
    recorded: tuple[Path, list[Outcome], Capture],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`stakeholder compare --format json` gives the figures of each mix on recorded requests."""
    mixes = ["--mix", "user=1", "--mix", "society=1"]
    command = ["stakeholder", "compare", "--config", str(SPEC), "--captures", str(recorded[0]), *mixes]
    monkeypatch.setattr(sys, "argv", ["candidate-pipeline", *command, "--format", "json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 3
    assert [row["name"] for row in found["rows"]] == ["user=1", "society=1", RECORDED, RANDOM]


def test_people_are_drawn_by_the_seed() -> None:
    """A larger draw begins with a smaller one of the same seed; everybody is drawn once, who did something."""
    with load(SPEC, only=()) as app:
        few, many = draw_viewers(app, None, 3, seed=5), draw_viewers(app, None, 10**6, seed=5)
    assert few.tolist() == many[:3].tolist()
    assert len(np.unique(many)) == len(many)


def test_random_responses_are_measured_draw_by_draw(comparison: Comparison) -> None:
    """The control covers as many authors as one random response a request can, not as twenty of them together."""
    rows = {row.name: row.exposure for row in comparison.rows}
    random, first = rows[RANDOM]["author coverage"].mean, rows["even"]["author coverage"].mean
    assert 0.5 * first < random < 1.5 * first
    assert comparison.notes[-1].startswith("3 requests are few")


def test_one_request_has_no_interval(captures: list[Capture]) -> None:
    """Of one request nobody is said to gain or pay, tables show figures alone, and JSON has null."""
    found = compared(captures[:1], MIXES)
    row = found.rows[2]
    assert row.gained() == row.paid() == ()
    assert " gains " not in sentence(row, "even")
    assert "platform +" in sentence(row, "even")
    console = Console(width=132, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - a sink
    print_comparison(console, found, limit=0)
    text = console.export_text()
    assert "nan" not in text
    assert "there are no intervals" in text


def test_captures_of_another_world_are_refused(captures: list[Capture], tmp_path: Path) -> None:
    """Where the mixes' scorer gets no candidate there is nothing to compare, and the data set is named."""
    asked = [attrs.evolve(captures[0], dataset="elsewhere")]

    async def run() -> Comparison:
        async with load(SPEC, only=(), sets=["components.age.max_age=1s"]) as app:
            return await compare(app, asked, MIXES)

    with pytest.raises(DataError, match=r"no candidate of 1 recorded requests is scored.*'elsewhere'"):
        asyncio.run(run())


def test_many_stakeholders_are_told_in_short() -> None:
    """Of many stakeholders the sentence names the largest changes, and the table has a line for each."""
    gains = {f"s{at}": Interval(0.01 * (30 - at), 0.001, 0.5) for at in range(20)}
    gains |= {f"p{at}": Interval(-0.01, -0.02, -0.001) for at in range(3)}
    gains |= {f"e{at}": Interval(0.0, -0.1, 0.1) for at in range(9)}
    row = Mixed("m", {"s0": 1.0}, gains, gains, {}, 1.0, None, 1.0, 0)
    told = sentence(row, "first")
    assert "s0 gains +.300" in told
    assert "14 more gain less than that; p0 pays" in told
    assert "and 4 more: no change shown" in told
    console = Console(width=132, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - a sink
    print_comparison(console, Comparison("p", "s", 12, 10.0, 100.0, (row, row), {}, ()), limit=0)
    assert all(f" {name} " in console.export_text(clear=False) for name in gains)
