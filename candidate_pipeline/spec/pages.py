"""The page of each code: what it means, a spec that causes it, what is printed, and the mended spec."""

from __future__ import annotations

import difflib
import re
from importlib import resources

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.spec.problems import CODES


def page(code: str) -> str:
    """The page of a code, as Markdown.

    Args:
        code: One of `CODES`, in upper or lower case.

    Raises:
        MisconfigurationError: There is no such code.
    """
    known = code.strip().upper()
    if known not in CODES:
        near = _nearest(known)
        raise MisconfigurationError(f"no code {code!r}: did you mean {near} ({CODES[near]})?\nThere are {_ranges()}.")
    return resources.files("candidate_pipeline").joinpath("codes", f"{known}.md").read_text(encoding="utf-8")


def _nearest(text: str) -> str:
    """The nearest code: of its letter, if it has one, with the nearest number."""
    match = re.fullmatch(r"([A-Z]?)-?([0-9]{1,3})", text)
    if match is None:
        return difflib.get_close_matches(text, CODES, n=1, cutoff=0.0)[0]
    letter, number = match[1], int(match[2])
    return min(CODES, key=lambda code: (bool(letter) and code[0] != letter, abs(int(code[1:]) - number)))


def _ranges() -> str:
    """Every code, runs of them shortened: `E100-E110`."""
    runs: list[list[str]] = []
    for code in CODES:
        if runs and runs[-1][-1][0] == code[0] and int(runs[-1][-1][1:]) + 1 == int(code[1:]):
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
