"""What the store keeps of a post: a table of numpy columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.records import Items

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


def _int64(values: Sequence[int] | NDArray[np.integer]) -> Int64:
    array = np.asarray(values)
    if array.dtype == np.uint64:
        return array.view(np.int64)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"ids and times of posts are integers, found an array of {array.dtype}")
    return array.astype(np.int64)


def _mask(values: Sequence[bool] | Mask) -> Mask:
    return np.asarray(values, np.bool_)


@attrs.frozen(eq=False)
class Posts:
    """Posts, one row each, in any order. In every id column 0 means that there is none or that nobody knows.

    Args:
        item_id: The post, int64 [n], never 0.
        author_id: Who posted it, int64 [n].
        created_at: When, milliseconds since 1970-01-01 UTC, int64 [n].
        reply_to: The post it answers, int64 [n].
        reply_to_author: Who posted that, int64 [n]; where it is 0 the store asks the post it answers.
        conversation_id: First post of its conversation, int64 [n].
        repost_of: The original it passes on, int64 [n].
        repost_author: Who posted that, int64 [n]; where it is 0 the store asks the original.
        has_video: Whether it carries a video of its own that is long enough to count, bool [n].
    """

    item_id: Int64 = attrs.field(converter=_int64)
    author_id: Int64 = attrs.field(converter=_int64)
    created_at: Int64 = attrs.field(converter=_int64)
    reply_to: Int64 = attrs.field(converter=_int64)
    reply_to_author: Int64 = attrs.field(converter=_int64)
    conversation_id: Int64 = attrs.field(converter=_int64)
    repost_of: Int64 = attrs.field(converter=_int64)
    repost_author: Int64 = attrs.field(converter=_int64)
    has_video: Mask = attrs.field(converter=_mask)

    def __attrs_post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in attrs.fields(type(self))}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of posts differ in length: {lengths}")
        if not self.item_id.all():
            raise ValueError(f"post id 0 means 'none', found it in row {int(np.argmin(self.item_id != 0))}")

    def __len__(self) -> int:
        return len(self.item_id)

    @classmethod
    def of(
        cls,
        item_id: Sequence[int] | Int64,
        author_id: Sequence[int] | Int64,
        created_at: Sequence[int] | Int64,
        *,
        reply_to: Sequence[int] | Int64 | None = None,
        reply_to_author: Sequence[int] | Int64 | None = None,
        conversation_id: Sequence[int] | Int64 | None = None,
        repost_of: Sequence[int] | Int64 | None = None,
        repost_author: Sequence[int] | Int64 | None = None,
        has_video: Sequence[bool] | Mask | None = None,
    ) -> Self:
        """Posts from columns; those left out are 0 or false everywhere."""
        none = np.zeros(len(item_id), np.int64)
        return cls(
            item_id,
            author_id,
            created_at,
            none if reply_to is None else reply_to,
            none if reply_to_author is None else reply_to_author,
            none if conversation_id is None else conversation_id,
            none if repost_of is None else repost_of,
            none if repost_author is None else repost_author,
            none.astype(np.bool_) if has_video is None else has_video,
        )

    @classmethod
    def from_items(cls, items: Items, min_video_ms: int) -> Self:
        """Posts from the items table.

        Args:
            items: The table.
            min_video_ms: A shorter video does not count.
        """

        def ids(name: str) -> Int64:
            return np.where(items.is_valid(name), items.column(name), 0)

        return cls.of(
            items.item_id,
            items.author_id,
            items.created_at,
            reply_to=ids("reply_to"),
            conversation_id=ids("conversation_id"),
            repost_of=ids("repost_of"),
            has_video=items.is_valid("video_duration_ms") & (items.video_duration_ms >= min_video_ms),
        )

    @classmethod
    def none(cls) -> Self:
        """No posts."""
        return cls.of([], [], [])

    def take(self, rows: NDArray[np.integer] | Mask) -> Self:
        """The rows given by index or by mask, in that order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in attrs.fields(type(self))))

    def joined(self, other: Posts) -> Self:
        """These posts, then the other ones."""
        columns = (field.name for field in attrs.fields(type(self)))
        return type(self)(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns))

    @property
    def is_reply(self) -> Mask:
        """Which answer another post, bool [n]."""
        mask: Mask = self.reply_to != 0
        return mask

    @property
    def is_repost(self) -> Mask:
        """Which pass another post on, bool [n]."""
        mask: Mask = self.repost_of != 0
        return mask

    @property
    def is_original(self) -> Mask:
        """Which neither answer nor pass on another post, bool [n]."""
        return ~(self.is_reply | self.is_repost)
