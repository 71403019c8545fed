"""The scorer in specs: its file, its mistakes, reloads, accounts, captures and what-if searches."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from replays import differences, recorded
from stakeholder_feed import LABELS, REGISTRY, SPEC, TABLE, WEIGHTS, scored, table

from candidate_pipeline import (
    SCORE,
    MisconfigurationError,
    Ranking,
    Replayer,
    RequestError,
    SpecError,
    live,
    load,
    load_document,
    smallest_swap,
)
from candidate_pipeline.build import build
from candidate_pipeline.lints import lint
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.what_if.swap_options import numeric_options
from candidate_pipeline_stakeholder.keys import RAW, TERM, UTILITY
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.scorer import StakeholderScorer
from candidate_pipeline_stakeholder.utilities import Utilities

ROWS = np.random.default_rng(7).random((12, len(LABELS))).astype(np.float32)
OVER_FILE = SPEC[: SPEC.index("[components.stakeholders.stakeholders]")] + 'utilities = "learned.toml"\n'
LEARNED = Utilities.of(WEIGHTS, LABELS)


def with_pool(utilities: Utilities = LEARNED) -> Utilities:
    """Utilities with the moments of a pool."""
    values = np.random.default_rng(3).random((50, len(utilities.features)))
    moments = Moments.of(values.mean(axis=0), np.cov(values.T, bias=True), len(values))
    return Utilities(utilities.features, utilities.names, utilities.weights, moments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec, and the utilities file that it names."""
    (tmp_path / "feed.toml").write_text(OVER_FILE)
    LEARNED.write(tmp_path / "learned.toml")
    return tmp_path


def problems_of(text: str) -> str:
    """The mistakes in a spec, as they are printed."""
    with pytest.raises(SpecError) as caught:
        load_document(Document(text), registry=REGISTRY)
    return str(caught.value)


def run(path: Path, **inputs: Any) -> Any:
    """One request's outcome."""
    with load(path, registry=REGISTRY) as app:
        return app["feed"].run_sync(table=ROWS, **inputs)


# Specs


def test_the_spec_has_no_mistakes_and_no_warnings() -> None:
    """A spec with the scorer, its columns in `show` and its input is sound, and `check` has nothing to warn of."""
    spec = load_spec(Document(SPEC), REGISTRY)
    assert lint(spec, build(spec).plans) == []
    without = SPEC.replace(', mix = "stakeholder.mix"', "")
    assert list(load_document(Document(without), registry=REGISTRY)) == ["feed"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "mix = { user",
            "mix = { usr",
            "E204 stakeholders (stakeholder.scorer) refused its options: mix: no stakeholder 'u",
        ),
        ("mix = { user", "mix = { usr", "did you mean 'user'?"),
        ("user = 0.5, society = 0.5", "user = 0.0", "wanted a weight other than 0 for at least one of user, platform"),
        ("user = 0.5, society = 0.5", "user = true", "E102 wanted number, found the boolean true"),
        ("user = 0.5, society = 0.5", "user = nan", "user: wanted a finite number, found nan"),
        ("mix = { user = 0.5, society = 0.5 }\n", "", "E103 stakeholder.scorer needs the key 'mix'"),
        ("society = { favorite", "society = { favourite", "no predicted action is called 'favourite'"),
        ("term.society", "term.soceity", "E300 show: nobody writes the column stakeholder.term.soceity"),
        ("term.society", "term.soceity", "did you mean 'stakeholder.term.society'?"),
        ("stakeholder.term.", "stakeholders.term.", "did you mean 'stakeholder.term.society'?"),
        ("mix = { user", "normalise = 'week'\nmix = { user", "E102 wanted one of 'request', 'pool', 'none'"),
        ("mix = { user", "normalise = 'pool'\nmix = { user", "normalise = 'pool' needs the moments of the pool"),
        ("mix = { user", 'utilities = "gone.toml"\nmix = { user', "gone.toml: no such file"),
    ],
)
def test_mistakes(old: str, new: str, said: str) -> None:
    """Mistakes are found when the spec is checked, each with its code and the nearest right name."""
    assert old in SPEC
    assert said in problems_of(SPEC.replace(old, new))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("schema = 2\n", "schema: wanted 1"),
        ("what\n", "not TOML"),
        (
            'schema = 1\n[stakeholders.user.weights]\nfavorite = "x"\n',
            "stakeholders.user.weights.favorite: wanted a number",
        ),
        (
            "schema = 1\n[stakeholders.user.weights]\nfavourite = 1\n",
            "no predicted action is called 'favourite': did you",
        ),
        ("schema = 1\n[stakeholders.reader.weights]\nfavorite = 1\n", "mix: no stakeholder 'user': one of: reader"),
    ],
)
def test_a_broken_file_is_a_mistake_of_the_spec(folder: Path, content: str, said: str) -> None:
    """What is wrong with the file is told where the component stands, with the file and the key."""
    (folder / "learned.toml").write_text(content)
    with pytest.raises(SpecError) as caught:
        load(folder / "feed.toml", registry=REGISTRY)
    assert "E204" in str(caught.value)
    assert said in str(caught.value)


# The file


def test_a_file_ranks_as_the_same_weights_inline(folder: Path) -> None:
    """Utilities in a file, relative to the spec, rank to the last bit as the same ones written inline."""
    (folder / "inline.toml").write_text(SPEC)
    one, other = run(folder / "feed.toml"), run(folder / "inline.toml")
    assert one.item_ids.tolist() == other.item_ids.tolist()
    assert one.selected[SCORE].tobytes() == other.selected[SCORE].tobytes()


def test_inline_weights_stand_over_the_file(folder: Path) -> None:
    """Inline weights replace single ones of the file's, and add stakeholders and actions to it."""
    stakeholders = {"user": {"reply": 9.0}, "guest": {"dwell": 1.0}}
    scorer = StakeholderScorer({"guest": 1}, utilities=folder / "learned.toml", stakeholders=stakeholders)
    assert scorer.names == ("user", "platform", "society", "guest")
    wanted = {**{name: dict(weights) for name, weights in WEIGHTS.items()}, "guest": {"dwell": 1.0}}
    wanted["user"]["reply"] = 9.0
    assert scorer.resolved.as_mapping() == wanted


def test_a_file_is_parsed_once_while_it_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer with another mix does not parse the file again; one that holds something else counts, times or not."""
    path = folder / "learned.toml"
    scorer = StakeholderScorer({"user": 1}, utilities=path)
    other = scorer.with_mix({"society": 1})
    assert other.resolved is scorer.resolved
    marks = path.stat()
    monkeypatch.setattr(Path, "stat", lambda *args, **options: marks)  # clocks of files tick slowly
    Utilities.of({"user": {"favorite": 3.0}}).write(path)
    assert scorer.with_mix({"user": 2}).resolved.as_mapping() == {"user": {"favorite": 3.0}}
    assert scorer.resolved.names == ("user", "platform", "society")


def test_a_live_application_follows_the_file(folder: Path) -> None:
    """New utilities count from the next request on; broken ones leave the old ones in place."""

    async def main() -> None:
        async with live(folder / "feed.toml", registry=REGISTRY, poll=None) as app:

            async def looked() -> tuple[int, list[float]]:
                for _ in range(2):
                    await app.check()
                outcome = await app["feed"].run(table=np.eye(5, dtype=np.float32))
                raw = dict(zip(outcome.item_ids.tolist(), outcome.selected[RAW["user"]].tolist(), strict=True))
                return app.generation, [raw[item] for item in range(1, 6)]

            assert await looked() == (0, [1.0, 0.5, 0.0, -1.0, -2.0])
            Utilities.of({**WEIGHTS, "user": {"reply": 3.0}}, LABELS).write(folder / "learned.toml")
            assert await looked() == (1, [0.0, 3.0, 0.0, 0.0, 0.0])
            (folder / "learned.toml").write_text("schema = 1\n")
            assert await looked() == (1, [0.0, 3.0, 0.0, 0.0, 0.0])
            assert "stakeholders: wanted 1 to" in str(app.last_error)
            LEARNED.write(folder / "learned.toml")
            assert await looked() == (2, [1.0, 0.5, 0.0, -1.0, -2.0])

    asyncio.run(main())


# Over the pool


@given(hnp.arrays(np.float32, (6, 5), elements=st.floats(0, 1, width=32)), st.permutations(range(6)))
def test_over_the_pool_rows_are_independent(cells: Any, order: list[int]) -> None:
    """Over the file's pool a row's score is the same alone, and in any order."""
    scorer = POOLED
    found = scored(scorer, table(cells))
    assert not scorer.listwise
    assert scored(scorer, table(cells[order]))[SCORE].tobytes() == found[SCORE][order].tobytes()
    assert scored(scorer, table(cells[2:3]))[SCORE].tobytes() == found[SCORE][2:3].tobytes()


@pytest.fixture(autouse=True, scope="module")
def _pooled(tmp_path_factory: pytest.TempPathFactory) -> None:
    global POOLED, POOL_FILE  # noqa: PLW0603 - hypothesis and function fixtures do not mix
    POOL_FILE = tmp_path_factory.mktemp("pool") / "pooled.toml"
    with_pool().write(POOL_FILE)
    POOLED = StakeholderScorer({"user": 1, "society": 2}, utilities=POOL_FILE, normalise="pool")


POOLED: StakeholderScorer
POOL_FILE: Path


def test_over_the_pool_by_hand() -> None:
    """Z = (u - w'mean) / sqrt(w' covariance w), over the actions that are predicted."""
    pool = with_pool().pool
    assert pool is not None
    user = np.array([WEIGHTS["user"].get(label, 0.0) for label in LABELS])
    found = scored(POOLED, table(ROWS))
    wanted = (ROWS @ user - user @ pool.mean) / np.sqrt(user @ pool.covariance @ user)
    np.testing.assert_allclose(found[UTILITY["user"]], wanted, rtol=1e-5, atol=1e-6)
    part = np.array([user[0], user[3]])
    spread = np.sqrt(part @ pool.covariance[np.ix_([0, 3], [0, 3])] @ part)
    found = scored(POOLED, table(ROWS[:, [3, 0]], labels=(LABELS[3], LABELS[0])))
    wanted = (ROWS[:, [0, 3]] @ part - part @ pool.mean[[0, 3]]) / spread
    np.testing.assert_allclose(found[UTILITY["user"]], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [4.0, 0.1])
def test_over_the_pool_units_change_nothing(tmp_path: Path, factor: float) -> None:
    """A utility in other units counts as before."""
    utilities = with_pool()
    weights = utilities.weights * np.array([[factor], [1.0], [1.0]])
    Utilities(utilities.features, utilities.names, weights, utilities.pool).write(tmp_path / "scaled.toml")
    scaled = StakeholderScorer(POOLED.mix, utilities=tmp_path / "scaled.toml", normalise="pool")
    np.testing.assert_allclose(scored(scaled, table(ROWS))[SCORE], scored(POOLED, table(ROWS))[SCORE], atol=1e-5)


def test_a_pool_that_does_not_know_enough(folder: Path) -> None:
    """A file without a pool, or with one that lacks an inline action, cannot be standardised over."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "give a utilities file that has them"),
        (
            {"utilities": folder / "learned.toml"},
            r"learned\.toml has no table \[pool\]; `stakeholder learn` writes one",
        ),
        ({"utilities": POOL_FILE, "stakeholders": {"user": {"click": 1.0}}}, r"pooled\.toml does not know click"),
    ]
    for settings, said in cases:
        with pytest.raises(MisconfigurationError, match=said):
            StakeholderScorer({"user": 1}, normalise="pool", **settings)


def test_a_utility_without_spread_in_the_pool_counts_nothing(tmp_path: Path) -> None:
    """Where the pool says that a utility never varies, it is 0, not a division by nothing."""
    moments = Moments.of([0.5] * 5, np.zeros((5, 5)), 10)
    Utilities(LEARNED.features, LEARNED.names, LEARNED.weights, moments).write(tmp_path / "flat.toml")
    scorer = StakeholderScorer({"user": 1}, utilities=tmp_path / "flat.toml", normalise="pool")
    assert not scored(scorer, table(ROWS))[SCORE].any()


# Requests


def test_a_request_ranks_by_its_own_mix() -> None:
    """The input takes the place of the spec's mix; a wrong one fails the request, whatever the policy."""
    with load_document(Document(SPEC), registry=REGISTRY) as app:
        plain = app["feed"].run_sync(table=ROWS)
        alone = app["feed"].run_sync(table=ROWS, mix={"platform": 2})
        order = np.argsort(-alone.selected[UTILITY["platform"]], kind="stable")
        assert order.tolist() == list(range(len(ROWS)))
        assert plain.item_ids.tolist() != alone.item_ids.tolist()
        with pytest.raises(RequestError, match="no stakeholder 'soceity': did you mean 'society'"):
            app["feed"].run_sync(table=ROWS, mix={"soceity": 1})
        with pytest.raises(RequestError, match=r"input 'mix': stakeholder\.mix: wanted dict, found str 'user'"):
            app["feed"].run_sync(table=ROWS, mix="user")
    lenient = SPEC.replace("mix = {", 'run = { on_error = "skip" }\nmix = {')
    with load_document(Document(lenient), registry=REGISTRY) as app, pytest.raises(RequestError, match="soceity"):
        app["feed"].run_sync(table=ROWS, mix={"soceity": 1})


def test_an_account_says_who_gains_and_who_pays() -> None:
    """`explain` names each stakeholder with what it adds to the score, largest first, exactly adding up."""
    with load_document(Document(SPEC), registry=REGISTRY) as app:
        outcome = app["feed"].run_sync(table=ROWS, mix={"user": 2, "platform": 1, "society": 1})
    for row, item in enumerate(outcome.item_ids.tolist()):
        found = outcome.explain(item)
        (terms,) = found.terms
        assert terms.column == "stakeholder.term"
        assert list(terms.values) == ["user", "platform", "society"]
        steps = found.steps()
        assert [step.label for step in steps] == ["user", "platform", "society"]
        assert steps[-1].total == float(outcome.selected[SCORE][row])
        assert np.float32(sum(step.amount or 0 for step in steps)) == outcome.selected[SCORE][row]
        parts = [float(outcome.selected[TERM[name]][row]) for name in terms.values]
        assert list(terms.values.values()) == parts
        told = ", ".join(
            f"{name} {value:+.4g}" for name, value in sorted(terms.values.items(), key=lambda at: -abs(at[1]))
        )
        assert f"  stakeholder.term (stakeholders): {told}" in str(found).splitlines()


@pytest.mark.parametrize("mix", [None, {"user": 0.25, "society": -1.0}])
def test_captures_and_replays_are_the_same(mix: Any) -> None:
    """A recorded request, its mix included, replays to the last bit."""

    async def main() -> None:
        inputs = {"table": ROWS} if mix is None else {"table": ROWS, "mix": mix}
        async with load_document(Document(SPEC), registry=REGISTRY) as app:
            outcome, capture = await recorded(app, "feed", **inputs)
            replayer = Replayer(app, capture)
            again = await replayer.run()
            assert differences(again, outcome) == []
            assert Ranking.of(again).identical(capture.ranking)
            (node,) = (node for node in replayer.plan.nodes if node.kind == "scorer")
            other = await replayer.run({"stakeholders": node.component.with_mix({"platform": 1})})
            assert (other.item_ids.tolist() == outcome.item_ids.tolist()) == (mix is not None)

    asyncio.run(main())


def test_a_mix_can_be_searched() -> None:
    """The search for the smallest change that swaps two items varies the mix, those it leaves out too."""

    async def main() -> None:
        async with load_document(Document(SPEC), registry=REGISTRY) as app:
            outcome, capture = await recorded(app, "feed", table=ROWS)
            options = {option.name: option.value for option in numeric_options(app["feed"].plan)}
            assert {name: value for name, value in options.items() if ".mix." in name} == {
                "stakeholders.mix.user": 0.5,
                "stakeholders.mix.platform": 0.0,
                "stakeholders.mix.society": 0.5,
            }
            first, second = (int(item) for item in outcome.item_ids[:2])
            replayer = Replayer(app, capture)
            result = await smallest_swap(replayer, first, second)
            found = [option for option in result.found if ".mix." in option.option]
            assert found
            (node,) = (node for node in replayer.plan.nodes if node.kind == "scorer")
            for option in found:
                name = option.option.rpartition(".")[2]
                assert option.override == f"components.stakeholders.mix.{name}={option.new!r}"
                mixed = node.component.with_mix({**node.component.mix, name: option.new})
                ids = (await replayer.run({"stakeholders": mixed})).item_ids.tolist()
                assert ids.index(second) < ids.index(first)

    asyncio.run(main())


def test_the_command_line_takes_a_mix() -> None:
    """`--mix user=.5,society=-1` is the request's mix; a wrong one is told with what the input means."""
    from candidate_pipeline.cli.inputs import parse_inputs

    with load_document(Document(SPEC), registry=REGISTRY) as app:
        given = parse_inputs(["--mix", "user=.5,society=-1"], app["feed"])
        outcome = app["feed"].run_sync(table=ROWS, **given)
        assert given == {"mix": {"user": 0.5, "society": -1}}
        with pytest.raises(RequestError, match=r"--mix: wanted name=value.*How much each stakeholder counts"):
            parse_inputs(["--mix", "user"], app["feed"])
    columns = outcome.to_dict()["items"][0]["columns"]
    assert set(columns) == {"stakeholder.utility.user", "stakeholder.term.society"}
    json.dumps(outcome.explain(int(outcome.item_ids[0])).as_dict(), allow_nan=False)
    assert TABLE in outcome.query
