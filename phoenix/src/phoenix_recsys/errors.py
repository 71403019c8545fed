"""Errors of this library."""

from __future__ import annotations

from pathlib import Path

import attrs


class PhoenixError(Exception):
    """Base class of the errors this library raises on purpose."""


@attrs.define(eq=False)
class ArtifactError(PhoenixError):
    """A model file that cannot be used: which one, what was wanted, what was found, and what to do.

    Attributes:
        path: the file or directory.
        entry: the array, parameter or configuration key at fault, or None for the file as a whole.
        wanted: what a good file holds there.
        found: what this one holds.
        advice: what to do next.
    """

    path: Path
    entry: str | None
    wanted: str
    found: str
    advice: str

    def __attrs_post_init__(self) -> None:
        # Exception's own arguments, so that the error survives copying and shows in tracebacks.
        super().__init__(self.path, self.entry, self.wanted, self.found, self.advice)

    def __str__(self) -> str:
        where = f"{self.path}: {self.entry}" if self.entry else str(self.path)
        return f"{where}: wanted {self.wanted}, found {self.found}. {self.advice}"
