"""The plain forward pass as a backend: user, history and candidates in one sequence, jitted or op by op."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, BackendStats, Precision
from phoenix_recsys.config import FpropDtype, RankerConfig
from phoenix_recsys.inputs import RankerBatch, RetrievalBatch
from phoenix_recsys.quantized_weights import MATRICES
from phoenix_recsys.ranker import DWELL_SLOT, RankerOutput
from phoenix_recsys.requests import Floats, History, Items, Scores
from phoenix_recsys.served import (
    Served,
    Tables,
    bucket_for,
    checked_buckets,
    gather_all,
    on_host,
    pad_rows,
)
from phoenix_recsys.transforms import Params, ranker_transform
from phoenix_recsys.turns import Collected, Turn, device_calls, stacked_ids, stacked_ints

CANDIDATE_BUCKETS = (32, 256)


@attrs.frozen(eq=False)
class PreparedUser:
    """A viewer, hashed and padded: one row.

    Attributes:
        batch: user and history fields [1, ...].
        dwell_seconds: float32 [1, S].
    """

    batch: RetrievalBatch
    dwell_seconds: Floats

    @property
    def history_places(self) -> int:
        """The history bucket S."""
        places: int = self.dwell_seconds.shape[1]
        return places


class _PlainRanker(Served):
    """Histories are cut to the newest ``history_seq_len`` events and padded to a bucket; so are items.

    More items than the largest bucket holds are scored in turns. Under ``anchored`` and ``right`` positions neither
    shows in the scores. Under ``slot`` positions, where a score depends on the slot, there is one bucket of each: the
    configured history and candidate lengths, as in the published pipeline.
    """

    config: RankerConfig
    name: ClassVar[str]

    def __init__(self, artifact: Artifact, options: BackendOptions, held: Precision) -> None:
        if not isinstance(artifact.config, RankerConfig):
            raise TypeError(f"{type(self).__name__} wants a ranker artifact, found a retrieval one")
        self.config, self.precision = artifact.config, options.precision
        slot = self.config.positions == "slot"
        super().__init__(artifact, None if slot else options.history_buckets, held)
        self.full_window = options.full_window
        buckets = (self.config.candidate_seq_len,) if slot else options.candidate_buckets or CANDIDATE_BUCKETS
        self.candidate_buckets = checked_buckets("candidate_buckets", buckets)
        self.batch_buckets = checked_buckets("batch_buckets", options.batch_buckets)

    def prepare(self, user_id: int, history: History) -> PreparedUser:
        """Hash and pad a viewer.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        return PreparedUser(*self.user_side(user_id, history))

    def score_prepared(self, viewer: PreparedUser, items: Items) -> Scores:
        """Score n items, in any order and number."""
        return self.score_many([(viewer, items)])[0]

    def score(self, user_id: int, history: History, items: Items) -> Scores:
        """Prepare and score in one go.

        Raises:
            ValueError: if the history's actions do not fit the model.
        """
        return self.score_prepared(self.prepare(user_id, history), items)

    def score_many(self, requests: Sequence[tuple[PreparedUser, Items]]) -> list[Scores]:
        """Score several requests; those in the same buckets share a device call as far as ``batch_buckets`` allow."""
        shapes = (self.candidate_buckets, self.batch_buckets)
        may = self.config.release == "may"
        lengths = [len(items) for _, items in requests]
        collected = Collected(lengths, self.config.num_actions, self.config.num_continuous_actions if may else None)
        for turns in device_calls(requests, lambda viewer: viewer.history_places, *shapes):
            output = self._run(self._batch(turns))
            continuous = output.continuous_preds
            collected.add(turns, on_host(output.logits), None if continuous is None else on_host(continuous))
        return collected.scores()

    def warm_up(self) -> int:
        """Run every combination of buckets once; returns how many programs there are."""
        for length, count, rows in itertools.product(self.history_buckets, self.candidate_buckets, self.batch_buckets):
            ids = np.arange(1, count + 1, dtype=np.uint64)
            viewer = self.prepare(1, self.history_of(length))
            self.score_many([(viewer, Items(ids, ids))] * rows)
        return self.compilations

    def stats(self) -> BackendStats:
        """The counts; there is no cache."""
        return BackendStats(self.name, self.precision, self.compilations)

    def _run(self, batch: RankerBatch) -> RankerOutput:
        raise NotImplementedError

    def _batch(self, turns: Sequence[Turn[PreparedUser]]) -> RankerBatch:
        """One row for each turn, padded to a batch bucket with rows that hold nothing."""
        size = bucket_for(len(turns[0]), self.candidate_buckets)
        rows = bucket_for(len(turns), self.batch_buckets)

        def viewers(field: str) -> npt.NDArray[Any]:
            return pad_rows(np.concatenate([getattr(turn.viewer.batch, field) for turn in turns]), rows)

        may: dict[str, Any] = {}
        if self.config.release == "may":
            # Zeros mean unknown, so that a request with and one without times share one program.
            dwell = pad_rows(np.concatenate([turn.viewer.dwell_seconds for turn in turns]), rows)
            timed = np.zeros((*dwell.shape, DWELL_SLOT + 1), np.float32)
            timed[..., DWELL_SLOT] = dwell
            may = {
                "history_continuous_actions": timed,
                "candidate_impr_ts": stacked_ints(turns, "impression_ts", size, rows),
                "candidate_post_creation_ts": stacked_ints(turns, "creation_ts", size, rows),
            }
        return RankerBatch(
            **{field: viewers(field) for field in RetrievalBatch._fields},
            candidate_post_hashes=stacked_ids(turns, "ids", self.hash_params.hash_items, size, rows),
            candidate_author_hashes=stacked_ids(turns, "author_ids", self.hash_params.hash_authors, size, rows),
            candidate_product_surface=stacked_ints(turns, "surfaces", size, rows),
            **may,
        )


class JitRanker(_PlainRanker):
    """The plain forward pass, compiled for every combination of buckets; no work among candidates.

    Under ``bfloat16`` every product has bfloat16 inputs, the projections of looked-up rows and the heads included;
    activations stay float32.

    Args:
        artifact: a loaded ranker; its ``fprop_dtype`` is not read.
        options: precision and buckets.

    Raises:
        TypeError: if the artifact is no ranker.
        ValueError: if a table or parameter to be quantised is not finite.
    """

    name = "jit"

    def __init__(self, artifact: Artifact, options: BackendOptions | None = None) -> None:
        options = options or BackendOptions()
        super().__init__(artifact, options, options.precision)
        self.params = jit_params(self.params, self.precision)
        model = jit_model(self.config, self.precision)

        def run(params: Params, tables: Tables, batch: RankerBatch) -> RankerOutput:
            self.count_compilation()
            output: RankerOutput = model.apply(params, batch, gather_all(tables, batch))
            return output

        self._jitted = jax.jit(run)

    def lowered(self, turns: Sequence[Turn[PreparedUser]]) -> jax.stages.Lowered:
        """The program of one device call, for those who want to read what it is compiled to."""
        return self._jitted.lower(self.params, self.tables, self._batch(turns))

    def _run(self, batch: RankerBatch) -> RankerOutput:
        output: RankerOutput = self._jitted(self.params, self.tables, batch)
        return output


class EagerRanker(_PlainRanker):
    """The plain forward pass op by op in the published order of operations, with dense attention; never compiled.

    Under ``bfloat16`` it rounds where the published code rounds: projections and heads stay float32, outputs are
    bfloat16. Slow, and the yardstick of all others.

    Args:
        artifact: a loaded ranker; its ``fprop_dtype`` is not read.
        options: precision and buckets.

    Raises:
        TypeError: if the artifact is no ranker.
        ValueError: if a table or parameter to be quantised is not finite.
    """

    name = "eager"

    def __init__(self, artifact: Artifact, options: BackendOptions | None = None) -> None:
        options = options or BackendOptions()
        # The published code looks up float32 rows, and so does this one.
        super().__init__(artifact, options, "int8" if options.precision == "int8" else "float32")
        self._model = eager_model(self.config, self.precision)

    def _run(self, batch: RankerBatch) -> RankerOutput:
        output: RankerOutput = self._model.apply(self.params, batch, gather_all(self.tables, batch))
        return output


def eager_model(config: RankerConfig, precision: Precision) -> hk.Transformed:
    """The published program; ``bfloat16`` is the dtype of its activations, and ``fprop_dtype`` is not read."""
    return ranker_transform(attrs.evolve(config, fprop_dtype="bfloat16" if precision == "bfloat16" else "float32"))


def jit_model(config: RankerConfig, precision: Precision) -> hk.Transformed:
    """The same for compilation, with parameters of :func:`jit_params`; ``fprop_dtype`` is not read.

    Activations are float32 under any precision: only inputs of products are rounded, which loses less, and on a CPU
    costs nothing, since it computes everything else in float32 anyway.
    """
    products: FpropDtype = "bfloat16" if precision == "bfloat16" else "float32"
    config = attrs.evolve(config, fprop_dtype="float32")
    return ranker_transform(config, attention="split", attention_products=products)


def jit_params(params: Params, precision: Precision) -> Params:
    """Parameters on the device as the compiled program takes them: under ``bfloat16`` with matrices rounded once."""
    if precision != "bfloat16":
        return params
    # The two beside the quantisable ones are small, but would be float32 products of their own.
    names = MATRICES | {"action_projection", "history_dwell_time_proj2"}
    return {
        module: {name: value.astype(jnp.bfloat16) if name in names else value for name, value in entries.items()}
        for module, entries in params.items()
    }
