"""TOML data as a JSON validator sees it."""

from __future__ import annotations

import datetime as dt
from typing import Any


def as_json(value: Any) -> Any:
    """TOML data as an editor hands it to a validator: dates and times are text."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value
