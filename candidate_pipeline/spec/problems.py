"""Problems found in a spec: where, what, and what to do, all of them at once."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import attrs

from candidate_pipeline.errors import MisconfigurationError

#: Every code and what it stands for; each has a page in `candidate_pipeline/codes`. Codes are stable: one is never
#: given a second meaning. E: a mistake, without which nothing runs. W: a warning of `candidate-pipeline check`.
CODES: Final[Mapping[str, str]] = {
    "E100": "the file is not TOML, or cannot be read",
    "E101": "unknown key",
    "E102": "wrong type",
    "E103": "a key that must be given is missing",
    "E104": "the value is out of range",
    "E105": "the name is not well formed, or is used twice",
    "E106": "the schema version is not supported",
    "E107": "the override names nothing in the spec",
    "E108": "a base that `extends` names cannot be used",
    "E109": "an environment variable that is missing or does not fit",
    "E110": "a list entry that refers to a base's list wrongly",
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
    "W400": "a component table that nothing uses",
    "W401": "a resource that nothing uses",
    "W402": "a component whose output nobody reads",
    "W403": "a hydrator that could run after selection",
    "W404": "a score that is overwritten unread",
    "W405": "a call that may wait for ever",
    "W406": "an input that nobody reads",
    "W407": "a setting that nothing comes of",
}

#: Longer lines are shown around the mistake, and longer messages cut, lest a small file give gigabytes of text.
_LONGEST_LINE: Final = 240
_BEFORE: Final = 80
_LONGEST: Final = 2000


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


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
    """One mistake, or something that `candidate-pipeline check` warns of.

    Args:
        code: One of `CODES`.
        message: What was wanted and what was found.
        hint: What to do, or the nearest valid name; shown at the caret.
        location: Where.
        path: The dotted path in the spec.
    """

    code: str = attrs.field(validator=attrs.validators.in_(CODES))
    message: str = attrs.field(converter=_shortened)
    location: Location
    hint: str = attrs.field(default="", converter=_shortened)
    path: str = attrs.field(default="", converter=_shortened)

    @property
    def severity(self) -> Literal["error", "warning"]:
        """Whether it keeps the spec from running."""
        return "warning" if self.code.startswith("W") else "error"

    def render(self) -> str:
        """The problem as text: position, code, message, the line with a caret, the hint."""
        lines = [_visible(f"{self.location}: {self.code} {self.message}")]
        if self.location.text:
            shown, carets = _excerpt(self.location)
            lines.append(f"{self.location.line:>6} | {shown}")
            lines.append(f"       | {carets} {_visible(self.hint)}".rstrip())
        elif self.hint:
            lines.append(f"       = {_visible(self.hint)}")
        if self.path:
            lines.append(f"       = at {_visible(self.path)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The problem as plain data, for editors and scripts."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
            "file": self.location.name,
            "line": self.location.line,
            "column": self.location.column,
            "path": self.path,
        }


def _excerpt(location: Location) -> tuple[str, str]:
    """A line as it is shown, of a long one what is around the mistake, and the carets under the mistake."""
    text, start = location.text.rstrip(), location.column - 1
    end = max(start + 1, min(start + location.length, len(text)))
    left, right = "", ""
    if len(text) > _LONGEST_LINE:
        first = max(0, min(start - _BEFORE, len(text) - _LONGEST_LINE))
        last = first + _LONGEST_LINE
        left, right = "…" if first else "", "…" if last < len(text) else ""
        text, start, end = text[first:last], start - first, min(end, last) - first
    shown = "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)
    lead = "".join("\t" if char == "\t" else " " * _cells(char) for char in left + shown[:start])
    width = max(1, sum(_cells(char) for char in shown[start:end]))
    return left + shown + right, lead + "^" * width


def _cells(char: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _visible(text: str) -> str:
    """A text whose control and formatting characters a terminal shows instead of obeying them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the text; one that several pipelines inherit is one problem."""
    distinct: dict[tuple[object, ...], Problem] = {}
    for each in problems:
        distinct.setdefault((each.code, each.message, each.location, each.hint), each)
    return sorted(
        distinct.values(),
        key=lambda found: (found.location.name, found.location.line, found.location.column, found.code),
    )


class SpecError(MisconfigurationError):
    """A spec has mistakes; `problems` holds every one, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort and keep the problems."""
        self.problems = in_order(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([*(problem.render() for problem in self.problems), f"{count} found"]))


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of some names, or a list of them when none is near and they are few."""
    candidates = sorted(set(names))
    close = [found for found in difflib.get_close_matches(name, candidates, cutoff=0.6) if _is_near(name, found)]
    if not close:  # `age` for `feed.age`: compare the part behind the namespace as well
        last = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
        close = [last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.7)]
    if close:
        return f"did you mean {close[0]!r}?"
    if 0 < len(candidates) <= 8:
        return f"one of: {', '.join(candidates)}"
    return ""


def _is_near(name: str, other: str) -> bool:
    """Whether two names are near in more than their namespace."""
    space, _, last = name.rpartition(".")
    other_space, _, other_last = other.rpartition(".")
    return not space or space != other_space or difflib.SequenceMatcher(None, last, other_last).ratio() >= 0.6
