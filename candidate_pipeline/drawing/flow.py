"""Which keys flow from whom to whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import attrs

from candidate_pipeline.keys import ITEM_ID, TOPPED_UP, Column, Key

#: By key, the nodes that wrote it last: several where they run together or one takes over from the other.
Writers: TypeAlias = dict[Key, tuple[str, ...]]


@attrs.define
class Flow:
    """Keys on their way through one pipeline, step by step; what runs together is one step.

    Args:
        writers: Who wrote each key last, before the current step.
        fresh: Who writes each key in the current step.
        step: The current step's number.
        last_read: The last step in which each key is read.
        written: Who wrote what in which step.
    """

    writers: Writers = attrs.field(factory=dict)
    fresh: Writers = attrs.field(factory=dict)
    step: int = 0
    last_read: dict[Key, int] = attrs.field(factory=dict)
    written: list[tuple[str, Key, int]] = attrs.field(factory=list)

    def read(self, keys: Iterable[Key]) -> None:
        """Somebody reads keys in this step."""
        self.last_read |= dict.fromkeys(keys, self.step)

    def write(self, node: str, keys: Iterable[Key], *, beside: bool = False) -> None:
        """A node writes keys, which later steps find; `beside`: next to what there is, instead of over it."""
        for key in dict.fromkeys(keys):
            before = self.fresh.get(key, self.writers.get(key, ()) if beside else ())
            self.fresh[key] = (*before, node)
            self.written.append((node, key, self.step))

    def next_step(self) -> None:
        """What runs at one time has run."""
        self.writers |= self.fresh
        self.fresh = {}
        self.step += 1

    def unread(self) -> Iterator[tuple[str, Key]]:
        """Who wrote what nobody reads later. The terms of a score are for whoever asks to have it explained."""
        for node, key, step in self.written:
            explains = isinstance(key, Column) and key.terms_of is not None
            if self.last_read.get(key, -1) <= step and key not in {ITEM_ID, TOPPED_UP} and not explains:
                yield node, key
