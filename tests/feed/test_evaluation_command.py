"""`candidate-pipeline evaluate` over a small data set, with a pipeline that needs no trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    Candidates,
    Column,
    Context,
    DataError,
    MisconfigurationError,
    Patch,
    Plugin,
    Query,
    QueryPatch,
    Registry,
    RequestError,
    SpecError,
    patch,
    query_patch,
)
from candidate_pipeline.plugin import Kind
from candidate_pipeline_feed import plugin as feed_plugin
from candidate_pipeline_feed.datadir import DataDirectory, DatasetInfo
from candidate_pipeline_feed.evaluation import command
from candidate_pipeline_feed.evaluation.experiment import Settings, evaluate_pipeline
from candidate_pipeline_feed.evaluation.runs import (
    PIPELINE,
    RANKER,
    RANKER_RETRIEVED,
    RETRIEVAL,
    RETRIEVAL_POPULARITY,
    retrieval_temperature,
)
from candidate_pipeline_feed.evaluation.splits import TRAINING_FILE, favorites, make_split
from candidate_pipeline_feed.keys import AUTHOR_ID, CREATED_AT, PREDICTIONS, SEEN_IDS
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables

USERS, ITEMS = 40, 30
COSINE = Column("phoenix.retrieval_score", np.float32, doc="Stands in for the retrieval plugin's column.")


@attrs.frozen
class Everything:
    """All posts in the order of the table, with one cosine for all, as a retrieval that knows nothing."""

    data: FeedTables
    breaks: bool = False

    reads = (SEEN_IDS,)
    writes = (AUTHOR_ID, CREATED_AT, COSINE)

    def fetch(self, query: Query, ctx: Context) -> Candidates:
        if self.breaks:
            raise RuntimeError("the index is gone")
        items = self.data.tables.items
        return Candidates.of(
            ITEM_ID(items.item_id),
            AUTHOR_ID(items.author_id),
            CREATED_AT(items.created_at),
            COSINE(np.full(len(items), 0.5, np.float32)),
        )


@attrs.frozen
class NothingSeen:
    """For a pipeline without a viewer."""

    reads = ()
    writes = (SEEN_IDS,)

    def hydrate(self, query: Query, ctx: Context) -> QueryPatch:
        return query_patch(SEEN_IDS(np.zeros(0, np.int64)))


@attrs.frozen
class Popular:
    """Predicts a favourite by the favourites of the training part, and scores with it (or its negative)."""

    data: FeedTables
    sign: float = 1.0

    reads = ()
    writes = (PREDICTIONS, SCORE)

    def score(self, query: Query, candidates: Candidates, ctx: Context) -> Patch:
        events = self.data.events
        learnt = events.take(make_split(events).training_mask(events) & favorites(events))
        counts = (candidates[ITEM_ID][:, None] == learnt.item_id[None, :]).sum(axis=1).astype(np.float32)
        return patch(SCORE(self.sign * counts), PREDICTIONS((counts / 1000)[:, None], labels=("favorite",)))


def _registry() -> Registry:
    components: dict[Kind, dict[str, str | type]] = {
        "query_hydrator": {"nothing_seen": NothingSeen},
        "source": {"everything": Everything},
        "scorer": {"popular": Popular},
    }
    return Registry([feed_plugin.candidate_pipeline_plugin(), Plugin("toy", components=components, keys=[COSINE])])


SPEC = """
schema = 1
[pipelines.popular]
result_size = 5
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer", "feed.history"]
sources = ["everything"]
hydrators = ["feed.items"]
filters = ["feed.already_seen"]
scorers = ["scorer"]
selector = "top"
[pipelines.nobody]
query_hydrators = ["toy.nothing_seen"]
sources = ["unread"]
scorers = ["scorer"]
selector = "top"
[components.everything]
use = "toy.everything"
run = { on_error = "skip" }
[components.unread]
use = "toy.everything"
[components.scorer]
use = "toy.popular"
[components.top]
use = "feed.top_k"
size = 8
[resources.data]
use = "feed.tables"
"""


def _tables() -> Tables:
    rng = np.random.default_rng(5)
    chances = 1.0 / np.arange(1, ITEMS + 1)
    user, item = [], []
    for person in range(1, USERS + 1):
        chosen = rng.choice(ITEMS, 9, replace=False, p=chances / chances.sum()) + 1
        user += [person] * len(chosen)
        item += chosen.tolist()
    time = rng.integers(1_000, 40_000, len(user)) // 10 * 10_000
    ids = list(range(1, ITEMS + 1))
    people = list(range(1, USERS + 1))
    return Tables(
        Users.build(user_id=people, name=[f"person {person}" for person in people]),
        Items.build(item_id=ids, author_id=ids, created_at=[0] * ITEMS, text=[f"post {number}" for number in ids]),
        Edges.build(src=[], dst=[], kind=[], created_at=[]),
        Events.build(
            user_id=user, item_id=item, time=time, action=["favorite" if at % 3 else "dwell" for at in range(len(user))]
        ),
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of 40 people and 30 posts."""
    directory = DataDirectory(tmp_path / "tiny")
    directory.path.mkdir()
    directory.write(_tables(), DatasetInfo("Tiny data"))
    return directory.path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A spec with a pipeline that ranks everything by popularity."""
    file = tmp_path / "pipelines.toml"
    file.write_text(SPEC, encoding="utf-8")
    return file


@pytest.fixture
def registry() -> Registry:
    """The feed's own plugin and the components above."""
    return _registry()


def _settings(config: Path, data: Path, **others: Any) -> Settings:
    return Settings(pipeline="popular", config=config, data=data, **others)


def test_a_pipeline_by_popularity_ranks_as_the_popularity_baseline(
    config: Path, data: Path, registry: Registry
) -> None:
    """It expects the pipeline and each part that popularity decides to equal the baseline, target by target."""
    report = evaluate_pipeline(_settings(config, data), registry)
    rows = {row.name: row for row in report.rows}
    baseline = rows["popularity"].metrics
    assert baseline["NDCG@10"].mean > rows["random"].metrics["NDCG@10"].mean
    for name in (PIPELINE, RETRIEVAL_POPULARITY, RANKER, RANKER_RETRIEVED):
        assert rows[name].metrics == baseline
        assert rows[name].found == 1.0
    for difference in report.differences:
        if (difference.first, difference.second) == (PIPELINE, "popularity"):
            assert all(interval.low == interval.high == 0.0 for interval in difference.metrics.values())
    assert report.about["evaluated"] == {"targets": USERS, "users": USERS, "complete": True}
    tied = rows[RETRIEVAL].metrics["Recall@10"].mean
    assert tied in {0.0, 1.0}  # all cosines tie: everybody's target has the middle rank


def test_what_beats_the_pipeline_is_named(config: Path, data: Path, registry: Registry) -> None:
    """It expects a pipeline that ranks the wrong way round to be named as beaten, and itself to beat nothing."""
    report = evaluate_pipeline(_settings(config, data, sets=("components.scorer.sign=-1.0",)), registry)
    beats, level = report.better_than_pipeline("NDCG@10")
    assert "popularity" in beats
    assert not set(beats) & set(level)
    assert report.as_dict()["beats_the_pipeline"]["NDCG@10"] == beats
    rows = {row.name: row for row in report.rows}
    assert rows[RANKER].metrics == rows["popularity"].metrics  # the prediction is right, only the score is not


def test_the_same_seed_gives_the_same_report(config: Path, data: Path, registry: Registry) -> None:
    """It expects equal reports for equal seeds but for times, and another draw of people for another seed."""
    first, again, other = (
        evaluate_pipeline(_settings(config, data, users=12, seed=seed), registry) for seed in (1, 1, 2)
    )
    assert first.rows == again.rows
    assert first.differences == again.differences
    assert first.about["evaluated"]["users"] == 12
    assert first.rows != other.rows


@pytest.mark.parametrize(("split", "validation"), [("time", False), ("time", True), ("leave-last-out", True)])
def test_every_split_can_be_evaluated(
    config: Path, data: Path, registry: Registry, split: str, validation: bool
) -> None:
    """It expects a complete report that names the split."""
    report = evaluate_pipeline(_settings(config, data, split=split, validation=validation), registry)
    assert report.about["split"]["name"] == split
    assert report.about["split"]["held_out"] == ("validation" if validation else "test")
    assert report.about["evaluated"]["complete"]


def test_an_interrupted_evaluation_reports_what_is_done(config: Path, data: Path, registry: Registry) -> None:
    """It expects a report over the first targets that says so, for every row alike."""

    def step(what: str, done: int, total: int) -> None:
        if what == "running the pipeline" and done == 7 and total == USERS:
            raise KeyboardInterrupt

    report = evaluate_pipeline(_settings(config, data), registry, step)
    assert report.about["evaluated"] == {"targets": 7, "users": 7, "complete": False}
    assert "interrupted after 7 of 40 targets" in report.notes[0]
    assert command.default_file(report).name == "tiny-data-popular-leave-last-out-partial.json"
    rows = {row.name: row for row in report.rows}
    assert rows[PIPELINE].metrics == rows["popularity"].metrics


def test_an_evaluation_interrupted_at_once_reports_nothing(config: Path, data: Path, registry: Registry) -> None:
    """It expects the interruption to go on to the caller."""

    def step(what: str, done: int, total: int) -> None:
        if what == "running the pipeline":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_pipeline(_settings(config, data), registry, step)


def test_a_source_that_breaks_is_noted(config: Path, data: Path, registry: Registry) -> None:
    """It expects figures of 0, and a note that says which component failed how often and why."""
    report = evaluate_pipeline(_settings(config, data, sets=("components.everything.breaks=true",)), registry)
    assert report.rows[0].metrics["MRR"].mean == 0.0
    assert report.rows[0].found == 0.0
    assert any("40 of 40 requests: everything skipped" in note and "index is gone" in note for note in report.notes)


def test_models_of_another_split_are_refused(config: Path, data: Path, registry: Registry) -> None:
    """It expects no evaluation of models that may have learnt the targets."""
    directory = DataDirectory(data)
    events = FeedTables(data)
    events.open()
    trained = make_split(events.events, "time").info
    directory.models.mkdir()
    (directory.models / TRAINING_FILE).write_text(json.dumps({"split": trained.as_dict()}), encoding="utf-8")
    with pytest.raises(DataError, match="trained on another split"):
        evaluate_pipeline(_settings(config, data), registry)
    report = evaluate_pipeline(_settings(config, data, split="time"), registry)
    assert report.about["training"]["split"] == trained.as_dict()


def test_data_without_favourites_is_refused(config: Path, tmp_path: Path, registry: Registry) -> None:
    """It expects the error to say what a split wants."""
    tables = _tables()
    none = Events.build(
        user_id=tables.events.user_id, item_id=tables.events.item_id, time=tables.events.time, action=["dwell"] * 360
    )
    directory = DataDirectory(tmp_path / "none")
    directory.path.mkdir()
    directory.write(attrs.evolve(tables, events=none), DatasetInfo("No favourites"))
    with pytest.raises(DataError, match="0 favourites in 360 events"):
        evaluate_pipeline(_settings(config, directory.path), registry)


def test_an_unknown_pipeline_and_a_missing_directory_are_refused(config: Path, data: Path, registry: Registry) -> None:
    """It expects the nearest name for the one, and the missing file for the other."""
    with pytest.raises(MisconfigurationError, match="popular"):
        evaluate_pipeline(attrs.evolve(_settings(config, data), pipeline="populer"), registry)
    with pytest.raises(SpecError, match="no such directory"):
        evaluate_pipeline(_settings(config, data / "nowhere"), registry)


def test_a_pipeline_without_a_viewer_is_refused(config: Path, data: Path, registry: Registry) -> None:
    """It expects the error to name the input that is missing."""
    with pytest.raises(MisconfigurationError, match=r"feed\.viewer_id"):
        evaluate_pipeline(attrs.evolve(_settings(config, data), pipeline="nobody"), registry)


def _invoke(monkeypatch: pytest.MonkeyPatch, registry: Registry, *arguments: str) -> Any:
    monkeypatch.setattr(command, "installed", lambda: registry)
    app = typer.Typer()
    app.command()(command.evaluate)
    return CliRunner().invoke(app, [*arguments])


def test_the_command_prints_tables_and_writes_results(
    config: Path, data: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects every row and difference on standard output, and the same figures with their origin in the file."""
    monkeypatch.chdir(tmp_path)
    result = _invoke(monkeypatch, registry, "--pipeline", "popular", "--config", str(config), "--data", str(data))
    assert result.exit_code == 0, result.output
    for text in (
        PIPELINE,
        RETRIEVAL,
        RANKER,
        "EASE with decay",
        "item-item",
        "paired differences",
        "level: ",
        "MRR",
    ):
        assert text in result.stdout
    found = json.loads((tmp_path / "results" / "tiny-data-popular-leave-last-out.json").read_text(encoding="utf-8"))
    assert {row["name"] for row in found["rows"]} >= {PIPELINE, "popularity", "recent popularity", "random"}
    assert found["split"]["name"] == "leave-last-out"
    assert len(found["data"]["sha256"]) == len(found["config"]["sha256"]) == 64
    assert found["versions"]["numpy"] == np.__version__
    assert found["seed"] == 0


def test_the_command_prints_json(
    config: Path, data: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects standard output to be the results file, word for word in content."""
    out = tmp_path / "elsewhere" / "found.json"
    arguments = ["--pipeline", "popular", "--config", str(config), "--data", str(data), "--format", "json"]
    result = _invoke(monkeypatch, registry, *arguments, "--users", "5", "--recent-window", "6h", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(result.stdout)["recent_window"] == "6h"


@pytest.mark.parametrize("window", ["yesterday", "0d", "-1d"])
def test_a_wrong_window_is_refused(
    window: str, config: Path, data: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects the error to show what a window looks like."""
    result = _invoke(monkeypatch, registry, "--data", str(data), "--config", str(config), f"--recent-window={window}")
    assert isinstance(result.exception, RequestError)
    assert "30d" in str(result.exception)


def test_results_that_cannot_be_written_are_an_error(
    config: Path, data: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects the file's name in the message."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    arguments = ["--pipeline", "popular", "--config", str(config), "--data", str(data), "--users", "3"]
    result = _invoke(monkeypatch, registry, *arguments, "--out", str(tmp_path / "file" / "found.json"))
    assert isinstance(result.exception, RequestError)
    assert "cannot be written" in str(result.exception)


def test_the_temperature_is_read_from_the_models_parameters(tmp_path: Path) -> None:
    """It expects exp(log_temperature) where the parameters hold one, and nothing where they do not or are damaged."""
    (tmp_path / "retrieval").mkdir()
    file = tmp_path / "retrieval" / "model_params.npz"
    assert retrieval_temperature(tmp_path) is None
    arrays: dict[str, Any] = {"~/log_temperature": np.float32(np.log(0.05)), "other": np.zeros(2)}
    np.savez(file, **arrays)
    assert retrieval_temperature(tmp_path) == pytest.approx(0.05)
    np.savez(file, other=np.zeros(2))
    assert retrieval_temperature(tmp_path) is None
    file.write_bytes(b"PK damaged")
    assert retrieval_temperature(tmp_path) is None
