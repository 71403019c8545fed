"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

# Most of the suite's time goes into compiling small programs, which takes half of it without LLVM's optimisations.
# Continuous integration runs the golden files and the tests of bits with them: XLA_FLAGS="" pytest ...
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Tests run side by side, one a core; threads of small products would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="module", autouse=True)
def _default_logs() -> Iterator[None]:
    """Logging as the library finds it: commands that other modules' tests run in this process set a level."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
