"""The four tables, column by column, as data: the reader, the writer and the documentation all follow it."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from candidate_pipeline_feed.actions import EVENT_ACTIONS

ColumnType = Literal["int64", "float32", "bool", "text", "text list", "timestamp", "choice"]

EDGE_KINDS: Final[tuple[str, ...]] = ("follow", "block", "mute", "subscribe")
"""What the `kind` column of the edges table may hold; in memory, a kind is its index here."""

EDGE_CODE: Final[dict[str, int]] = {name: code for code, name in enumerate(EDGE_KINDS)}
"""Index of each name in `EDGE_KINDS`."""

FORMAT_VERSION: Final = "1"
MAX_ROWS: Final = 100_000_000
"""More rows than this in one table is taken for a mistake."""
MAX_TABLE_BYTES: Final = 16 * 2**30
"""Uncompressed size above which a table is not even opened."""
MAX_TEXT_CHARS: Final = 100_000
"""A longer text is taken for a mistake."""


@attrs.frozen
class ColumnSpec:
    """One column.

    Args:
        name: Its name in the file and on the in-memory table.
        type: Its type; "choice" is a text out of `choices`, held in memory as an int16 index.
        doc: What it means.
        required: A file must have it.
        nullable: Single values may be null. A column that is not required is always nullable.
        unit: Unit of a quantity.
        references: The table whose id it must name, or "".
        is_id: It names a person or a post: 0 is not an id.
        choices: What a "choice" may hold.
        minimum: Smallest value of a quantity.
        maximum: Largest plausible value of a quantity.
    """

    name: str
    type: ColumnType
    doc: str
    required: bool = False
    nullable: bool = True
    unit: str = ""
    references: str = ""
    is_id: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


@attrs.frozen
class TableSpec:
    """One table.

    Args:
        name: Its name; the file is `<name>.parquet`.
        doc: What a row is.
        columns: Its columns, in the order in which they are written.
        unique: Columns that together name a row; () where rows may repeat.
    """

    name: str
    doc: str
    columns: tuple[ColumnSpec, ...]
    unique: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of the file in a data directory."""
        return f"{self.name}.parquet"

    def column(self, name: str) -> ColumnSpec:
        """The column of that name.

        Raises:
            KeyError: The table has none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def _id(name: str, doc: str, references: str = "") -> ColumnSpec:
    return ColumnSpec(name, "int64", doc, required=True, nullable=False, references=references, is_id=True)


USERS: Final = TableSpec(
    "users",
    "One row per person or channel: everybody who reads, posts, follows or is followed.",
    (
        _id("user_id", "The person."),
        ColumnSpec("name", "text", "Display name.", required=True, nullable=False),
        ColumnSpec("handle", "text", "Name in mentions, without the @."),
        ColumnSpec("language", "text", "Language of the interface, as a BCP 47 tag (`en`, `pt-BR`)."),
        ColumnSpec(
            "followers_count",
            "int64",
            "Followers; null: count the follow edges.",
            unit="people",
            minimum=0,
        ),
        ColumnSpec("created_at", "timestamp", "When the account was opened."),
        ColumnSpec(
            "muted_keywords",
            "text list",
            "Words and phrases the person does not want to read; null: none.",
        ),
    ),
    unique=("user_id",),
)

ITEMS: Final = TableSpec(
    "items",
    "One row per post. A repost is a post of its own that names what it passes on.",
    (
        _id("item_id", "The post."),
        _id("author_id", "Who posted it.", references="users"),
        ColumnSpec("created_at", "timestamp", "When it was posted.", required=True, nullable=False),
        ColumnSpec("text", "text", "What it says. May be empty.", required=True, nullable=False),
        ColumnSpec("topic", "text", "What it is about, one label."),
        ColumnSpec(
            "reply_to",
            "int64",
            "The post that it answers; it may lie outside the table. Null: not a reply.",
            is_id=True,
        ),
        ColumnSpec(
            "conversation_id",
            "int64",
            "First post of its conversation; it may lie outside the table. Null: the post itself.",
            is_id=True,
        ),
        ColumnSpec(
            "repost_of",
            "int64",
            "The original post that it passes on; it may lie outside the table. Null: not a repost.",
            is_id=True,
        ),
        ColumnSpec(
            "quote_of",
            "int64",
            "The post that it quotes; it may lie outside the table. Null: quotes none.",
            is_id=True,
        ),
        ColumnSpec(
            "video_duration_ms",
            "int64",
            "Length of its video; null: it has none.",
            unit="ms",
            minimum=0,
            maximum=30 * 86_400_000,
        ),
        ColumnSpec("language", "text", "Language of the text, as a BCP 47 tag."),
        ColumnSpec("subscriber_only", "bool", "Only for the author's subscribers; null: for everybody."),
    ),
    unique=("item_id",),
)

EDGES: Final = TableSpec(
    "edges",
    "One row per relation of one person to another.",
    (
        _id("src", "Who follows, blocks, mutes or subscribes.", references="users"),
        _id("dst", "Whom.", references="users"),
        ColumnSpec("kind", "choice", "Which relation.", required=True, nullable=False, choices=EDGE_KINDS),
        ColumnSpec("created_at", "timestamp", "Since when; null: since before the first event."),
    ),
    unique=("src", "dst", "kind"),
)

EVENTS: Final = TableSpec(
    "events",
    "One row per action of a person on a post. Rows with the same person, post and time are one encounter "
    "with several actions, a multi-hot event; a row that repeats another counts once. Which of two rows of "
    "equal time came first is not known: nothing takes one of them for history of the other, and where an "
    "order is needed it is that of the file.",
    (
        _id("user_id", "Who acted.", references="users"),
        _id("item_id", "On which post.", references="items"),
        ColumnSpec("time", "timestamp", "When.", required=True, nullable=False),
        ColumnSpec("action", "choice", "What happened.", required=True, nullable=False, choices=EVENT_ACTIONS),
        ColumnSpec(
            "value",
            "float32",
            "Amount of a continuous action; null for every other action.",
            unit="s",
            minimum=0,
            maximum=1_000_000,
        ),
    ),
)

TABLES: Final[dict[str, TableSpec]] = {spec.name: spec for spec in (USERS, ITEMS, EDGES, EVENTS)}
"""The four tables by name, in the order in which they are read and written."""

ID_COLUMN: Final[dict[str, str]] = {"users": "user_id", "items": "item_id"}
"""The column that a reference to a table names."""
