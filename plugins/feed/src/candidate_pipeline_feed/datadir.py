"""A data directory: the four tables, `dataset.toml`, and the models trained on them."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.records import Tables
from candidate_pipeline_feed.schema import TABLES

DATASET_FILE: Final = "dataset.toml"
_DEFAULT = "default_"
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]


@attrs.frozen
class DatasetInfo:
    """What `dataset.toml` says.

    Args:
        name: What the data is called.
        now: The clock of requests that give none, with a time zone; None: one second after the last event.
        defaults: Values of request parameters that are not given, by parameter: `{"viewer": 42}`.
        overrides: Dotted settings applied to any pipeline run over the data: `{"components.age.max_age": "7d"}`.
    """

    name: str
    now: dt.datetime | None = None
    defaults: Mapping[str, Scalar] = attrs.field(factory=dict)
    overrides: Mapping[str, Value] = attrs.field(factory=dict)


def dataset_toml(info: DatasetInfo) -> str:
    """The text of `dataset.toml`.

    Raises:
        DataError: Something cannot be written: a clock without zone, a key that is not dotted, a value of a type
            that TOML settings do not have.
    """
    document: dict[str, Any] = {"name": info.name}
    if info.now is not None:
        document["now"] = info.now
    document |= {f"{_DEFAULT}{name}": value for name, value in info.defaults.items()}
    if info.overrides:
        document["set"] = dict(info.overrides)
    if problems := _problems(document):
        raise DataError(f"{DATASET_FILE} cannot be written:\n" + "\n".join(f"  - {line}" for line in problems))
    lines = [f"{key} = {_toml(value)}" for key, value in document.items() if key != "set"]
    if info.overrides:
        lines += ["", "[set]", *(f"{_toml(key)} = {_toml(value)}" for key, value in info.overrides.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str):  # JSON's strings are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _problems(document: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    if not isinstance(name := document.get("name"), str) or not name.strip():
        found.append(f'name: wanted a text such as "my data", found {name!r}')
    if (now := document.get("now")) is not None and (not isinstance(now, dt.datetime) or now.tzinfo is None):
        found.append(f"now: wanted a date and time with a zone such as 2026-10-09T18:00:00Z, found {now!s}")
    for key, value in document.items():
        if key.startswith(_DEFAULT):
            if not _INPUT_NAME.fullmatch(key.removeprefix(_DEFAULT)):
                found.append(f"{key}: wanted default_ and the name of a request parameter, such as default_viewer")
            if not isinstance(value, bool | int | float | str):
                found.append(f"{key}: wanted a number, a text, true or false, found {value!r}")
        elif key not in {"name", "now", "set"}:
            found.append(f"{key}: not a key; there are name, now, default_<request parameter> and [set]")
    overrides = document.get("set", {})
    if not isinstance(overrides, Mapping):
        return [*found, f"set: wanted a table of dotted settings, found {overrides!r}"]
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            found.append(f'set.{key}: put the dotted key in quotes: "{key}.…" = …')
        elif not _DOTTED_KEY.fullmatch(key):
            found.append(f'set.{key}: wanted a dotted key such as "components.age.max_age"')
        elif not isinstance(value, bool | int | float | str | list):
            found.append(f"set.{key}: wanted a number, a text, true, false or a list, found {value!r}")
    return found


def read_dataset_info(path: str | Path) -> DatasetInfo:
    """Read and check a `dataset.toml`.

    Raises:
        DataError: It is missing, is not TOML, or holds something it must not; all mistakes at once.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f'{path}: no such file; the least a data directory needs is one with name = "…"') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not TOML: {error}") from error
    if problems := _problems(document):
        raise DataError(f"{path}: cannot be used\n" + "\n".join(f"  - {line}" for line in problems))
    return DatasetInfo(
        document["name"],
        document.get("now"),
        {key.removeprefix(_DEFAULT): value for key, value in document.items() if key.startswith(_DEFAULT)},
        document.get("set", {}),
    )


@attrs.frozen
class DataDirectory:
    """Where things are in a data directory; nothing is read until asked for."""

    path: Path = attrs.field(converter=Path)

    @property
    def dataset_file(self) -> Path:
        """Its `dataset.toml`."""
        return self.path / DATASET_FILE

    @property
    def models(self) -> Path:
        """Where trained models go."""
        return self.path / "models"

    @property
    def retrieval_model(self) -> Path:
        """Artifact directory of the retrieval model."""
        return self.models / "retrieval"

    @property
    def ranker_model(self) -> Path:
        """Artifact directory of the ranker."""
        return self.models / "ranker"

    def table(self, name: str) -> Path:
        """File of a table.

        Raises:
            KeyError: There is no table of that name.
        """
        return self.path / TABLES[name].file_name

    def info(self) -> DatasetInfo:
        """Its checked `dataset.toml`.

        Raises:
            DataError: It is missing or wrong.
        """
        return read_dataset_info(self.dataset_file)

    def tables(self) -> Tables:
        """Its checked tables.

        Raises:
            DataError: They are missing or wrong.
        """
        from candidate_pipeline_feed.reading import read_tables

        return read_tables(self.path)

    def write(self, tables: Tables, info: DatasetInfo) -> None:
        """Write tables and `dataset.toml`; nothing is written if either is wrong.

        Raises:
            DataError: The tables or the info break the format.
            OSError: The directory cannot be written.
        """
        from candidate_pipeline_feed.writing import write_tables

        text = dataset_toml(info)
        write_tables(self.path, tables)
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{DATASET_FILE}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(self.dataset_file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def clock(info: DatasetInfo, tables: Tables) -> dt.datetime:
    """The clock of requests that give none: what `dataset.toml` says, else a second after the last event.

    Raises:
        DataError: Neither is there.
    """
    if info.now is not None:
        return info.now
    if not len(tables.events):
        raise DataError(f"{info.name}: no events to take the clock from; put now = <date and time> in {DATASET_FILE}")
    last_ms = int(tables.events.time.max())
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=last_ms + 1000)


def bundled_world() -> Path:
    """The data directory of the world that ships with the package."""
    return Path(__file__).resolve().parent / "bundled"
