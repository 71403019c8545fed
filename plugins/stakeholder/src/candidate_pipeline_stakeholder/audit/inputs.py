"""What an audit is run on: utilities, a pool, a mix and pairs, from what was asked for and from sensible defaults."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_stakeholder.audit.document import plural
from candidate_pipeline_stakeholder.audit.wording import mix_text, some
from candidate_pipeline_stakeholder.collecting import Track, collect, pool_from_captures, silent
from candidate_pipeline_stakeholder.mixing import mix_problem, parse_mix, shares
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.terminal import Finished
from candidate_pipeline_stakeholder.utilities import DECLARED, Utilities

VIEWERS: Final = 40
"""People whose requests make the pool."""
QUICK_VIEWERS: Final = 12
CONFIG: Final = Path("pipelines.toml")
VERSIONS: Final = ("candidate-pipeline", "candidate-pipeline-stakeholder", "numpy", "scipy", "matplotlib")


@attrs.frozen
class Asked:
    """What the command line says.

    Args:
        config: The spec; `None`: `pipelines.toml`, where one is needed.
        data: The data directory.
        pipeline: The pipeline's name.
        utilities: A utilities file.
        mix: A mix as it is written on a command line.
        viewers: How many people.
        captures: A folder of captures, or one.
        pool: A pool's file.
        pairs: A table of pairs.
        scorer: The stakeholder scorer's name, where the pipeline has several.
        sets: Overrides of the spec.
        seed: The source of all draws.
        quick: Whether less will do.
    """

    config: Path | None = None
    data: Path | None = None
    pipeline: str = "for_you"
    utilities: Path | None = None
    mix: str | None = None
    viewers: int | None = None
    captures: Path | None = None
    pool: Path | None = None
    pairs: Path | None = None
    scorer: str | None = None
    sets: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False


@attrs.frozen(eq=False)
class Inputs:
    """What an audit is run on.

    Args:
        utilities: The stakeholders.
        pool: What they are compared on.
        mix: Weights by stakeholder.
        pairs: Preferences, where there are some.
        about: All this in a line.
        provenance: All this as plain data, without paths of this machine.
        normalise: How the scorer standardises utilities.
        interrupted: Whether the pool is of fewer requests than asked for.
    """

    utilities: Utilities
    pool: Pool
    mix: Mapping[str, float]
    pairs: Pairs | None
    about: str
    provenance: Mapping[str, Any]
    normalise: str = "request"
    interrupted: bool = False


@attrs.frozen(eq=False)
class _Own:
    """What a pipeline's own stakeholder scorer says.

    Args:
        name: The scorer.
        utilities: Its stakeholders.
        mix: Its mix.
        normalise: How it standardises utilities.
    """

    name: str
    utilities: Utilities
    mix: Mapping[str, float]
    normalise: str


def gather(asked: Asked, track: Track = silent) -> Inputs:
    """Find or make everything that the audit needs.

    Args:
        asked: What the command line says.
        track: Shows how far it is.

    Raises:
        DataError: A file cannot be read or used, or nothing has predictions.
        MisconfigurationError: The mix names nobody that is there, or the spec is wrong.
        RequestError: The pipeline cannot answer.
    """
    given = Utilities.read(asked.utilities) if asked.utilities is not None else None
    mix: Mapping[str, float] | None = parse_mix(asked.mix) if asked.mix is not None else None
    if given is not None and mix is not None:
        _check_mix(mix, given)  # before anything takes long
    pairs = _pairs(asked.pairs) if asked.pairs is not None else None
    pool, own, told, interrupted = _pool(asked, track, given, mix)
    utilities = given or (own.utilities if own is not None else DECLARED)
    if mix is None:
        mix = (
            own.mix if own is not None and set(own.mix) <= set(utilities.names) else dict.fromkeys(utilities.names, 1.0)
        )
    _check_mix(mix, utilities)
    parts = dict(zip(utilities.names, shares(mix, utilities.names).tolist(), strict=True))
    whose = _whose(asked, own)
    provenance = {
        **told,
        "utilities": {"from": whose, "stakeholders": len(utilities.names)} | _digest("file", asked.utilities),
        "mix": parts,
        "pool": _described(pool),
        "pairs": None if pairs is None else {"rows": len(pairs)} | _digest("file", asked.pairs),
        "seed": asked.seed,
        "quick": asked.quick,
        "versions": versions(),
    }
    about = (
        f"{told['from']}: {plural(len(pool), 'candidate')} of {plural(pool.request_count, 'request')}. "
        f"Utilities of {some(utilities.names)}, {whose}. Mix: {mix_text(parts)}. Seed {asked.seed}"
        + (", quick: fewer seeds and draws than a full audit." if asked.quick else ".")
    )
    normalise = own.normalise if own is not None else "request"
    return Inputs(utilities, pool, mix, pairs, about, provenance, normalise, interrupted)


def _whose(asked: Asked, own: _Own | None) -> str:
    if asked.utilities is not None:
        return f"from {asked.utilities.name}"
    if own is not None:
        return f"those of the scorer {own.name}"
    return "as declared by the label utilities"


def _check_mix(mix: Mapping[str, float], utilities: Utilities) -> None:
    problem = mix_problem(mix, utilities.names)
    if problem:
        raise MisconfigurationError(f"mix: {problem}")


def _pool(
    asked: Asked, track: Track, utilities: Utilities | None, mix: Mapping[str, float] | None
) -> tuple[Pool, _Own | None, dict[str, Any], bool]:
    """The pool, what the pipeline's own scorer says, where the pool is from, and whether it was interrupted."""
    if asked.pool is not None:
        pool = Pool.read(asked.pool)
        own, _ = _own_of(asked) if asked.config is not None else (None, None)
        return pool, own, {"from": f"the pool {asked.pool.name}"} | _digest("pool file", asked.pool), False
    if asked.captures is not None:
        pool = pool_from_captures(asked.captures)
        own, _ = _own_of(asked) if asked.config is not None else (None, None)
        return pool, own, {"from": f"recorded requests in {asked.captures.name}"}, False
    own, app = _own_of(asked)
    if mix is not None:
        _check_mix(mix, utilities or (own.utilities if own is not None else DECLARED))
    from candidate_pipeline_stakeholder.viewers import draw_viewers

    count = asked.viewers or (QUICK_VIEWERS if asked.quick else VIEWERS)
    counted = Finished(track)
    with app:
        people = draw_viewers(app, asked.data, count, asked.seed)
        pool = collect(app[asked.pipeline], people.tolist(), asked.seed, track=counted)
    name = app.dataset.name if app.dataset is not None else "the data directory"
    told = {
        "from": f"{asked.pipeline} on {name}",
        "pipeline": asked.pipeline,
        "config": (asked.config or CONFIG).name,
        "set": list(asked.sets),
        "data": name,
        "viewers": len(people),
    }
    return pool, own, told, not counted.finished


def _own_of(asked: Asked) -> tuple[_Own | None, Any]:
    """What the pipeline's own stakeholder scorer says, if it has one, and the application."""
    from candidate_pipeline import load
    from candidate_pipeline_stakeholder.comparing import stakeholder_scorer, stakeholder_scorers

    app = load(asked.config or CONFIG, data=asked.data, sets=asked.sets, only=[asked.pipeline])
    if asked.scorer is None and not stakeholder_scorers(app, asked.pipeline):
        return None, app
    name, scorer = stakeholder_scorer(app, asked.pipeline, asked.scorer)
    return _Own(name, scorer.resolved, dict(scorer.mix), scorer.normalise), app


def _pairs(file: Path) -> Pairs:
    from candidate_pipeline_stakeholder.pairs_file import read_pairs

    return read_pairs(file)


def _described(pool: Pool) -> dict[str, Any]:
    digest = hashlib.sha256()
    for array in (pool.values, pool.item_ids, pool.request, pool.group, pool.author):
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "rows": len(pool),
        "requests": pool.request_count,
        "features": list(pool.features),
        "groups": len(pool.groups),
        "sha256": digest.hexdigest(),
    }


def _digest(what: str, file: Path | None) -> dict[str, Any]:
    """A file's name and what is in it, not where it lies."""
    if file is None:
        return {}
    try:
        return {what: file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def versions() -> dict[str, str]:
    """Versions of what computed the figures and drew the plots."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found
