"""Defaults of options as TOML would write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from candidate_pipeline.options import Option, format_duration, options_of
from candidate_pipeline.spec.convert import Converter
from candidate_pipeline.spec.document import Document


def written_default(option: Option, document: Document) -> tuple[Any, str]:
    """An option's default as TOML data, and, where it has no such form, what to say of it.

    A default counts as written only if reading it again gives the default.
    """
    if option.default is None:
        return None, "not set"
    if option.data_dir:
        return None, f"the data directory; without --data {option.default}"
    value = _data(option.default)
    if value is not None:
        reader = Converter(document, {}, None)
        if _same(reader.option(value, option, ()), option.default):
            return value, ""
    return None, repr(option.default)


def _same(found: Any, default: Any) -> bool:
    try:
        return bool(found == default)
    except Exception:  # a plugin's class may compare as it likes
        return False


def _data(value: Any) -> Any:
    """A value as TOML data, or `None`."""
    if isinstance(value, bool | int | float | str | dt.datetime):
        return value
    if isinstance(value, dt.timedelta):
        return format_duration(value)
    if isinstance(value, Path):
        return str(value) if value.is_absolute() else None
    if isinstance(value, tuple | list):
        items = [_data(item) for item in value]
        return None if None in items else items
    if isinstance(value, Mapping):
        table = {str(key): _data(item) for key, item in value.items()}
        return None if None in table.values() else table
    if attrs.has(type(value)):
        fields = {name: getattr(value, name, None) for name in options_of(type(value))}
        table = {name: _data(item) for name, item in fields.items() if item is not None}
        return None if None in table.values() else table
    return None
