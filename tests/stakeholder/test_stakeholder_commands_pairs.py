"""`candidate-pipeline stakeholder pairs` and `learn`: from a log to a utilities file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from stakeholder_sittings import SPEC, registry, write_data
from typer.testing import CliRunner

from candidate_pipeline import CandidatePipelineError, Captures, DataError, RequestError, load
from candidate_pipeline_stakeholder.collecting import pool_from_captures
from candidate_pipeline_stakeholder.commands_learn import learn
from candidate_pipeline_stakeholder.commands_pairs import pairs
from candidate_pipeline_stakeholder.generating import Noise, generate
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pairs_file import read_pairs, write_pairs
from candidate_pipeline_stakeholder.utilities import DECLARED, Utilities


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, a data directory and a learnable table of pairs."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "pipelines.toml").write_text(SPEC)
    write_data(folder / "data")
    items = np.random.default_rng(0).random((300, 18))
    write_pairs(folder / "pairs.parquet", generate(DECLARED, items, 800, noise=Noise(sharpness=3.0)))
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candidate_pipeline.registry.installed", registry)
    monkeypatch.chdir(tmp_path)


def run(command: Any, *arguments: object) -> Any:
    """What a command prints, and how it ends."""
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def good(command: Any, *arguments: object) -> str:
    """Standard output of a command that ends well."""
    result = run(command, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def refused(command: Any, *arguments: object) -> str:
    """The message of a command that is refused."""
    result = run(command, *arguments)
    assert isinstance(result.exception, CandidatePipelineError), (result.output, result.exception)
    return str(result.exception)


def source(place: Path) -> list[object]:
    """Options that name the toy pipeline over its data."""
    return ["--data", place / "data", "--config", place / "pipelines.toml", "--pipeline", "feed"]


def test_pairs_from_events(place: Path) -> None:
    """Pairs of a log are written, and told with counts and the next command; again they are the same bytes."""
    told = good(pairs, *source(place), "--out", "p.parquet", "--pairs", 40, "--window", "20s")
    made = read_pairs("p.parquet")
    assert len(made) == 40
    for text in (
        "user            40     0",
        "over a negative action: ",
        "stakeholder learn p.parquet",
        "favorite, reply",
    ):
        assert text in told
    good(pairs, *source(place), "--out", "q.parquet", "--pairs", 40, "--window", "20s")
    assert Path("p.parquet").read_bytes() == Path("q.parquet").read_bytes()


def test_pairs_from_events_as_json(place: Path) -> None:
    """JSON says what was made of what, and what was left out."""
    options = ["--pairs", 30, "--window", "20s", "--no-impressions", "--stakeholder", "reader", "--format", "json"]
    found = json.loads(good(pairs, *source(place), "--out", "p.parquet", *options))
    assert found["stakeholders"] == {"reader": {"pairs": 30, "ties": 0}}
    assert found["over_an_impression_only"] == 0
    assert found["over_a_negative_action"] == 30
    assert found["complete"] is True
    assert found["time"]["first"] < found["time"]["last"]


def test_actions_and_times_are_options(place: Path) -> None:
    """Which actions count, since and until when, and which features are taken are options."""
    options = ["--window", "20s", "--positive", "click", "--negative", "", "--features", "share,reply"]
    good(pairs, *source(place), "--out", "p.parquet", *options, "--since", "1970-01-01T02:00:00Z")
    made = read_pairs("p.parquet")
    assert made.features == ("share", "reply")
    assert made.time.min() >= 7_200_000
    assert "since: wanted" not in refused(
        pairs, *source(place), "--out", "x", "--window", "20s", "--until", "1970-01-01"
    )
    assert "--since: wanted a time such as" in refused(pairs, *source(place), "--out", "x", "--since", "yesterday")
    assert "--window: wanted a duration such as" in refused(pairs, *source(place), "--out", "x", "--window", "0s")
    assert "like: not a discrete action" in refused(pairs, *source(place), "--out", "x", "--positive", "like")


def test_pairs_from_utilities(place: Path) -> None:
    """Declared utilities judge the posts of some people's requests, with the noise that was asked for."""
    options = ["--from", "utilities", "--pairs", 50, "--viewers", 3, "--sharpness", 5, "--tie", 0.01]
    told = good(pairs, *source(place), "--out", "p.parquet", *options)
    made = read_pairs("p.parquet")
    assert made.stakeholders == ("user", "platform", "society")
    assert len(made) == 150
    assert (made.outcome == 0).any()
    assert "requests: 3" in told
    assert "user also values repost, follow_author, block_author" in told
    told = good(pairs, *source(place), "--out", "q.parquet", *options[:6])
    assert "answers without noise contradict nothing" in told


def test_pairs_from_a_utilities_file_and_captures(place: Path) -> None:
    """A utilities file judges recorded requests; no pipeline runs."""
    app = load(
        place / "pipelines.toml",
        data=place / "data",
        registry=registry(),
        only=["feed"],
        captures=Captures(Path("caps")),
    )
    with app:
        app["feed"].run_sync(viewer=3, capture=True)
    Utilities.of({"me": {"favorite": 1.0}}).write("mine.toml")
    options = ["--from", "utilities", "--utilities", "mine.toml", "--pairs", 20]
    good(pairs, "--out", "p.parquet", *options, "--pool", "caps", "--features", "favorite")
    pool_from_captures("caps").write("pool.parquet")
    good(pairs, "--out", "q.parquet", *options, "--pool", "pool.parquet", "--features", "favorite")
    one, two = read_pairs("p.parquet"), read_pairs("q.parquet")
    assert one.features == ("favorite",)
    assert "it has no report" in refused(pairs, "--out", "x", *options, "--pool", "caps", "--features", "report")
    assert np.array_equal(one.left, two.left)
    assert np.array_equal(one.outcome, np.sign(one.left - one.right)[:, 0])


def test_interrupted_pairs_are_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C writes what is done, says so, and ends with status 130."""
    from candidate_pipeline_stakeholder import logged

    answer, calls = logged._run, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(logged, "_run", interrupted)
    result = run(pairs, *source(place), "--out", "p.parquet", "--window", "20s")
    assert result.exit_code == 130
    assert "interrupted: this is what was done until then" in result.stdout
    assert 0 < len(read_pairs("p.parquet")) <= 16


def test_files_are_not_replaced_unasked(place: Path) -> None:
    """A file that is there stays unless --force; a folder is refused by name."""
    Path("p.parquet").write_text("mine")
    for command, options in ((pairs, source(place)), (learn, [place / "pairs.parquet"])):
        assert "--force replaces it" in refused(command, *options, "--out", "p.parquet")
        assert "found a folder" in refused(command, *options, "--out", ".")
    assert Path("p.parquet").read_text() == "mine"
    good(learn, place / "pairs.parquet", "--out", "p.parquet", "--force")
    assert Utilities.read("p.parquet").names == DECLARED.names


def test_a_place_where_no_file_can_be_is_told_before_the_work(place: Path) -> None:
    """A file as a folder is refused by the option's name before any input is read; a new folder is made."""
    for command, options in ((pairs, ["--data", "no-such"]), (learn, ["no-such.parquet"])):
        told = refused(command, *options, "--out", place / "pairs.parquet" / "u")
        assert "--out" in told
        assert "cannot be written" in told
    good(learn, place / "pairs.parquet", "--out", "new/folder/u.toml")
    assert Utilities.read("new/folder/u.toml").names == DECLARED.names


def test_learn(place: Path) -> None:
    """Weights of every stakeholder are found to convergence, near the truth, and told with their errors."""
    told = good(learn, place / "pairs.parquet")
    found = Utilities.read("stakeholders.toml")
    assert found.names == ("user", "platform", "society")
    for name in found.names:
        fit = found.fits[name]
        assert fit["converged"]
        assert fit["gradient_norm"] < 1e-8
        truth = 3.0 * DECLARED.vector(name)  # a judge of sharpness 3 is one of sharpness 1 with three times the weights
        errors = np.array([fit["standard_errors"][feature] for feature in found.features])
        assert (np.abs(found.vector(name) - truth) < 4.5 * errors).all()
        ends = np.array([fit["interval"]["ends"][feature] for feature in found.features])
        assert np.allclose(ends[:, 1] - ends[:, 0], 2 * 1.959964 * errors, rtol=1e-4)
    made = read_pairs(place / "pairs.parquet")
    both = np.concatenate([made.left, made.right])
    assert found.pool is not None
    assert np.allclose(found.pool.mean, both.mean(axis=0))
    assert np.allclose(found.pool.covariance, np.cov(both.T, bias=True))
    for text in (
        "user: 800 pairs, Bradley–Terry, l2 0",
        "converged: gradient norm",
        "95 % from",
        "wrote stakeholders.toml",
    ):
        assert text in told


def test_learn_as_json(place: Path) -> None:
    """JSON holds what the utilities file holds of each fit."""
    found = json.loads(good(learn, place / "pairs.parquet", "--format", "json", "--level", 0.9))
    assert found["stakeholders"]["society"]["interval"]["level"] == 0.9
    written = Utilities.read("stakeholders.toml")
    assert found["stakeholders"]["user"]["weights"]["reply"] == written.fits["user"]["weights"]["reply"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--loss", "margin", "--margin", "0.5"], "margin 0.5 (temperature 0.1)"),
        (["--loss", "calibrated", "--strength", "0.2"], "calibrated 0.2"),
        (["--loss", "constrained"], "constrained by negatives"),
        (["--loss", "constrained", "--penalty", "spread"], "constrained by spread"),
        (["--l2", "0.01"], "l2 0.01"),
    ],
)
def test_losses(options: list[str], told: str, place: Path) -> None:
    """Every loss can be asked for, and the table says which it was."""
    assert told in good(learn, place / "pairs.parquet", *options)


def test_bootstrap(place: Path) -> None:
    """Intervals come from draws of pairs where no rater is known, and from draws of raters where enough are."""
    assert "percentiles of 20 bootstrap draws of pairs" in good(learn, place / "pairs.parquet", "--bootstrap", 20)
    made = read_pairs(place / "pairs.parquet").of_stakeholder("user")
    raters = [f"r{row % 30}" for row in range(len(made))]
    write_pairs("rated.parquet", Pairs.of(made.features, made.left, made.right, made.outcome, rater=raters))
    options = ["--bootstrap", 20, "--force"]
    assert "percentiles of 20 bootstrap draws of raters" in good(learn, "rated.parquet", *options)
    assert "wanted at least 20 draws" in refused(learn, "rated.parquet", "--bootstrap", 3, "--force")


def test_ties(place: Path) -> None:
    """Ties are modelled, or left out and counted; all ties are refused."""
    made = read_pairs(place / "pairs.parquet").of_stakeholder("user")
    outcome = np.where(np.arange(len(made)) % 5 == 0, 0, made.outcome)
    write_pairs("ties.parquet", Pairs.of(made.features, made.left, made.right, outcome))
    assert "Davidson" in good(learn, "ties.parquet")
    assert "640 pairs, 160 ties left out" in good(learn, "ties.parquet", "--ties", "leave-out", "--force")
    assert "640 pairs, 160 ties left out, margin" in good(learn, "ties.parquet", "--loss", "margin", "--force")
    assert "--ties leave-out" in refused(learn, "ties.parquet", "--bootstrap", 50, "--force")
    write_pairs("all.parquet", Pairs.of(made.features, made.left, made.right, np.zeros(len(made))))
    assert "all.parquet: user: fit: all 800 pairs are ties" in refused(learn, "all.parquet", "--force")
    assert "all pairs are ties" in refused(learn, "all.parquet", "--ties", "leave-out", "--force")


def test_raters(place: Path) -> None:
    """A rater who answers the wrong way round is found out, and kept in the file."""
    made = read_pairs(place / "pairs.parquet").of_stakeholder("user")
    wrong = np.arange(len(made)) % 4 == 0
    raters = np.where(wrong, "contrary", np.where(np.arange(len(made)) % 4 == 1, "ann", "bo"))
    outcome = np.where(wrong, -made.outcome, made.outcome)
    write_pairs("rated.parquet", Pairs.of(made.features, made.left, made.right, outcome, rater=raters.tolist()))
    told = good(learn, "rated.parquet", "--raters", "--l2", "0.001")
    assert "raters who contradict the others: contrary" in told
    assert Utilities.read("stakeholders.toml").fits["user"]["reliability"]["contrary"] < 0.3
    assert "--raters: goes with the plain loss" in refused(
        learn, "rated.parquet", "--raters", "--loss", "margin", "--force"
    )


def test_separable_pairs_are_refused(place: Path) -> None:
    """Pairs without an optimum are refused with what to do, nothing is written, and a ridge helps."""
    items = np.random.default_rng(1).random((60, 18))
    write_pairs("clean.parquet", generate(DECLARED, items, 100))
    told = refused(learn, "clean.parquet")
    assert told.startswith("clean.parquet: user: these 100 pairs contradict one direction of the weights nowhere")
    assert "--l2 0.001" in told
    assert not Path("stakeholders.toml").exists()
    good(learn, "clean.parquet", "--l2", "0.001")


def test_pool_of_learn(place: Path) -> None:
    """The moments come from a pool where one is given, which must know the features."""
    app = load(
        place / "pipelines.toml",
        data=place / "data",
        registry=registry(),
        only=["feed"],
        captures=Captures(Path("caps")),
    )
    with app:
        app["feed"].run_sync(viewer=3, capture=True)
    rng = np.random.default_rng(0)
    left, right = rng.random((2, 60, 2))
    outcome = np.where(rng.random(60) < 0.6, 1, -1)
    write_pairs("p.parquet", Pairs.of(["favorite", "share"], left, right, outcome))
    told = good(learn, "p.parquet", "--pool", "caps")
    assert "mean and covariance of 20 rows: caps" in told
    pool = pool_from_captures("caps", ["favorite", "share"])
    found = Utilities.read("stakeholders.toml").pool
    assert found is not None
    assert np.allclose(found.mean, pool.values.mean(axis=0))
    write_pairs("q.parquet", Pairs.of(["favorite", "report"], left, right, outcome))
    assert "described by report, which the pool lacks" in refused(learn, "q.parquet", "--pool", "caps", "--force")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["no.parquet"], "no.parquet: no such file"),
        (["empty.parquet"], "wanted at least one pair, found none"),
        (["strange.parquet", "--loss", "calibrated"], "--loss calibrated: wanted pairs with at least one of favorite"),
        (["strange.parquet", "--loss", "constrained"], "--loss constrained: wanted pairs with at least one of not_int"),
    ],
)
def test_pairs_that_cannot_be_learned_from(options: list[str], told: str) -> None:
    """Files and losses that do not fit are refused with what was wanted."""
    write_pairs("empty.parquet", Pairs.of(["a"], np.zeros((0, 1)), np.zeros((0, 1)), []))
    write_pairs("strange.parquet", Pairs.of(["a"], [[1.0], [0.0]], [[0.0], [2.0]], [1, 1]))
    assert told in refused(learn, *options)


def test_errors_are_of_the_usual_kinds(place: Path) -> None:
    """Mistakes in files are `DataError`s and mistakes in options `RequestError`s: both end with status 1."""
    assert isinstance(run(learn, "no.parquet").exception, DataError)
    assert isinstance(run(pairs, "--out", ".", *source(place)).exception, RequestError)


def test_tables_of_other_features_are_told_apart(place: Path) -> None:
    """Tables that are described by different features are refused with the file that differs."""
    write_pairs("other.parquet", Pairs.of(("favorite",), [[0.2]], [[0.1]], [1]))
    told = refused(learn, place / "pairs.parquet", "other.parquet")
    assert "other.parquet: wanted pairs described by" in told
    assert "found favorite" in told


def test_a_bootstrap_of_few_pairs_is_refused(place: Path) -> None:
    """Intervals of a handful of pairs drawn again would be too narrow, so the option is refused."""
    write_pairs("few.parquet", read_pairs(place / "pairs.parquet").take(np.arange(19)))
    told = refused(learn, "few.parquet", "--l2", "0.01", "--bootstrap", "30", "--out", "few.toml")
    assert "--bootstrap: wanted at least 20 pairs of user" in told
    assert not Path("few.toml").exists()
