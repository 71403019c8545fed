"""What models were trained on, and the refusal to evaluate them on what they may have learnt."""

from __future__ import annotations

import json
from pathlib import Path

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.evaluation.splits import TRAINING_FILE, SplitInfo


def trained_split(models: Path) -> SplitInfo | None:
    """The split that the models of a directory were trained on; None where there are no models.

    Raises:
        DataError: There are models, but nothing says what they were trained on.
    """
    file = models / TRAINING_FILE
    if not file.is_file():
        if not models.is_dir() or not any(entry.is_dir() for entry in models.iterdir()):
            return None
        hint = "train them again: `candidate-pipeline phoenix train --data DIR`"
        raise DataError(
            f"{models}: there are models, but no {TRAINING_FILE} that says what they were trained on; {hint}"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = data["split"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: wanted JSON with an entry split, found {type(error).__name__}: {error}") from error
    if found is None:
        hint = "train again without `--split none` to evaluate"
        raise DataError(f"{file}: the models have learnt everything, so there is nothing left to find; {hint}")
    try:
        return SplitInfo.from_dict(found)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def require_trained_on(models: Path, info: SplitInfo) -> SplitInfo | None:
    """Make sure that the models of a directory have not seen what a split holds out.

    Returns:
        The split that they were trained on, equal to `info`; None where there are no models.

    Raises:
        DataError: They were trained on another split, or nobody knows on which.
    """
    found = trained_split(models)
    if found is None or found == info:
        return found
    flags = f"--split {info.name}" + (" --validation" if info.held_out == "validation" else "")
    same = (found.name, found.held_out) == (info.name, info.held_out)
    why = "the events have changed since" if same else "so they may have learnt what is to be found"
    raise DataError(
        f"{models}: the models were trained on another split, {why}\n"
        f"  trained on: {found}\n  evaluating: {info}\n"
        f"train them on this one: `candidate-pipeline phoenix train --data DIR {flags}`, or evaluate on theirs"
    )
