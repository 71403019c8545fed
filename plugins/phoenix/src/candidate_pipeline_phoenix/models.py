"""The trained models as resources: loaded, checked and compiled when an application opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import numpy as np

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline.options import Doc
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_phoenix.heads import Heads

if TYPE_CHECKING:
    from phoenix_recsys.infer import Ranker, Retrieval


def _directory(path: Path | None, data: FeedTables, name: str) -> Path:
    directory = data.models / name if path is None else path
    if not directory.is_dir():
        what = "no such directory" if not directory.exists() else "something that is no directory"
        raise DataError(
            f"{directory}: wanted the directory of a trained {name} model, found {what}. {_advice(data)}, or name a "
            "model with the option `path`"
        )
    return directory


def _advice(data: FeedTables) -> str:
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

        directory = _directory(self.path, self.data, "retrieval")
        try:
            served = Retrieval.load(directory)
        except PhoenixError as error:
            raise DataError(f"{error} {_advice(self.data)}") from error
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
            raise DataError(f"{what}. {_advice(self.data)}")
        return float(np.exp(np.asarray(found)))


@attrs.define(eq=False)
class RankerModel:
    """The model that predicts what a viewer would do with a post.

    Args:
        data: The tables; trained models lie beside them.
        path: The model's directory.
    """

    data: FeedTables
    path: Annotated[Path | None, Doc("Directory of the model; default: models/ranker of the data directory.")] = None
    _served: Any = attrs.field(default=None, init=False, repr=False)
    _heads: Heads | None = attrs.field(default=None, init=False, repr=False)

    def open(self) -> None:
        """Load the model and compile it for every shape that is served.

        Raises:
            DataError: There is no model, its files are damaged, or the feed knows none of its actions.
        """
        from phoenix_recsys.errors import PhoenixError
        from phoenix_recsys.infer import Ranker

        directory = _directory(self.path, self.data, "ranker")
        try:
            served = Ranker.load(directory)
        except PhoenixError as error:
            raise DataError(f"{error} {_advice(self.data)}") from error
        heads = Heads.of(served.action_names, served.served_heads)
        if not heads.labels:
            names = ", ".join(served.action_names if served.served_heads is None else served.served_heads) or "none"
            raise DataError(
                f"{directory}: the feed knows none of the actions that this model predicts ({names}). "
                f"Name its heads with action_names in config.json. {_advice(self.data)}"
            )
        served.warm_up()
        self._served, self._heads = served, heads

    def close(self) -> None:
        """Let go of the model."""
        self._served = self._heads = None

    @property
    def served(self) -> Ranker:
        """The loaded model.

        Raises:
            MisconfigurationError: The resource is not open.
        """
        if self._served is None:
            raise MisconfigurationError("the ranker model is not open")
        model: Ranker = self._served
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
