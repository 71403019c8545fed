"""Shared by the tests of quantised artifacts: comparing and changing them."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import QuantizedMatrix, quantize_params


def in_memory(artifact: Artifact) -> Artifact:
    """An artifact quantised without a disk, as `quantize_artifact` does it."""
    params = quantize_params(artifact.params) if artifact.kind == "ranker" else artifact.params
    tables = QuantizedTables.quantize(*map(np.asarray, artifact.float_tables))
    return attrs.evolve(artifact, params=params, tables=tables)


def assert_same(one: Artifact, other: Artifact) -> None:
    """Equal configuration, description, and bits of every parameter and table."""
    assert (one.config, one.hash_params, one.served_heads) == (other.config, other.hash_params, other.served_heads)
    assert one.metadata == other.metadata
    assert {m: sorted(e) for m, e in one.params.items()} == {m: sorted(e) for m, e in other.params.items()}
    for module, entries in one.params.items():
        for name, value in entries.items():
            theirs = other.params[module][name]
            assert isinstance(value, QuantizedMatrix) == isinstance(theirs, QuantizedMatrix)
            parts = zip(value, theirs, strict=True) if isinstance(value, QuantizedMatrix) else [(value, theirs)]
            for mine, their in parts:
                np.testing.assert_array_equal(mine, their, strict=True)
    assert isinstance(one.tables, QuantizedTables)
    assert isinstance(other.tables, QuantizedTables)
    for mine, their in zip(one.tables.tables, other.tables.tables, strict=True):
        np.testing.assert_array_equal(mine.rows, their.rows, strict=True)
        np.testing.assert_array_equal(mine.scales, their.scales, strict=True)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def edit_config(directory: Path, **changes: object) -> None:
    """Change entries of config.json; those that become ... are removed."""
    path = directory / "config.json"
    entries = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not ...}))
