"""Captures and replays of the feed: the bundled world and MovieLens-100K, on trained and untrained models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from replays import differences, recorded

from candidate_pipeline import App, Outcome, load
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.errors import MisconfigurationError, RequestError
from candidate_pipeline.what_if.capture import Capture, Captures, capture_paths
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.replay import Replayed, Replayer, replay
from candidate_pipeline_feed.movielens.fetch import fetch_ml_100k
from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.config import RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import parameter_shapes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "pipelines.toml"
SHARED = ROOT / ".." / "shared" / "data" / "ml-100k"
WEIGHT = "components.weighted.weights.reply=10"
VIEWERS = (1, 7, 42)


def recordings(app: App, viewers: tuple[int, ...], **more: Any) -> dict[int, tuple[Outcome, Capture]]:
    """The viewers' requests for their feed."""

    async def main() -> dict[int, tuple[Outcome, Capture]]:
        return {viewer: await recorded(app, "for_you", viewer=viewer, **more) for viewer in viewers}

    found: dict[int, tuple[Outcome, Capture]] = app.run_coroutine(main())
    return found


def replays(app: App, captures: list[Capture], **options: Any) -> list[Replayed]:
    """The captures replayed one after the other by an open application."""

    async def main() -> list[Replayed]:
        return [await replay(app, capture, **options) for capture in captures]

    found: list[Replayed] = app.run_coroutine(main())
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The bundled world's `for_you`, open, with a folder for captures."""
    captures = Captures(tmp_path_factory.mktemp("captures") / "here")
    with load(CONFIG, only=["for_you"], captures=captures) as app:
        yield app


@pytest.fixture(scope="module")
def requests(world: App) -> dict[int, tuple[Outcome, Capture]]:
    """What some viewers were shown, and the captures of that."""
    return recordings(world, VIEWERS, seed=3)


def test_replay_of_the_world_is_bit_identical(world: App, requests: dict[int, tuple[Outcome, Capture]]) -> None:
    """Expect every viewer's replay, on a trained model, to be the recorded outcome to the last bit, explained alike."""
    captures = [capture for _, capture in requests.values()]
    for again, (outcome, capture) in zip(replays(world, captures, live="never"), requests.values(), strict=True):
        assert not differences(again, outcome)
        assert Ranking.of(again).identical(capture.ranking)
        assert again.live == again.reused == again.notes == ()
        assert len(again.selected) == 35


def test_replay_of_a_changed_weight_is_a_fresh_run(requests: dict[int, tuple[Outcome, Capture]]) -> None:
    """Expect a replay with another weight to be what a fresh request with that weight gives, on the trained model."""
    captures = [capture for _, capture in requests.values()]
    with load(CONFIG, sets=[WEIGHT], only=["for_you"]) as app:
        fresh = recordings(app, VIEWERS, seed=3)
        for again, viewer in zip(replays(app, captures), VIEWERS, strict=True):
            assert not differences(again, fresh[viewer][0])
            assert again.item_ids.tolist() != requests[viewer][0].item_ids.tolist()


def test_replay_with_a_reused_ranker_opens_no_model(requests: dict[int, tuple[Outcome, Capture]]) -> None:
    """Expect the recorded predictions to stand in for the ranker, and nothing but what a hydrator needs to open."""
    _, capture = requests[42]
    with load(CONFIG, sets=[WEIGHT], only=()) as app:
        (again,) = replays(app, [capture], reuse=["ranker"])
        opened = {name for name, each in app.reports().items() if each}
    assert again.reused == ("ranker",)
    assert not opened & {"ranker_model", "retrieval_model", "index"}


def test_replayer_runs_no_scorer_twice(requests: dict[int, tuple[Outcome, Capture]]) -> None:
    """Expect a replayer's runs with a changed component to be those of a changed spec, without opening the model."""
    _, capture = requests[7]
    with load(CONFIG, sets=[WEIGHT], only=()) as changed:
        weighted = next(node.component for node in changed["for_you"].plan.nodes if node.name == "weighted")
        (wanted,) = replays(changed, [capture], reuse=["ranker"])
    with load(CONFIG, only=()) as app:
        replayer = Replayer(app, capture)
        same = app.run_coroutine(replayer.run())
        again = app.run_coroutine(replayer.run({"weighted": weighted}))
        opened = set(app.reports())
    assert Ranking.of(same).identical(capture.ranking)
    assert Ranking.of(again).identical(Ranking.of(wanted))
    assert "ranker_model" not in opened


def test_replay_of_another_pipeline_is_refused(world: App, requests: dict[int, tuple[Outcome, Capture]]) -> None:
    """Expect the pipeline's name to be looked for, and unknown scorers to be named with the nearest."""
    _, capture = requests[1]
    with pytest.raises(MisconfigurationError, match="did you mean 'ranker'"):
        replays(world, [capture], reuse=["rankr"])


# MovieLens-100K


def _untrained(kind: type[RankerConfig | RetrievalConfig]) -> Artifact:
    trunk = TransformerConfig(16, 8, 2, 2, 1, 2.0, 0.125)
    config = kind(model=trunk, num_actions=19, history_seq_len=16, candidate_seq_len=8, fprop_dtype="float32")
    hashes = HashParams.random(3, user_vocab_size=256, item_vocab_size=512, author_vocab_size=128)
    rng = np.random.default_rng(11)
    params: dict[str, dict[str, Any]] = {}
    for path, shape in parameter_shapes(config).items():
        module, _, name = path.rpartition("/")
        params.setdefault(module, {})[name] = rng.normal(0, 0.4, shape).astype(np.float32)
    if kind is RetrievalConfig:
        params["~"] = {"log_temperature": np.log(np.float32(0.25))}
    return Artifact(config, params, EmbeddingTables.random(3, hashes, trunk.emb_size), hashes)


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovieLens-100K as a data directory, with untrained models that feel every input."""
    if not SHARED.is_dir():
        pytest.skip("no copy of MovieLens-100K beside the checkout")
    folder = tmp_path_factory.mktemp("replays") / "ml"
    fetch_ml_100k(folder, SHARED)
    save_artifact(folder / "models" / "ranker", _untrained(RankerConfig))
    save_artifact(folder / "models" / "retrieval", _untrained(RetrievalConfig))
    return folder


def test_replay_of_movielens_is_bit_identical(movielens: Path) -> None:
    """Expect replays over MovieLens-100K to be the recorded outcomes, and as fresh runs with a changed weight."""
    viewers = (1, 405, 943)
    with load(CONFIG, data=movielens, only=["for_you"]) as app:
        requests = recordings(app, viewers)
        captures = [capture for _, capture in requests.values()]
        for again, (outcome, _) in zip(replays(app, captures, live="never"), requests.values(), strict=True):
            assert len(outcome.selected) > 5
            assert not differences(again, outcome)
    with load(CONFIG, data=movielens, sets=[WEIGHT], only=["for_you"]) as app:
        fresh = recordings(app, viewers)
        for again, viewer in zip(replays(app, captures), viewers, strict=True):
            assert not differences(again, fresh[viewer][0])


# On the command line


@pytest.fixture(scope="module")
def folder(world: App) -> Path:
    """A folder with the captures of three requests."""
    for viewer in VIEWERS:
        world["for_you"].run_sync(viewer=viewer, request_id=f"viewer-{viewer}", capture=True)
    assert world.captures is not None
    return world.captures.captures.folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the program; its exit status and what it prints."""

    def run(*words: str) -> tuple[int, str]:
        group = build_group("candidate-pipeline", dict(BUILTIN))
        status = group.main([*words, "--config", str(CONFIG)], standalone_mode=False)
        return status or 0, capsys.readouterr().out

    return run


def test_command_shows_what_moved(folder: Path, command: Any) -> None:
    """Expect one capture's replay with another weight to show items with the terms that moved them."""
    path = str(folder / "viewer-1.capture")
    status, said = command("replay", path, "--set", WEIGHT, "--reuse", "ranker", "--limit", "3")
    assert status == 0
    assert "moved" in said
    assert "reply" in said


def test_command_says_that_nothing_moved(folder: Path, command: Any) -> None:
    """Expect an unchanged spec to be told apart from one that happens to rank alike."""
    status, said = command("replay", str(folder / "viewer-7.capture"), "--reuse", "ranker", "--live", "never")
    assert status == 0
    assert "to the last bit" in said


def test_command_sums_up_many_captures(folder: Path, tmp_path: Path, command: Any) -> None:
    """Expect a folder's replays to be counted and averaged, what cannot be read to be named, and status 2."""
    status, said = command("replay", str(folder), "--set", WEIGHT, "--reuse", "ranker", "--format", "json")
    assert status == 0
    told = json.loads(said)
    assert [each["request_id"] for each in told["captures"]] == ["viewer-1", "viewer-42", "viewer-7"]
    assert told["summary"]["requests"] == 3
    assert 0 < told["summary"]["overlap"] <= 1
    broken = tmp_path / "broken.capture"
    broken.write_bytes(capture_paths(folder)[0].read_bytes()[:1000])
    status, said = command("replay", str(folder), str(broken), "--reuse", "ranker")
    assert status == 2
    assert "cannot be replayed" in said
    assert "3 requests" in said
    assert "3 of 3 replays are the recorded rankings, to the last bit" in said


def test_command_finds_a_swap(folder: Path, command: Any) -> None:
    """Expect the smallest single change that swaps two items, as an override that does so when it is replayed."""
    path = folder / "viewer-42.capture"
    ids = [str(item) for item in Capture.read(path).ranking.item_ids[[3, 6]].tolist()]
    _, said = command("replay", str(path), "--swap", *ids, "--format", "json")
    override = json.loads(said)["found"][0]["override"]
    _, said = command("replay", str(path), "--set", override, "--reuse", "ranker", "--format", "json")
    (told,) = json.loads(said)["captures"]
    ranks = {change["name"]: change["after"]["rank"] for change in told["diff"]["moved"]}
    assert ranks.get(ids[1], 7) < ranks.get(ids[0], 4)


def test_command_refuses_what_is_not_there(folder: Path, tmp_path: Path, command: Any) -> None:
    """Expect a missing file, an empty folder and a swap over several captures to be told of."""
    for words, said in (
        ([str(tmp_path / "none.capture")], "no such file or folder"),
        ([str(tmp_path)], "no captures in"),
        ([str(folder), "--swap", "1", "2"], "wanted one capture, found 3"),
    ):
        with pytest.raises(MisconfigurationError, match=said):
            command("replay", *words)


def test_command_stops_when_interrupted(folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect what was replayed before an interruption to be summed up, with status 130."""
    read, count = Capture.read, iter(range(3))

    def interrupted(path: Path) -> Capture:
        if next(count) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(Capture, "read", interrupted)
    status, said = command("replay", str(folder), "--reuse", "ranker")
    assert status == 130
    assert "interrupted after 2 captures" in said
    assert "2 requests" in said


def test_run_captures_on_request(tmp_path: Path, command: Any) -> None:
    """Expect `run --capture DIR` to say where it recorded the request, and the file to be the request's."""
    words = ("run", "for_you", "--viewer", "42", "--capture", str(tmp_path / "made"), "--format", "json")
    _, said = command(*words)
    told = json.loads(said)
    capture = Capture.read(told["capture"])
    assert capture.request_id == told["request_id"]
    assert [item["item_id"] for item in told["items"]] == capture.ranking.item_ids[: len(told["items"])].tolist()


def test_run_says_that_nothing_was_recorded(tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect the answer all the same, and an error where `--capture` names what is no folder."""
    place = tmp_path / "file"
    place.write_text("x")
    with pytest.raises(RequestError, match="answered, but not recorded"):
        command("run", "for_you", "--viewer", "42", "--capture", str(place), "--format", "json")
    assert json.loads(capsys.readouterr().out)["capture"] is None


def test_another_data_set_is_noted(world: App) -> None:
    """A capture that was recorded over other data says so when it is ranked again, and what to give."""
    _, capture = recordings(world, (42,))[42]
    (again,) = replays(world, [attrs.evolve(capture, dataset="films")])
    assert again.notes[0].startswith("recorded over the data set 'films', ranked again over 'a small social world")
    assert again.notes[0].endswith("give the same --data")
