"""The trained models as resources: loaded, checked and compiled when an application opens."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import numpy as np
from annotated_types import Ge, MinLen

from candidate_pipeline.components import ReportValue
from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline.options import Doc
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.batched import BatchedRanker, Batching
from candidate_pipeline_phoenix.heads import Heads
from candidate_pipeline_phoenix.reports import backend_report

if TYPE_CHECKING:
    from phoenix_recsys.backend import BackendOptions, RankerBackend, Viewer
    from phoenix_recsys.infer import Retrieval
    from phoenix_recsys.requests import History as ModelHistory
    from phoenix_recsys.requests import Items, Scores

_MEBIBYTE = 1 << 20


def model_directory(path: Path | None, data: FeedTables, name: str) -> Path:
    """Where a trained model is: at a path or, without one, beside the tables.

    Raises:
        DataError: There is no such directory.
    """
    directory = data.models / name if path is None else path
    if not directory.is_dir():
        what = "no such directory" if not directory.exists() else "something that is no directory"
        raise DataError(
            f"{directory}: wanted the directory of a trained {name} model, found {what}. {advice(data)}, or name a "
            "model with the option `path`"
        )
    return directory


def advice(data: FeedTables) -> str:
    """What to do where a model is missing or broken."""
    return f"Train one with: candidate-pipeline phoenix train --data {data.path}"


@attrs.define(eq=False)
class RetrievalModel:
    """The two towers that say which posts may interest a viewer.

    Args:
        data: The tables; trained models lie beside them.
        path: The model's directory.
    """

    data: FeedTables
    path: Annotated[Path | None, Doc("Directory of the model; default: models/retrieval of the data directory.")] = None
    _served: Any = attrs.field(default=None, init=False, repr=False)

    def open(self) -> None:
        """Load the model and compile it for every shape that is served.

        Raises:
            DataError: There is no model, or its files are damaged.
        """
        from phoenix_recsys.errors import PhoenixError
        from phoenix_recsys.infer import Retrieval

        directory = model_directory(self.path, self.data, "retrieval")
        try:
            served = Retrieval.load(directory)
        except PhoenixError as error:
            raise DataError(f"{error} {advice(self.data)}") from error
        served.warm_up()
        self._served = served

    def close(self) -> None:
        """Let go of the model."""
        self._served = None

    @property
    def served(self) -> Retrieval:
        """The loaded model.

        Raises:
            MisconfigurationError: The resource is not open.
        """
        if self._served is None:
            raise MisconfigurationError("the retrieval model is not open")
        model: Retrieval = self._served
        return model

    @property
    def temperature(self) -> float:
        """What divides inner products in the softmax that the model was trained with.

        Raises:
            DataError: The model does not say; it was not trained here, or not with a learned temperature.
        """
        found = self.served.params.get("~", {}).get("log_temperature")
        if found is None:
            what = "the retrieval model does not say its temperature (~/log_temperature)"
            raise DataError(f"{what}. {advice(self.data)}")
        return float(np.exp(np.asarray(found)))


def _check_backend(_: object, attribute: attrs.Attribute[str], name: str) -> None:
    """Refuse a backend that nobody registered, before anything is opened; imports no JAX."""
    from phoenix_recsys.backend_registry import find_backend
    from phoenix_recsys.errors import PhoenixError

    try:
        find_backend(name)
    except PhoenixError as error:
        raise ValueError(f"{attribute.name}: {error}") from error


@attrs.define(eq=False)
class RankerModel:
    """The model that predicts what a viewer would do with a post.

    A backend serves it: `eager` and `jit` run the plain forward pass, op by op and compiled; `kv_cache` encodes a
    viewer's history once, keeps it, and scores candidates against it. Installed distributions may register others.

    With a table `batching` the requests that are served at the same time are scored in common calls. How many these
    can be is what the ranker's `run.threads` says (4).
    """

    data: FeedTables
    path: Annotated[Path | None, Doc("Directory of the model; default: models/ranker of the data directory.")] = None
    backend: Annotated[str, Doc("What computes: eager, jit, kv_cache, or one that a distribution registers.")] = (
        attrs.field(default="kv_cache", validator=_check_backend)
    )
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"],
        Doc("Of the inputs of products. bfloat16 is faster, int8 also smaller; both rank nearly as float32 does."),
    ] = "float32"
    candidate_buckets: Annotated[
        tuple[Annotated[int, Ge(1)], ...] | None,
        MinLen(1),
        Doc("Numbers of candidates to compile for; others are padded. Default: the backend's own."),
    ] = None
    history_buckets: Annotated[
        tuple[Annotated[int, Ge(1)], ...] | None,
        MinLen(1),
        Doc("Lengths of histories to compile for, beside the longest that the model reads. Default: that one alone."),
    ] = None
    cache_mib: Annotated[int, Ge(0), Doc("Room for encoded histories; 0 keeps none.", unit="MiB")] = 256
    item_cache_mib: Annotated[
        int, Ge(0), Doc("Room for the part of a candidate's work that depends on no viewer; 0 keeps none.", unit="MiB")
    ] = 0
    most_new_events: Annotated[
        int, Ge(0), Doc("A kept history that grew by up to so many events is extended, not encoded again.")
    ] = 16
    full_window: Annotated[
        Literal["slide", "eighths"],
        Doc(
            "What is read of a history longer than the model's window: its newest events, or, an eighth of the window "
            "at a time dropped, somewhat fewer, so that a kept history can be extended (histories must come uncut)."
        ),
    ] = "slide"
    compilation_cache: Annotated[
        Path | None,
        Doc("Directory for compiled programs, so that a second start compiles less; nobody else may write there."),
    ] = None
    batching: Annotated[
        Batching | None,
        Doc(
            "Score requests that are served at the same time together: a table of max_requests, max_candidates, "
            "max_wait, max_queue, margin."
        ),
    ] = None
    _served: Any = attrs.field(default=None, init=False, repr=False)
    _heads: Heads | None = attrs.field(default=None, init=False, repr=False)
    _batched: BatchedRanker | None = attrs.field(default=None, init=False, repr=False)

    def open(self) -> Awaitable[None] | None:
        """Load the model and compile it for every shape that is served.

        Returns:
            With `batching`, what is left to do on the event loop.

        Raises:
            DataError: There is no model, its files are damaged, or the feed knows none of its actions.
            MisconfigurationError: The backend cannot be loaded, or refuses the options.
        """
        served = self._load(model_directory(self.path, self.data, "ranker"))
        self._served, self._heads = served, self._heads_of(served)
        served.warm_up()
        if self.batching is None:
            return None
        self._batched = BatchedRanker(served, self.batching)
        return self._batched.open()

    def _load(self, directory: Path) -> RankerBackend:
        from phoenix_recsys.backend_registry import BackendError, load_ranker
        from phoenix_recsys.errors import PhoenixError

        self._keep_programs()
        try:
            return load_ranker(directory, self.backend, self._options())
        except BackendError as error:
            raise MisconfigurationError(f"backend: {error}") from error
        except PhoenixError as error:
            raise DataError(f"{error} {advice(self.data)}") from error
        except ValueError as error:
            chosen = ", ".join(f"{name} = {value!r}" for name, value in self._settings().items())
            raise MisconfigurationError(
                f"the backend {self.backend!r} cannot serve {directory} with {chosen}: {error}. Change the option that "
                "it names, leave it at its default, or choose another backend"
            ) from error

    def _keep_programs(self) -> None:
        if self.compilation_cache is None:
            return
        from phoenix_recsys.compilation_cache import use_compilation_cache
        from phoenix_recsys.errors import PhoenixError

        try:
            use_compilation_cache(self.compilation_cache)
        except PhoenixError as error:
            raise MisconfigurationError(f"compilation_cache: {error}") from error

    def _settings(self) -> dict[str, Any]:
        """What is set otherwise than by default, and the precision in any case."""
        names = (
            "candidate_buckets",
            "history_buckets",
            "cache_mib",
            "item_cache_mib",
            "most_new_events",
            "full_window",
            "batching",
        )
        fields = attrs.fields_dict(type(self))
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != fields[name].default}
        return {"precision": self.precision, **changed}

    def _options(self) -> BackendOptions:
        from phoenix_recsys.backend import BackendOptions

        return BackendOptions(
            precision=self.precision,
            candidate_buckets=self.candidate_buckets,
            history_buckets=self.history_buckets,
            batch_buckets=(1,) if self.batching is None else self.batching.buckets,
            cache_bytes=self.cache_mib * _MEBIBYTE,
            item_cache_bytes=self.item_cache_mib * _MEBIBYTE,
            most_new_events=self.most_new_events,
            full_window=self.full_window,
        )

    def _heads_of(self, served: RankerBackend) -> Heads:
        heads = Heads.of(served.action_names, served.served_heads)
        if not heads.labels:
            names = ", ".join(served.action_names if served.served_heads is None else served.served_heads) or "none"
            raise DataError(
                f"{model_directory(self.path, self.data, 'ranker')}: the feed knows none of the actions that this "
                f"model predicts ({names}). Name its heads with action_names in config.json. {advice(self.data)}"
            )
        return heads

    def close(self) -> Awaitable[None] | None:
        """Let go of the model; with `batching` requests that are under way are answered first."""
        batched, self._batched = self._batched, None
        if batched is not None:
            return self._close_after(batched)
        self._served = self._heads = None
        return None

    async def _close_after(self, batched: BatchedRanker) -> None:
        try:
            await batched.close()
        finally:
            self._served = self._heads = None

    @property
    def served(self) -> RankerBackend:
        """The loaded model.

        Raises:
            MisconfigurationError: The resource is not open.
        """
        if self._served is None:
            raise MisconfigurationError("the ranker model is not open")
        model: RankerBackend = self._served
        return model

    @property
    def heads(self) -> Heads:
        """The heads that it serves to the feed.

        Raises:
            MisconfigurationError: The resource is not open.
        """
        if self._heads is None:
            raise MisconfigurationError("the ranker model is not open")
        return self._heads

    def prepare_viewer(self, viewer_id: int, history: ModelHistory) -> Viewer:
        """What can be done for a viewer before candidates are known; `kv_cache` encodes the history here."""
        return self.served.prepare(viewer_id, history)

    def score(self, viewer: Viewer, items: Items, *, viewer_id: int, deadline: float | None = None) -> Scores:
        """Score items for a prepared viewer; with `batching` in a call with others. Blocks until there is a result.

        Args:
            viewer: What `prepare_viewer` made.
            items: What to score.
            viewer_id: Whose request it is: viewers take turns.
            deadline: When the scores are worth nothing any more, in the event loop's time; read with `batching`.

        Raises:
            CandidatePipelineError: With `batching`: the deadline cannot be kept, or too much waits.
        """
        batched = self._batched
        if batched is None:
            return self.served.score_prepared(viewer, items)
        return batched.score(viewer, items, viewer_id, deadline)

    def report(self) -> dict[str, ReportValue]:
        """The backend that serves, its precision, caches and batches."""
        said = backend_report(self.served.stats())
        return said if self._batched is None else {**said, **self._batched.report()}
