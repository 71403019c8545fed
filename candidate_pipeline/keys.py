"""Typed keys: the names under which components exchange values.

A key is a module-level constant. Components index a query or a table of candidates with it and get a value of
the key's type, so a type checker follows the data from the component that writes it to the one that reads it::

    AUTHOR_ID = Column("shop.author_id", np.int64, doc="Who offers the item.")
    BUDGET = QueryFeature("shop.budget", float, doc="What the buyer would spend.", unit="EUR")

    query[BUDGET]          # float
    candidates[AUTHOR_ID]  # NDArray[np.int64]

Where the spec decides which columns there are, such as one for each group of people it names, they form a family::

    UTILITY = ColumnFamily("shop.utility", np.float32, doc="What the item is worth to the {member}.")

    candidates[UTILITY["buyer"]]  # NDArray[np.float32], the column shop.utility.buyer
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import attrs
import numpy as np

from candidate_pipeline.patches import ColumnUpdate, FeatureUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
S = TypeVar("S", bound=np.generic)

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_MEMBER = re.compile(r"[a-z][a-z0-9_]*")
#: What a family's text says where a member's is to name the member.
_HERE: Final = "{member}"


class _Missing:
    """The type of `MISSING`: "no default was declared"."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def _check_name(_instance: object, _attribute: object, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a key's name is 'namespace.name' in lower case, found {name!r}")


def _check_type(instance: QueryFeature[Any], _attribute: object, found: Any) -> None:
    if not isinstance(found, type):
        raise TypeError(f"{instance.name}: wanted a class such as int, tuple or numpy.ndarray, found {found!r}")


def _check_dtype(instance: Column[Any], _attribute: object, found: Any) -> None:
    if not (isinstance(found, type) and issubclass(found, np.generic)):
        raise TypeError(f"{instance.name}: wanted a numpy scalar type such as np.int64, found {found!r}")
    if issubclass(found, np.flexible):
        raise TypeError(f"{instance.name}: wanted np.object_ for text, found {found.__name__}")


def _key_repr(key: Key | ColumnFamily[Any]) -> str:
    return f"<{type(key).__name__} {key.name}>"


@attrs.frozen(eq=False, repr=False)
class QueryFeature(Generic[T]):
    """One value of the query.

    Args:
        name: Namespaced name, unique over all plugins: `"feed.viewer_id"`.
        type: The Python type of the value; a value of another type is refused.
        default: What a reader gets where the feature is absent or failed. Without one, reading an absent or
            failed feature raises.
        optional: Whether a pipeline may leave it out although a component reads it, which then gets the default.
        doc: What the value means and where it comes from.
        unit: The unit, for quantities.
    """

    name: str = attrs.field(validator=_check_name)
    type: type[T] = attrs.field(validator=_check_type)
    default: T | _Missing = attrs.field(default=MISSING, kw_only=True)
    optional: bool = attrs.field(default=False, kw_only=True)
    doc: str = attrs.field(default="", kw_only=True)
    unit: str = attrs.field(default="", kw_only=True)

    __repr__ = cast("Callable[[object], str]", _key_repr)

    def __attrs_post_init__(self) -> None:
        if self.optional and not self.has_default:
            raise ValueError(f"{self.name}: a feature that may be left out needs a default")

    def __call__(self, value: T) -> FeatureUpdate:
        """Pair the feature with a value, for `query_patch`.

        Raises:
            ContractError: The value is not of the feature's type.
        """
        return FeatureUpdate(self, value)

    @property
    def has_default(self) -> bool:
        """Whether a default was declared."""
        return not isinstance(self.default, _Missing)


@attrs.frozen(eq=False, repr=False)
class Column(Generic[S]):
    """One column of the candidates.

    Args:
        name: Namespaced name, unique over all plugins: `"feed.author_id"`.
        dtype: The numpy scalar type of a cell. `np.object_` for text.
        labels: For a fixed-width column, the names its places may have. A writer says which of them it gives; the
            array is then `[n, given]`, and a place is selected by its label, never by index. A label that is not
            given is absent, which is not zero. A NaN in a labelled column is an error.
        width: For a fixed-width column without labels (a vector), its width.
        default: What null and failed cells hold when read. Without one they hold zero (`None` for objects).
        terms_of: Marks a column of addends (or of factors, see `factor`) that explain another column, usually
            `SCORE`; `explain` prints them.
        factor: With `terms_of`: the cells multiply instead of adding up.
        doc: What a cell means and where it comes from.
        unit: The unit, for quantities.
        family: The family whose member it is; a family sets it.
    """

    name: str = attrs.field(validator=_check_name)
    dtype: type[S] = attrs.field(validator=_check_dtype)
    labels: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    width: int | None = attrs.field(default=None, kw_only=True)
    default: Any = attrs.field(default=MISSING, kw_only=True)
    terms_of: Column[Any] | None = attrs.field(default=None, kw_only=True)
    factor: bool = attrs.field(default=False, kw_only=True)
    doc: str = attrs.field(default="", kw_only=True)
    unit: str = attrs.field(default="", kw_only=True)
    family: ColumnFamily[S] | None = attrs.field(default=None, kw_only=True, repr=False)

    __repr__ = cast("Callable[[object], str]", _key_repr)

    def __attrs_post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{self.name}: labels must differ, found {self.labels}")
        if self.labels and self.width is not None:
            raise ValueError(f"{self.name}: give labels or width, not both")
        if self.terms_of is not None and not issubclass(self.dtype, np.integer | np.floating):
            raise ValueError(f"{self.name}: the terms of a score are numbers, found {self.dtype.__name__}")
        if self.width is not None and self.width < 1:
            raise ValueError(f"{self.name}: a width is at least 1, found {self.width}")

    def __call__(
        self, values: ArrayLike | Sequence[Any], *, valid: ArrayLike | None = None, labels: Sequence[str] | None = None
    ) -> ColumnUpdate:
        """Pair the column with its cells, for `patch`.

        Args:
            values: `[n]`, or `[n, width]` for a fixed-width column, in the order of the candidates. The array is
                taken over, not copied: do not write to it afterwards.
            valid: `bool[n]`; false marks a null: the component looked, and there is no value. In a column of
                objects `None` is a null too.
            labels: For a labelled column, the names of the places of `values`; default: all the column's labels.
        """
        return ColumnUpdate(self, values, valid, None if labels is None else tuple(labels))

    @property
    def has_default(self) -> bool:
        """Whether a default was declared."""
        return not isinstance(self.default, _Missing)

    def row_shape(self, labels: Sequence[str] = ()) -> tuple[int, ...]:
        """The shape of one cell, `()` or `(width,)`, where a labelled column has the given labels."""
        if self.labels:
            return (len(labels),)
        return () if self.width is None else (self.width,)

    def blank(self, rows: int, labels: Sequence[str] = ()) -> NDArray[S]:
        """An array of `rows` cells that hold the default, or zero (`None` for objects)."""
        shape = (rows, *self.row_shape(labels))
        if self.has_default:
            return np.full(shape, self.default, dtype=self.dtype)
        if self.dtype is np.object_:
            return cast("NDArray[S]", np.full(shape, None, dtype=np.object_))
        return np.zeros(shape, dtype=self.dtype)


@attrs.frozen(eq=False, repr=False)
class ColumnFamily(Generic[S]):
    """Columns under one name, of which the spec decides the members.

    `FAMILY["buyer"]` is the column `<name>.buyer`: the same object each time, in every thread.

    Args:
        name: Namespaced name, unique over all plugins, that members' names begin with: `"shop.utility"`.
        dtype: As a column's, of every member; so are `labels`, `width`, `default`, `terms_of`, `factor` and `unit`.
        doc: As a column's; `{member}` in it stands for the member.
    """

    name: str = attrs.field(validator=_check_name)
    dtype: type[S] = attrs.field(validator=_check_dtype)
    labels: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    width: int | None = attrs.field(default=None, kw_only=True)
    default: Any = attrs.field(default=MISSING, kw_only=True)
    terms_of: Column[Any] | None = attrs.field(default=None, kw_only=True)
    factor: bool = attrs.field(default=False, kw_only=True)
    doc: str = attrs.field(default="", kw_only=True)
    unit: str = attrs.field(default="", kw_only=True)
    _members: dict[str, Column[S]] = attrs.field(factory=dict, init=False, repr=False)

    __repr__ = cast("Callable[[object], str]", _key_repr)

    def __attrs_post_init__(self) -> None:
        self._made("member")  # so that what is wrong with them all is said where the family is declared

    def __getitem__(self, member: str) -> Column[S]:
        """The column of a member.

        Raises:
            ValueError: It is no name for a member: those are lower-case letters, digits and underscores.
        """
        column = self._members.get(member)
        if column is not None:
            return column
        problem = self.problem(member)
        if problem:
            raise ValueError(f"{self.name}: {problem}")
        # One step, so that of two threads that both made the column one gets the other's.
        return self._members.setdefault(member, self._made(member))

    def _made(self, member: str) -> Column[S]:
        return Column(
            f"{self.name}.{member}",
            self.dtype,
            labels=self.labels,
            width=self.width,
            default=self.default,
            terms_of=self.terms_of,
            factor=self.factor,
            doc=self.doc.replace(_HERE, member),
            unit=self.unit,
            family=self,
        )

    def problem(self, member: object) -> str:
        """Why something is no name for a member; empty if it is one."""
        if isinstance(member, str) and _MEMBER.fullmatch(member):
            return ""
        near = re.sub(r"[^a-z0-9]+", "_", member.strip().lower()).strip("_") if isinstance(member, str) else ""
        hint = f"; {near!r:.80} is one" if _MEMBER.fullmatch(near) else ""
        wanted = "a member's name is lower-case letters, digits and underscores, first a letter"
        return f"{wanted}, found {member!r:.80}{hint}"

    def members(self, columns: Iterable[Column[Any]]) -> dict[str, Column[S]]:
        """Those of some columns that are of the family, by member, in their order: `FAMILY.members(table.columns)`."""
        return {column.name[len(self.name) + 1 :]: column for column in columns if column.family is self}


Key = QueryFeature[Any] | Column[Any]

ITEM_ID = Column("core.item_id", np.int64, doc="Identity of the candidate. Unsigned ids are reinterpreted as signed.")
#: A null reads as NaN, so that arithmetic on an unscored row leaves it behind every scored one.
SCORE = Column("core.score", np.float32, default=np.nan, doc="What the selector sorts by; null means unscored.")

TOPPED_UP = Column("core.topped_up", np.bool_, doc="Whether the row came from the pipeline that fills short responses.")


def key_names(keys: Sequence[Key]) -> str:
    """The names of keys, comma-joined, for messages."""
    return ", ".join(key.name for key in keys) or "nothing"
