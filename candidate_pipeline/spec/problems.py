"""Problems found in a spec: where, what, and what to do, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from candidate_pipeline.errors import MisconfigurationError

#: Every code and what it stands for. Codes are stable: one is never given a second meaning.
CODES: Final[Mapping[str, str]] = {
    "E100": "the file is not TOML, or cannot be read",
    "E101": "unknown key",
    "E102": "wrong type",
    "E103": "a key that must be given is missing",
    "E104": "the value is out of range",
    "E105": "the name is not well formed, or is used twice",
    "E106": "the schema version is not supported",
    "E107": "the override names nothing in the spec",
    "E200": "no such component",
    "E201": "the plugin that offers the name could not be loaded",
    "E202": "the component is of another kind than the place it stands in",
    "E203": "the component's class is not as its kind demands",
    "E204": "the component refused its options",
    "E205": "no such query feature or column",
    "E206": "no such resource, or resources that need each other",
    "E300": "a component reads what nobody writes",
    "E301": "a component reads what is written only later",
    "E302": "two components of one phase write the same column",
    "E303": "components of one stage need each other's output",
    "E304": "a timeout that cannot take effect",
    "E305": "timeouts that cannot fit the deadline",
    "E306": "a failure policy that the kind or the safety of a component forbids",
    "E307": "a fallback that does not exist or leads back to itself",
    "E308": "one component stands twice in a stage",
    "E309": "a cache whose key leaves out what the component reads",
    "E310": "a pipeline that cannot be part of another",
    "E311": "a setting that has no effect where it stands",
}


@attrs.frozen
class Location:
    """A place in a text: name of the text, line and column from 1, and the line itself."""

    name: str
    line: int = 0
    column: int = 0
    length: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name


@attrs.frozen
class Problem:
    """One mistake.

    Args:
        code: One of `CODES`.
        message: What was wanted and what was found.
        hint: What to do, or the nearest valid name; shown at the caret.
        location: Where.
        path: The dotted path in the spec.
    """

    code: str = attrs.field(validator=attrs.validators.in_(CODES))
    message: str
    location: Location
    hint: str = ""
    path: str = ""

    def render(self) -> str:
        """The problem as text: position, code, message, the line with a caret, the hint."""
        lines = [f"{self.location}: {self.code} {self.message}"]
        if self.location.text:
            gutter = f"{self.location.line:>6} | "
            shown = self.location.text.rstrip()
            lead = "".join("\t" if char == "\t" else " " for char in shown[: self.location.column - 1])
            width = max(1, min(self.location.length, len(shown) - self.location.column + 1))
            lines += [gutter + shown, f"       | {lead}{'^' * width} {self.hint}".rstrip()]
        elif self.hint:
            lines.append(f"       = {self.hint}")
        if self.path:
            lines.append(f"       = at {self.path}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain data, for editors and scripts."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "file": self.location.name,
            "line": self.location.line,
            "column": self.location.column,
            "path": self.path,
        }


class SpecError(MisconfigurationError):
    """A spec has mistakes; `problems` holds every one, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort and keep the problems."""
        self.problems = sorted(
            problems,
            key=lambda found: (found.location.name, found.location.line, found.location.column, found.code),
        )
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([*(problem.render() for problem in self.problems), f"{count} found"]))


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of some names, or a list of them when none is near and they are few."""
    candidates = sorted(set(names))
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close:  # `age` for `feed.age`: compare the part behind the namespace as well
        last = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
        close = [last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.7)]
    if close:
        return f"did you mean {close[0]!r}?"
    if 0 < len(candidates) <= 8:
        return f"one of: {', '.join(candidates)}"
    return ""
