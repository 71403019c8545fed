"""A reader of Graphviz's language, as far as drawings of pipelines use it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import attrs

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9.]+)|(?P<mark>->|[{}\[\]=,;])""",
    re.DOTALL,
)
Attributes = dict[str, str]


@attrs.define
class DotGraph:
    """What was read: the nodes and arrows of the whole file, and the clusters with their labels and members."""

    nodes: dict[str, Attributes] = attrs.field(factory=dict)
    arrows: list[tuple[str, str, Attributes]] = attrs.field(factory=list)
    clusters: dict[str, str] = attrs.field(factory=dict)
    members: dict[str, list[str]] = attrs.field(factory=dict)


def tokens(text: str) -> Iterator[str]:
    """The tokens of a file; fails on whatever the language does not have."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None, f"not DOT: {text[at : at + 40]!r}"
        if found.lastgroup != "space":
            yield found.group()
        at = found.end()


def label_lines(quoted: str) -> list[str]:
    """The lines that a label is shown as."""
    assert quoted.startswith('"')
    lines = [""]
    for letter in re.findall(r"\\.|[^\\]", quoted[1:-1], re.DOTALL):
        if letter == "\\n":
            lines.append("")
        else:
            assert len(letter) == 1 or letter[1] in '\\"', f"{letter} means something else in a label"
            lines[-1] += letter[-1]
    return [html.unescape(line) for line in lines]


def read_dot(text: str) -> DotGraph:
    """The graph that a file describes."""
    found, stack = DotGraph(), [""]
    left = list(tokens(text))
    assert left[0] == "digraph"
    assert left[2] == "{"
    left = left[3:]
    while left:
        word = left.pop(0)
        if word == "}":
            stack.pop()
        elif word == "subgraph":
            stack.append(left.pop(0))
            assert left.pop(0) == "{"
            found.members[stack[-1]] = []
        elif left and left[0] == "=":
            found.clusters[stack[-1]] = left[1]
            left = left[2:]
        elif left and left[0] == "->":
            end = left[1]
            attributes, left = _attributes(left[2:])
            found.arrows.append((word, end, attributes))
        else:
            attributes, left = _attributes(left)
            if word not in {"graph", "node", "edge"}:
                assert word not in found.nodes
                found.nodes[word] = attributes
                found.members.setdefault(stack[-1], []).append(word)
    assert not stack
    return found


def _attributes(left: list[str]) -> tuple[Attributes, list[str]]:
    found: Attributes = {}
    if not left or left[0] != "[":
        return found, left
    end = left.index("]")
    inside = left[1:end]
    for at in range(0, len(inside), 4):
        name, equals, value, *comma = inside[at : at + 4]
        assert equals == "="
        assert comma in ([], [","])
        found[name] = value
    return found, left[end + 1 :]
