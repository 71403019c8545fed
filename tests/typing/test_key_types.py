"""The typed examples also run: what mypy is told is so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from candidate_pipeline import ITEM_ID, Candidates, ContractError, Query


def test_typed_examples_run() -> None:
    """The calls whose types mypy checks in `key_types.py` work, up to the one that is wrong on purpose."""
    spec = importlib.util.spec_from_file_location("key_types", Path(__file__).with_name("key_types.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    query = Query(features={module.BUDGET: 2.0})
    candidates = Candidates.of(
        ITEM_ID([1]),
        module.PRICE([1.0]),
        module.IN_STOCK([True]),
        module.ODDS([[0.5, 0.5]]),
        module.GAIN["buyer"]([1.0]),
        module.SCORE([1.0]),
    )
    assert candidates[module.ODDS].dtype == np.float64
    with pytest.raises(ContractError, match=r"typed\.name: wanted str, found int 3"):
        module.check(query, candidates)
