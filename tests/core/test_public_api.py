"""The public names, what importing them costs, and that errors are documented."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import candidate_pipeline
from candidate_pipeline import errors
from candidate_pipeline.spec.problems import Location, Problem, nearest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"jax", "jaxlib", "haiku", "optax", "faiss", "pyarrow", "pandas", "scipy"}


@pytest.mark.parametrize("name", candidate_pipeline.__all__)
def test_public_names_can_be_imported_and_are_documented(name: str) -> None:
    """Every name of the package can be imported; classes and functions say what they are, constants what they hold."""
    value = getattr(candidate_pipeline, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__, f"{name} has no docstring"
    elif isinstance(value, candidate_pipeline.Column):
        assert value.doc


def test_public_names_are_sorted_and_complete() -> None:
    """`__all__` is sorted, `dir()` agrees with it, and a name that is not there is an `AttributeError`."""
    assert sorted(candidate_pipeline.__all__) == dir(candidate_pipeline)
    with pytest.raises(AttributeError, match="module 'candidate_pipeline' has no attribute 'nothing'"):
        _ = candidate_pipeline.nothing


def test_public_methods_are_documented() -> None:
    """Every public method of a public class has a docstring."""
    for name in candidate_pipeline.__all__:
        value: Any = getattr(candidate_pipeline, name)
        if not inspect.isclass(value) or not value.__module__.startswith("candidate_pipeline"):
            continue
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def test_every_error_class_is_public() -> None:
    """All errors derive from one class and can be imported from the package."""
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert all(issubclass(error, candidate_pipeline.CandidatePipelineError) for error in found)
    assert {error.__name__ for error in found} <= set(candidate_pipeline.__all__)


def test_every_error_class_is_documented() -> None:
    """`docs/errors.md` tells when each class of error is raised."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for value in vars(errors).values():
        if inspect.isclass(value):
            assert f"`{value.__name__}`" in text


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running code."""
    script = f"{code}\nimport sys, json\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return {name.partition(".")[0] for name in json.loads(done.stderr)}


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import candidate_pipeline` loads no model or table library, not even numpy."""
    loaded = loaded_by("import candidate_pipeline")
    assert not loaded & (HEAVY | {"numpy"})


def test_importing_every_public_name_loads_nothing_heavy() -> None:
    """Nor do its names: `from candidate_pipeline import *` needs numpy, and no JAX, FAISS or pyarrow."""
    assert not loaded_by("from candidate_pipeline import *") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    """`candidate-pipeline --help` lists every plugin's commands without numpy, JAX, FAISS or pyarrow."""
    code = (
        "import sys\nsys.argv = ['candidate-pipeline', '--help']\nfrom candidate_pipeline.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    assert not loaded_by(code) & (HEAVY | {"numpy"})


def test_component_modules_load_nothing_heavy() -> None:
    """Loading every component that is registered here imports no JAX, FAISS or pyarrow."""
    code = (
        "from candidate_pipeline.registry import installed\nregistry = installed()\n"
        "[ref.load() for ref in registry.components()]\nregistry.keys()\nassert not registry.broken, registry.broken"
    )
    assert not loaded_by(code) & HEAVY


# Messages


def test_problem_needs_a_known_code() -> None:
    """A problem under a code that is not documented cannot be made."""
    with pytest.raises(ValueError, match=r"must be in .*E999"):
        Problem("E999", "?", Location("f"))


@pytest.mark.parametrize(
    ("name", "names", "hint"),
    [
        ("result_sise", ["result_size", "deadline"], "did you mean 'result_size'?"),
        ("age", ["feed.age", "feed.items"], "did you mean 'feed.age'?"),
        ("agee", ["feed.age", "feed.items"], "did you mean 'feed.age'?"),
        ("zzz", ["b", "a"], "one of: a, b"),
        ("zzz", [f"name_{at}" for at in range(9)], ""),
        ("zzz", [], ""),
    ],
)
def test_nearest_name(name: str, names: list[str], hint: str) -> None:
    """The nearest name is suggested, behind a namespace too; few names are listed where none is near."""
    assert nearest(name, names) == hint


def test_caret_of_a_long_value_ends_with_the_line() -> None:
    """The mark under a value of several lines ends at the end of the first."""
    location = Location("f", 1, 5, 500, "a = '''x")
    assert Problem("E102", "m", location, "hint").render().splitlines()[2] == "       |     ^^^^ hint"
