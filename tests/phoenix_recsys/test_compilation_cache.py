"""Compiled programs on disk: taken at the second start, private, and never relied on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phoenix_recsys.compilation_cache import use_compilation_cache
from phoenix_recsys.errors import ArtifactError

PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from phoenix_recsys.compilation_cache import use_compilation_cache
before = jax.jit(lambda x: x + 1)(1.0)  # JAX has compiled something already
try:
    path = use_compilation_cache(sys.argv[1])
    assert use_compilation_cache(sys.argv[1]) == path
    if len(sys.argv) > 2:
        use_compilation_cache(sys.argv[2])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
entries = lambda: sorted(p.name for p in path.iterdir() if p.name.endswith("-cache"))
old = entries()
print(float(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((64, 64)))), len(old), len(entries()))
"""


def _start(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_second_start_takes_what_the_first_compiled(tmp_path: Path) -> None:
    """The first start writes programs, the second adds none and computes the same; a damaged one is compiled anew."""
    target = tmp_path / "cache"
    first = _start(target)
    assert first.returncode == 0, first.stderr
    value, old, new = first.stdout.split()
    assert (int(old), int(new) > 0) == (0, True)
    second = _start(target)
    assert second.stdout.split() == [value, new, new]
    assert target.stat().st_mode & 0o077 == 0
    for program in target.rglob("*-cache"):
        program.write_bytes(b"nonsense")
    third = _start(target)
    assert third.returncode == 0, third.stderr
    assert third.stdout.split()[0] == value


def test_one_directory_serves_a_process(tmp_path: Path) -> None:
    """A second directory in the same process is refused, naming the first."""
    found = _start(tmp_path / "one", tmp_path / "two")
    assert found.returncode == 1
    assert "one, which this process uses, found another one" in found.stderr


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    """Whoever can write there could have their code run, so the error says how to close it."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ArtifactError, match=r"only its owner may write to.*chmod go-w"):
        use_compilation_cache(tmp_path / "open")


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    """A file in the way gives an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="wanted a writable directory"):
        use_compilation_cache(tmp_path / "file")
