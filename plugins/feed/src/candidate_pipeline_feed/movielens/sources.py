"""Gets the files of MovieLens-100K: from a local copy, from GroupLens, or out of the `recbole` wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.movielens.layouts import GROUPLENS, LAYOUTS, RECBOLE, Layout

GROUPLENS_URL: Final = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
RECBOLE_REQUIREMENT: Final = "recbole==1.2.1"
_RECBOLE_FOLDER: Final = Path("recbole/dataset_example/ml-100k")
_TIMEOUT_S: Final = 20
_INSTALL_TIMEOUT_S: Final = 300
_MAX_ARCHIVE_BYTES: Final = 20 * 2**20
_MAX_FILE_BYTES: Final = 20 * 2**20
_BLOCK: Final = 2**16


class SourceUnavailableError(DataError):
    """A source could not be reached, so the next one is tried; a source with wrong content is another error."""


def find_layout(directory: Path) -> tuple[Layout, Path]:
    """Which layout a local copy has, and the folder with its files: the directory or `ml-100k` in it.

    Raises:
        DataError: Neither layout is there.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory")
    for folder in (directory, directory / "ml-100k"):
        for layout in LAYOUTS:
            if all((folder / name).is_file() for name in layout.files):
                return layout, folder
    wanted = " or ".join(", ".join(layout.files) for layout in LAYOUTS)
    raise DataError(f"{directory}: wanted {wanted} in it")


def check_files(folder: Path, layout: Layout, checksums: Mapping[str, str] | None = None) -> None:
    """Check the files against their SHA-256.

    Raises:
        DataError: A file is missing or differs.
    """
    for name, wanted in (layout.checksums if checksums is None else checksums).items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than {_MAX_FILE_BYTES:,} bytes, so it is not the file of MovieLens 100K")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != wanted:
            raise DataError(
                f"{path}: not the file of MovieLens 100K as {layout.name} has it: "
                f"SHA-256 {found}, wanted {wanted}. It was changed or cut short; get a fresh copy"
            )


def from_grouplens(folder: Path, url: str = GROUPLENS_URL) -> Layout:
    """Download GroupLens's archive and put its files into an empty folder.

    Raises:
        SourceUnavailableError: It cannot be reached.
        DataError: What came is not the archive.
    """
    archive = folder / "ml-100k.zip"
    try:
        # The address is a constant with https; no other scheme gets here.
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, archive.open("wb") as file:  # noqa: S310
            size = 0
            while block := response.read(_BLOCK):
                size += len(block)
                if size > _MAX_ARCHIVE_BYTES:
                    raise DataError(f"{url}: more than {_MAX_ARCHIVE_BYTES:,} bytes, so it is not the archive")
                file.write(block)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceUnavailableError(f"{url} cannot be reached: {reason}") from error
    unpack(archive, folder)
    archive.unlink()
    return GROUPLENS


def unpack(archive: Path, folder: Path) -> None:
    """Take the wanted files out of GroupLens's archive; paths inside it are never used as paths.

    Raises:
        DataError: It is not a zip archive, lacks a file, or a file in it is far too large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in GROUPLENS.files:
                with opened.open(f"ml-100k/{name}") as member, (folder / name).open("wb") as file:
                    content = member.read(_MAX_FILE_BYTES + 1)
                    if len(content) > _MAX_FILE_BYTES:
                        raise DataError(f"{archive.name}: {name} is larger than {_MAX_FILE_BYTES:,} bytes")
                    file.write(content)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{archive.name}: not the archive of MovieLens 100K: {error}") from error


def from_recbole(folder: Path) -> Layout:
    """Install the `recbole` wheel, without its dependencies, below a folder and move the data files up into it.

    Raises:
        SourceUnavailableError: The package index cannot be reached or does not have it.
        DataError: The wheel does not hold the files.
    """
    target = folder / "wheel"
    options = ["--no-deps", "--only-binary", ":all:", "--target", str(target), RECBOLE_REQUIREMENT]
    uv = shutil.which("uv")
    if uv is not None:
        command = [uv, "pip", "install", "--python", sys.executable, *options]
    else:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options]
    tool = "uv" if uv is not None else "pip"
    try:
        # A fixed command with a fixed requirement; nothing from outside goes into it.
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailableError(f"{tool} could not get {RECBOLE_REQUIREMENT}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise SourceUnavailableError(f"{tool} could not get {RECBOLE_REQUIREMENT}: {reason}")
    for name in RECBOLE.files:
        path = target / _RECBOLE_FOLDER / name
        if not path.is_file():
            raise DataError(f"{RECBOLE_REQUIREMENT}: no {_RECBOLE_FOLDER / name} in the wheel")
        shutil.copyfile(path, folder / name)
    shutil.rmtree(target)
    return RECBOLE
