"""One evaluation from its settings to its report."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline import App, DataError, RequestError, load
from candidate_pipeline.options import format_duration
from candidate_pipeline.registry import Registry
from candidate_pipeline_feed.datadir import DataDirectory, bundled_world
from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.evaluation.baselines import fit_all
from candidate_pipeline_feed.evaluation.cases import Cases, Originals, TrainingPart
from candidate_pipeline_feed.evaluation.metrics import rank_among
from candidate_pipeline_feed.evaluation.provenance import require_trained_on
from candidate_pipeline_feed.evaluation.report import Report, build_report
from candidate_pipeline_feed.evaluation.runs import DEFAULT_TEMPERATURE, RETRIEVAL, TargetRuns, retrieval_temperature
from candidate_pipeline_feed.evaluation.splits import TRAINING_FILE, Split, Targets, make_split
from candidate_pipeline_feed.schema import TABLES

Float64 = NDArray[np.float64]
Step = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

_DISTRIBUTIONS: Final = (
    "candidate-pipeline",
    "candidate-pipeline-feed",
    "candidate-pipeline-thunder",
    "candidate-pipeline-phoenix",
    "phoenix-recsys",
    "numpy",
    "jax",
    "faiss-cpu",
)


@attrs.frozen
class Settings:
    """What to evaluate.

    Args:
        pipeline: A pipeline's name in the spec.
        config: The spec.
        data: The data directory; None: the one that the spec reads without `--data`.
        split: "leave-last-out" or "time".
        validation: Hold out the second last favourite, or use the earlier cut.
        users: Evaluate that many people, drawn by the seed; None: all.
        seed: The source of the draws of people, of the random baseline and of the bootstrap.
        recent_window: What recent popularity counts; None: 30 days, or an eighth of a shorter time span.
        sets: Overrides of the spec, `"a.b=v"` each.
    """

    pipeline: str = "for_you"
    config: Path = Path("pipelines.toml")
    data: Path | None = None
    split: str = "leave-last-out"
    validation: bool = False
    users: int | None = None
    seed: int = 0
    recent_window: dt.timedelta | None = None
    sets: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class _Setting:
    """What an evaluation works on.

    Args:
        settings: What was asked for.
        app: The pipelines, not open.
        directory: The data directory.
        events: All events.
        originals: What their posts stand for.
        split: The split.
        cases: The targets that are evaluated, those of one person together, people in random order.
        met: How many targets were left out because their person had met another showing of the post.
        registry: Where names resolve.
    """

    settings: Settings
    app: App
    directory: DataDirectory
    events: Engagements
    originals: Originals
    split: Split
    cases: Cases
    met: int
    registry: Registry


def evaluate_pipeline(settings: Settings, registry: Registry, step: Step = lambda *_: None) -> Report:
    """Evaluate a pipeline, its parts and the baselines.

    People come in random order, so that what is done when somebody interrupts is a fair sample; the report then
    covers that and says so.

    Raises:
        SpecError: The spec has mistakes.
        DataError: The data cannot be split, or the models were trained on another split.
        RequestError: The pipeline cannot answer for a person.
        KeyboardInterrupt: Interrupted before the first target was done.
    """
    at = _open(settings, registry, step)
    cases, originals = at.cases, at.originals
    part = TrainingPart.of(at.split, at.events, originals)
    window = settings.recent_window
    window_ms = part.default_window_ms() if window is None else max(window // dt.timedelta(milliseconds=1), 1)

    temperature = retrieval_temperature(at.directory.models)
    scale = DEFAULT_TEMPERATURE if temperature is None else temperature
    with at.app:
        runs = TargetRuns(at.app[settings.pipeline], registry, originals, part.popularity(), scale, settings.seed)
        parts = _run_all(runs, cases.targets, step)
    done = min(len(ranks) for ranks in parts.values())
    users = cases.targets.user_id[:done]
    baselines = _rank_baselines(part, cases, done, settings.seed, window_ms, step)

    notes = [f"{count} of {done} requests: {trouble}" for trouble, count in runs.troubles.most_common()]
    if done < len(cases):
        notes.insert(0, f"interrupted after {done} of {len(cases)} targets; the figures are those of these {done}")
    if at.met:
        notes.append(f"{at.met} targets are left out: another showing of the post had been met before")
    if RETRIEVAL in parts and temperature is None:
        notes.append(f"the retrieval model does not say its temperature; its cosines were divided by {scale}")
    if RETRIEVAL not in parts:
        notes.append("the pipeline retrieves nothing by phoenix.retrieval_score; the rows of its parts are left out")
    about = _about(at, runs, users, window_ms, scale if RETRIEVAL in parts else None)
    return build_report(parts, baselines, users, seed=settings.seed, about=about, notes=notes)


def _open(settings: Settings, registry: Registry, step: Step) -> _Setting:
    """Load the spec and the data, split, and draw people; nothing of the pipeline is open yet."""
    step("reading", 0, 1)
    app = load(settings.config, data=settings.data, sets=settings.sets, only=[settings.pipeline], registry=registry)
    path = app.dataset.path if app.dataset is not None else settings.data or bundled_world()
    directory = DataDirectory(path)
    tables = directory.tables()
    events = gather(tables.events)
    split = make_split(events, settings.split, validation=settings.validation)
    require_trained_on(directory.models, split.info)
    people = np.unique(split.targets.user_id)
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(people))
    chosen = order if settings.users is None else order[: settings.users]
    place = np.full(len(people), len(people))
    place[chosen] = np.arange(len(chosen))
    of_target = place[np.searchsorted(people, split.targets.user_id)]
    rows = np.argsort(of_target, kind="stable")
    rows = rows[of_target[rows] < len(chosen)]
    originals = Originals.of(tables.items)
    targets = split.targets.take(rows)
    possible = Cases(targets, events, originals).possible()
    if not possible.any():
        raise DataError(f"{split.info}: every target had been met before in another showing, so none can be found")
    cases = Cases(targets.take(possible), events, originals)
    return _Setting(settings, app, directory, events, originals, split, cases, int((~possible).sum()), registry)


def _run_all(runs: TargetRuns, targets: Targets, step: Step) -> dict[str, Float64]:
    """Ranks by method for the targets, or for the first ones if interrupted."""
    found: dict[str, list[float]] = {}
    total = len(targets)
    try:
        for at in range(total):
            step("running the pipeline", at, total)
            user, item, time = (int(column[at]) for column in (targets.user_id, targets.item_id, targets.time))
            try:
                ranks = runs.ranks(user, item, time)
            except RequestError as error:
                error.add_note(f"while evaluating user {user} at {time} ms")
                raise
            for name, rank in ranks.items():
                found.setdefault(name, []).append(rank)
    except KeyboardInterrupt:
        if not found:
            raise
    step("running the pipeline", total, total)
    whole = min(len(ranks) for ranks in found.values())
    return {name: np.array(ranks[:whole]) for name, ranks in found.items()}


def _rank_baselines(
    part: TrainingPart, cases: Cases, count: int, seed: int, window_ms: int, step: Step
) -> dict[str, Float64]:
    step("fitting baselines", 0, count)
    baselines = fit_all(part, seed, window_ms)
    found = {name: np.empty(count) for name in baselines}
    for number in range(count):
        step("baselines", number, count)
        case = cases[number]
        for name, baseline in baselines.items():
            found[name][number] = rank_among(baseline.scores(case), case.item, case.candidates)
    step("baselines", count, count)
    return found


def _about(
    at: _Setting, runs: TargetRuns, users: NDArray[np.int64], window_ms: int, temperature: float | None
) -> dict[str, Any]:
    """What was evaluated, on what and with what."""
    settings, info = at.settings, at.split.info
    dataset = at.app.dataset
    name = dataset.name if dataset is not None and dataset.name else at.directory.path.name
    done, people = len(users), len(np.unique(users))
    training = at.directory.models / TRAINING_FILE
    return {
        "title": f"{settings.pipeline} on {name}: {info.name} ({info.held_out}), {done} targets of {people} people",
        "pipeline": settings.pipeline,
        "config": {
            "file": str(settings.config),
            "sha256": _sha256([settings.config]),
            "set": list(settings.sets),
        },
        "data": {
            "name": name,
            "path": str(at.directory.path),
            "sha256": _sha256([at.directory.table(table) for table in TABLES]),
        },
        "split": info.as_dict(),
        "evaluated": {"targets": done, "users": people, "complete": done == len(at.cases)},
        "asked_users": settings.users,
        "seed": settings.seed,
        "recent_window": format_duration(dt.timedelta(milliseconds=window_ms)),
        "retrieval_temperature": temperature,
        "requests": {
            "mean_candidates": float(np.mean(runs.candidates)),
            "median_ms": float(np.median(runs.elapsed_ms)),
        },
        "training": json.loads(training.read_text(encoding="utf-8")) if training.is_file() else None,
        "versions": _versions(at.registry),
    }


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _versions(registry: Registry) -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for ref in registry.components():
        if ref.version != "-":
            found[ref.distribution] = ref.version
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))
