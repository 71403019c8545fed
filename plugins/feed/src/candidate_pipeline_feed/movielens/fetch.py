"""`data fetch ml-100k`: get the files, check them, map them, and put the data directory in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.atomic import check_destination, placed_directory
from candidate_pipeline_feed.datadir import DataDirectory
from candidate_pipeline_feed.movielens.layouts import Layout
from candidate_pipeline_feed.movielens.mapping import dataset_info, to_tables
from candidate_pipeline_feed.movielens.sources import (
    GROUPLENS_URL,
    RECBOLE_REQUIREMENT,
    SourceUnavailableError,
    check_files,
    find_layout,
    from_grouplens,
    from_recbole,
)
from candidate_pipeline_feed.records import Tables

TERMS: Final = """\
MovieLens 100K belongs to GroupLens, University of Minnesota. Its terms, in short:
  - use it for research; commercial use needs their permission first
  - acknowledge it in publications: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context,
    ACM Transactions on Interactive Intelligent Systems 5(4), 2015, https://doi.org/10.1145/2827872
  - do not redistribute it, or anything derived from it row by row, without permission
  - do not claim or imply their endorsement; they do not vouch for the data
In full: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""

Say = Callable[[str], None]
Fetch = Callable[[Path], Layout]

SOURCES: Final[tuple[tuple[str, Fetch], ...]] = (
    (f"GroupLens, {GROUPLENS_URL}", from_grouplens),
    (f"the copy in {RECBOLE_REQUIREMENT} from the package index", from_recbole),
)
"""Where the files come from, in the order in which they are tried."""


@attrs.frozen(eq=False)
class Fetched:
    """What a fetch made.

    Args:
        path: The data directory.
        source: Where the files came from.
        tables: Its tables.
    """

    path: Path
    source: str
    tables: Tables


def fetch_ml_100k(
    out_dir: str | Path,
    from_dir: str | Path | None = None,
    *,
    force: bool = False,
    say: Say = lambda _line: None,
    sources: tuple[tuple[str, Fetch], ...] = SOURCES,
    checksums: Mapping[str, Mapping[str, str]] | None = None,
) -> Fetched:
    """Get MovieLens-100K and write it as a data directory.

    Args:
        out_dir: Where it goes; put there whole or not at all.
        from_dir: A local copy in either layout; nothing is downloaded then.
        force: Replace a data directory that is there, models included.
        say: Called with each line of progress and with the terms of use.
        sources: What is tried, in order, without `from_dir`.
        checksums: SHA-256 of each file by layout name, instead of those of the real files.

    Raises:
        DataError: No source can be reached, files are not the real ones, or `out_dir` is taken.
        OSError: `out_dir` cannot be written.
    """
    out = check_destination(out_dir, force)
    say(TERMS)
    with tempfile.TemporaryDirectory(prefix="ml-100k-") as temporary:
        if from_dir is not None:
            layout, folder = find_layout(Path(from_dir))
            source = str(from_dir)
        else:
            layout, folder, source = _from_first(Path(temporary), sources, say)
        check_files(folder, layout, None if checksums is None else checksums[layout.name])
        say(f"Files from {source} ({layout.name} layout), checksums as they should be")
        data = layout.read(folder)
    tables = to_tables(data)
    with placed_directory(out, force) as made:
        DataDirectory(made).write(tables, dataset_info(data, tables))
    return Fetched(out, source, tables)


def _from_first(temporary: Path, sources: tuple[tuple[str, Fetch], ...], say: Say) -> tuple[Layout, Path, str]:
    failures = []
    for number, (name, fetch) in enumerate(sources):
        folder = temporary / str(number)
        folder.mkdir()
        say(f"Trying {name}")
        try:
            return fetch(folder), folder, name
        except SourceUnavailableError as error:
            failures.append(str(error))
            say(f"  {error}")
    listed = "\n".join(f"  - {failure}" for failure in failures)
    raise DataError(f"MovieLens 100K could not be fetched:\n{listed}\nWith a local copy: --from DIR")
