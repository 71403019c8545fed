"""Fixtures against a backend in a precision: what it serves is compared with the published float32 results.

Model files hold looked-up embeddings, no ids. So the program that an own backend compiles runs on them directly, and
a registered backend cannot be checked there. Artifact directories go through the backend itself, from ids to
probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import jax
import numpy as np

from phoenix_recsys import prefix
from phoenix_recsys.artifact import Artifact, load_artifact
from phoenix_recsys.backend import BackendOptions, Precision, RankerBackend
from phoenix_recsys.backend_registry import BackendError, find_backend, make_backend
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.golden import tolerances as tol
from phoenix_recsys.golden.model_files import (
    OPTIONAL_INPUTS,
    VARIANTS,
    compare_ranking,
    fields,
    ranker_config,
    read_meta,
)
from phoenix_recsys.golden.pipeline_files import (
    EXPECTED_FILE,
    Sequence,
    compare_probabilities,
    read_sequence,
)
from phoenix_recsys.golden.report import (
    Arrays,
    FixtureError,
    Line,
    Result,
    Skipped,
    compare,
    entry,
    params_under,
    read_fixture,
)
from phoenix_recsys.inputs import Embeddings, RankerBatch
from phoenix_recsys.plain_backend import eager_model, jit_model, jit_params
from phoenix_recsys.prefix_weights import arrange
from phoenix_recsys.ranker import RankerOutput
from phoenix_recsys.requests import History, Items
from phoenix_recsys.served import device_params
from phoenix_recsys.transforms import Params

Program: TypeAlias = Callable[[RankerBatch, Embeddings], RankerOutput]
STAND_IN: Final = 1
"""An id in the place of a padded post, which a backend does not take; its scores are not compared."""


def eager_program(config: RankerConfig, params: Params, precision: Precision) -> Program:
    """What ``eager`` runs: one dense attention, nothing compiled."""
    held = device_params(params, "int8" if precision == "int8" else "float32")
    model = eager_model(config, precision)
    return lambda batch, embeddings: model.apply(held, batch, embeddings)


def jit_program(config: RankerConfig, params: Params, precision: Precision) -> Program:
    """What ``jit`` runs."""
    held = jit_params(device_params(params, precision), precision)
    apply = jax.jit(jit_model(config, precision).apply)
    return lambda batch, embeddings: apply(held, batch, embeddings)


def prefix_program(config: RankerConfig, params: Params, precision: Precision) -> Program:
    """What ``kv_cache`` runs, a viewer encoded and scored in one go."""
    weights = arrange(device_params(params, precision), config, precision)
    run = jax.jit(lambda weights, batch, embeddings: prefix.forward(weights, config, batch, embeddings))
    return lambda batch, embeddings: run(weights, batch, embeddings)


PROGRAMS: Final[Mapping[str, Callable[[RankerConfig, Params, Precision], Program]]] = {
    "eager": eager_program,
    "jit": jit_program,
    "kv_cache": prefix_program,
}


@attrs.frozen
class Checked:
    """A backend in a precision, and the files to check it on.

    Attributes:
        backend: its name.
        precision: what it computes in.

    Raises:
        BackendError: if there is no such backend.
    """

    backend: str
    precision: Precision

    def __attrs_post_init__(self) -> None:
        find_backend(self.backend)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def limits(self) -> tol.LogitLimits:
        """How far its logits may lie from the fixture's."""
        return tol.LOGITS[self.precision]

    def model_file(self, path: Path, arrays: Arrays) -> Iterator[Line]:
        """Compare a model fixture: every variant, at valid candidates, with the float32 outputs.

        Raises:
            FixtureError: if its entries do not make up a ranker that runs.
        """
        meta = read_meta(path, arrays)
        if meta["model"] != "ranker":
            yield Skipped("", "retrieval model", "not concerned: no ranker in it")
            return
        if self.backend not in PROGRAMS:
            yield Skipped("", "ranker", "not applicable: a registered backend is checked on artifact directories")
            return
        try:
            yield from self._ranker(path, arrays, meta)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FixtureError(f"{path}: the entries do not fit the sizes in meta/config_json: {error!r}") from error

    def _ranker(self, path: Path, arrays: Arrays, meta: dict[str, Any]) -> Iterator[Line]:
        variants = [variant for variant in VARIANTS if f"out/f32/{variant}/logits" in arrays]
        if not variants:
            raise FixtureError(f"{path}: wanted out/f32/<variant>/logits, found no such entry")
        params, embeddings = params_under(arrays, "params/"), fields(path, arrays, Embeddings, "emb/")
        valid = entry(path, arrays, "mask/candidate_valid")
        slope, limits = tol.SIGMOID_SLOPE, self.limits
        for variant in variants:
            absent = OPTIONAL_INPUTS if variant == "base" else ()
            batch = fields(path, arrays, RankerBatch, "in/", without=absent)
            config = ranker_config(meta, "float32", VARIANTS[variant])
            logits, continuous = PROGRAMS[self.backend](config, params, self.precision)(batch, embeddings)
            probabilities = jax.nn.sigmoid(logits)
            prefix_of = f"out/f32/{variant}/"

            for output, found, scale in (
                ("logits", logits, 1.0),
                ("probs", probabilities, slope),
                ("continuous_preds", continuous, slope),
            ):
                if found is None or (output == "continuous_preds" and prefix_of + output not in arrays):
                    continue
                wanted = entry(path, arrays, prefix_of + output)
                mean = None if limits.mean is None else scale * limits.mean
                yield compare(variant, output, found, wanted, scale * limits.largest, mean_limit=mean, where=valid)
            if prefix_of + "ranked_indices" in arrays:
                yield compare_ranking(variant, probabilities, arrays, prefix_of, valid, 2 * slope * limits.largest)
        if any(name.startswith("inter/") for name in arrays):
            yield Skipped("", "inter/…", "not concerned: a backend gives no intermediate values")

    def directory(self, path: Path) -> Iterator[Line]:
        """Serve the ranker of an artifact directory and compare what comes out with ``expected.npz``.

        Raises:
            ArtifactError: if a model cannot be loaded.
            FixtureError: if the directory holds none, or its other files are incomplete.
            BackendError: if the backend cannot serve the ranker.
        """
        single = (path / "config.json").is_file()
        if not single and not ((path / "retrieval").is_dir() and (path / "ranker").is_dir()):
            raise FixtureError(
                f"{path}: wanted a directory with retrieval/ and ranker/, or with config.json, found neither. "
                "Name the artifact directory itself."
            )
        artifact = load_artifact(path if single else path / "ranker", default_positions="slot")
        if artifact.kind != "ranker":
            yield Skipped("", artifact.kind, "not concerned: no ranker in it")
            return
        expected_file = path / EXPECTED_FILE
        if single or not expected_file.is_file():
            yield self._runs(artifact)
            return
        yield Skipped("", "hashes, retrieval, corpus", "not concerned: no ranker in them")
        retrieval = load_artifact(path / "retrieval", kind="retrieval")
        expected = read_fixture(expected_file)
        names = sorted({name.split("/")[1] for name in expected if name.startswith("f32/")})
        if not names:
            raise FixtureError(f"{expected_file}: wanted f32/… entries, found none")
        served = self.serve(artifact, retrieval.config.candidate_seq_len)
        for name in names:
            sequence = read_sequence(path / f"{name}.json", retrieval.config)

            def wanted(output: str, name: str = name) -> Any:
                return entry(expected_file, expected, f"f32/{name}/{output}")

            try:
                yield from self._sequence(name.removesuffix("_sequence"), served, sequence, wanted)
            except (TypeError, ValueError, IndexError) as error:
                raise FixtureError(f"{path}: the files do not fit each other: {error!r}") from error

    def serve(self, artifact: Artifact, chunk: int) -> RankerBackend:
        """The backend over an artifact; in int8 the own ones quantise its tables too.

        Args:
            artifact: a ranker.
            chunk: candidates at a time.

        Raises:
            BackendError: if the backend refuses.
        """
        options = BackendOptions(self.precision, candidate_buckets=(chunk,))
        try:
            return make_backend(self.backend, artifact, options)
        except (TypeError, ValueError) as error:
            raise BackendError(f"backend {self.backend!r} refuses {self.precision}: {error}") from error

    def _sequence(
        self, label: str, served: RankerBackend, sequence: Sequence, wanted: Callable[[str], Any]
    ) -> Iterator[Line]:
        """One viewer, scored in chunks as published, one call each and then all in one."""
        posts, authors = wanted("ret_post_ids"), wanted("ret_author_ids")
        known, chunk = posts != 0, served.config.candidate_seq_len
        ids = np.where(known, posts, np.uint64(STAND_IN))
        history = History(sequence.post_ids, sequence.author_ids, sequence.actions)
        viewer = served.prepare(int(sequence.user_id[0]), history)
        chunks = [
            Items(ids[start : start + chunk], authors[start : start + chunk]) for start in range(0, len(ids), chunk)
        ]
        found = [served.score_prepared(viewer, items).probabilities for items in chunks]
        merged = [scores.probabilities for scores in served.score_many([(viewer, items) for items in chunks])]
        yield from compare_probabilities(label, np.concatenate(found), wanted, self.limits, known=known)
        limit, mean = self.limits.largest * tol.SIGMOID_SLOPE, self.limits.mean
        yield compare(
            label,
            "all_probs (score_many)",
            np.concatenate(merged),
            wanted("all_probs"),
            limit,
            mean_limit=None if mean is None else mean * tol.SIGMOID_SLOPE,
            where=known,
        )

    def _runs(self, artifact: Artifact) -> Result:
        """Without expected results all that can be said is that the backend serves finite numbers."""
        ids = np.arange(1, 5, dtype=np.uint64)
        history = History(ids, ids, np.eye(4, artifact.config.num_actions, dtype=np.float32))
        found = self.serve(artifact, len(ids)).score(1, history, Items(ids, ids)).logits
        note = f"loads and runs ({artifact.hash_params.item.vocab_size} item rows); no expected results to compare"
        return Result("", artifact.kind, float(np.sum(~np.isfinite(found))), 0, note=note)
