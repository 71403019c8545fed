"""What the commands share: logging to standard error, and writing to the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import structlog
from rich.console import Console


def quiet_logs(level: int = logging.WARNING) -> None:
    """Send logs to standard error, so that standard output holds the result alone."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Looked up for each line, because what standard error is may change (in tests, under redirection).
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def console() -> Console:
    """Standard output."""
    _replace_unknown()
    return Console(highlight=False)


def write(text: str) -> None:
    """Write text to standard output as it is."""
    _replace_unknown()
    sys.stdout.write(text)


def _replace_unknown() -> None:
    """Let standard output show a mark in place of what its encoding does not have, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON; NaN and infinities become null."""
    write(to_json(value))


def to_json(value: Any) -> str:
    """A value as JSON text that ends a line; NaN and infinities become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
