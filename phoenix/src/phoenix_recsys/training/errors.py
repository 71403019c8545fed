"""Errors of the trainer."""

from __future__ import annotations

from phoenix_recsys.errors import PhoenixError


class TrainingError(PhoenixError):
    """Training cannot start or go on; the message says what was wanted, what was found, and what to do."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training, after a checkpoint was written; the message says how to resume.

    A :class:`KeyboardInterrupt` still, so that code which stops on Ctrl-C stops on this.
    """
