"""Quantising rows to int8 with one float32 scale each, block after block.

Symmetric: s = max|x| / 127, q = x / s rounded half to even, x ≈ s · q (post tables of the retrieval model in
x-algorithm, May 2026 release; row-wise tables: Guan et al. 2019, arXiv:1911.02079). V rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 16_384

Int8 = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]


def quantize_rows(block: npt.ArrayLike, *, first_row: int = 0, name: str = "table") -> tuple[Int8, Floats]:
    """Float rows [n, D] to int8 [n, D] and float32 scales [n]; a zero row has scale 0.

    |x − s·q| ≤ s/2, up to the rounding of float32.

    Args:
        block: any floating point dtype.
        first_row: number of the block's first row, for messages.
        name: the table's name, for messages.

    Raises:
        TypeError: if the values are not floating point.
        ValueError: if a row holds NaN or infinite values (in float32); gives its number.
    """
    given = np.asarray(block)
    # bfloat16 has kind V in numpy.
    if given.dtype.kind != "f" and given.dtype.name != "bfloat16":
        raise TypeError(f"{name}: wanted rows of floating point numbers, found {given.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite and is reported
        values = given.astype(np.float32, copy=False)
    largest = np.abs(values).max(axis=1, initial=0)
    bad = np.flatnonzero(~np.isfinite(largest))
    if bad.size:
        row = int(bad[0])
        column = int(np.flatnonzero(~np.isfinite(values[row]))[0])
        raise ValueError(
            f"{name}: wanted finite numbers in float32, found {given[row, column]} in row {first_row + row}, column "
            f"{column}, and {bad.size} such rows in this block. The training run diverged or the file is damaged."
        )
    scales = largest / np.float32(127)
    # Among subnormal numbers the quotient may have lost so much that 127 scales fall short of the row.
    short = scales.astype(np.float64) * 127.4 < largest
    scales[short] = np.nextafter(scales[short], np.float32(np.inf))
    # At the very top the quotient may be rounded up so far that 127 scales overflow.
    with np.errstate(over="ignore"):
        long = ~np.isfinite(scales * np.float32(127))
    scales[long] = np.nextafter(scales[long], np.float32(0))
    divisor = np.where(scales == 0, np.float32(1), scales)
    return np.rint(values / divisor[:, None]).astype(np.int8), scales


def dequantize(rows: Int8, scales: Floats) -> Floats:
    """Int8 [..., D] times float32 scales [...], float32 [..., D]."""
    found = rows.astype(np.float32)
    found *= scales[..., None]
    return found


def quantized_blocks(source: Any, chunk_rows: int = CHUNK_ROWS, name: str = "table") -> Iterator[tuple[Int8, Floats]]:
    """Quantise ``source`` block after block; at most ``chunk_rows`` float rows are held besides the source's own.

    Args:
        source: a float array [V, D] (numpy, mapped, JAX), or an iterable of rows [D] or of blocks [n, D].
        chunk_rows: positive.
        name: the table's name, for messages.

    Raises:
        TypeError: if the values are not floating point.
        ValueError: if a row is not finite or of another width, or there is no row.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be positive, found {chunk_rows}")
    done, width = 0, None
    for block in _float_blocks(source, chunk_rows):
        if block.ndim != 2 or block.shape[1] != (block.shape[1] if width is None else width):
            wanted = "[D]" if width is None else f"[{width}]"
            raise ValueError(f"{name}: wanted rows of shape {wanted}, found {list(block.shape[1:])} from row {done} on")
        width = block.shape[1]
        yield quantize_rows(block, first_row=done, name=name)
        done += len(block)
    if width is None:
        raise ValueError(f"{name}: wanted at least one row, found none")


def _float_blocks(source: Any, chunk_rows: int) -> Iterator[npt.NDArray[Any]]:
    if isinstance(source, (np.ndarray, jax.Array)):
        source = [source]
    pending: list[npt.NDArray[Any]] = []
    for part in source:
        if np.ndim(part) == 1:
            row = np.asarray(part)
            if pending and (len(pending) == chunk_rows or row.shape != pending[0].shape):
                yield np.stack(pending)
                pending.clear()
            pending.append(row.copy())  # an iterator may use one buffer for all its rows
            continue
        if pending:
            yield np.stack(pending)
            pending.clear()
        if np.ndim(part) == 0:
            raise ValueError(f"wanted rows [D] or blocks [n, D], found a single {type(part).__name__}")
        for start in range(0, len(part), chunk_rows):
            yield np.asarray(part[start : start + chunk_rows])
    if pending:
        yield np.stack(pending)
