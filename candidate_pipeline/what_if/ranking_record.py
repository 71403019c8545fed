"""Whether the record of a ranking is one: a capture may have been cut short, edited or forged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline.errors import DataError


def check_record(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], fates: int) -> None:
    """Refuse a header and arrays that no ranking has.

    Args:
        header: The header.
        arrays: The arrays by name.
        fates: The highest fate, which rows that filters dropped have.

    Raises:
        DataError: Something is not there, or of another type, length or range than a ranking's.
    """
    for name in ("pipeline", "request_id", "config_hash"):
        _want(isinstance(header.get(name), str), name, "text", header.get(name))
    _texts(header, "filters")
    _texts(header, "steps")
    rows = len(_array(arrays, "item_ids", np.int64, (None,)))
    which = _array(arrays, "fates", np.uint8, (rows,)).astype(np.int16)
    _want(
        not (which > fates).any() and not (np.diff(which) < 0).any(),
        "fates",
        f"a rise from 0 to {fates}",
        which.tolist(),
    )
    by, count = _array(arrays, "dropped_by", np.int16, (rows,)), len(header["filters"])
    of_rows = np.where(which == fates, (by >= 0) & (by < count), by == -1)
    _want(bool(of_rows.all()), "dropped_by", f"one of {count} filters for dropped rows alone", by.tolist())
    _array(arrays, "scores", np.float32, (rows,))
    for at in range(len(header["steps"])):
        _array(arrays, f"step{at}.before", np.float32, (rows,))
        _array(arrays, f"step{at}.after", np.float32, (rows,))
    terms = header.get("terms")
    _want(isinstance(terms, list), "terms", "a list", terms)
    for at, part in enumerate(header["terms"]):
        _want(isinstance(part, dict) and isinstance(part.get("factor"), bool), "terms", "tables with a factor", part)
        for name in ("column", "scorer"):
            _want(isinstance(part.get(name), str), f"terms: {name}", "text", part.get(name))
        _texts(part, "labels")
        _array(arrays, f"terms{at}", np.floating, (rows, len(part["labels"])))
    if "texts" in arrays:
        whole = _array(arrays, "texts", np.uint8, (None,))
        ends = _array(arrays, "text_ends", np.int64, (rows,))
        rising = not (np.diff(ends, prepend=0) < 0).any() and (int(ends[-1]) if rows else 0) == len(whole)
        _want(rising, "text_ends", f"a rise to {len(whole)}", ends.tolist())


def _want(fits: bool, name: str, wanted: str, found: Any) -> None:
    if not fits:
        raise DataError(f"the record of a ranking: {name}: wanted {wanted}, found {found!r:.80}")


def _texts(header: Mapping[str, Any], name: str) -> None:
    found = header.get(name)
    _want(isinstance(found, list) and all(isinstance(each, str) for each in found), name, "a list of texts", found)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    found = arrays.get(name)
    if found is None:
        raise DataError(f"the record of a ranking lacks {name!r}: it was cut short, or is something else")
    same = len(found.shape) == len(shape) and all(
        want in {None, side} for want, side in zip(shape, found.shape, strict=True)
    )
    wanted = f"{dtype.__name__}{['any' if side is None else side for side in shape]}"
    _want(same and np.issubdtype(found.dtype, dtype), name, wanted, f"{found.dtype}{list(found.shape)}")
    return found
