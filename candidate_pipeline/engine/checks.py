"""What components return, checked before it is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.candidates import Candidates
from candidate_pipeline.engine.plan import Node
from candidate_pipeline.errors import ContractError
from candidate_pipeline.keys import ITEM_ID, Key, key_names
from candidate_pipeline.patches import Patch, QueryPatch


def _undeclared(node: Node, written: Iterable[Key]) -> None:
    extra = sorted(set(written) - node.writes, key=lambda key: key.name)
    if extra:
        raise ContractError(f"{node.name} wrote {key_names(extra)}, which its writes do not declare")


def query_patch_of(node: Node, value: Any) -> QueryPatch:
    """A query hydrator's answer."""
    if not isinstance(value, QueryPatch):
        raise ContractError(f"{node.name}.hydrate: wanted query_patch(...), found {type(value).__name__}")
    _undeclared(node, set(value.updates))
    return value


def candidates_of(node: Node, value: Any) -> Candidates:
    """A source's answer."""
    if not isinstance(value, Candidates):
        raise ContractError(f"{node.name}.fetch: wanted Candidates, found {type(value).__name__}")
    _undeclared(node, set(value.columns) - {ITEM_ID})
    return value


def patch_of(node: Node, value: Any) -> Patch:
    """A hydrator's or scorer's answer."""
    if not isinstance(value, Patch):
        raise ContractError(f"{node.name}: wanted patch(...), found {type(value).__name__}")
    _undeclared(node, set(value.updates))
    return value


def mask_of(node: Node, value: Any, rows: int) -> NDArray[np.bool_]:
    """A filter's answer."""
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.shape != (rows,):
        raise ContractError(f"{node.name}.keep: wanted bool[{rows}], found {mask.dtype}{list(mask.shape)}")
    return mask


def indices_of(node: Node, value: Any, rows: int) -> NDArray[np.intp]:
    """A selector's answer."""
    index = np.asarray(value)
    if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
        raise ContractError(f"{node.name}.select: wanted int[k], found {index.dtype}{list(index.shape)}")
    index = index.astype(np.intp)
    if len(index) and (index.min() < 0 or index.max() >= rows):
        raise ContractError(f"{node.name}.select: wanted indices in 0..{rows - 1}, found {index.min()}..{index.max()}")
    if len(np.unique(index)) != len(index):
        raise ContractError(f"{node.name}.select: a row was selected twice")
    return index
