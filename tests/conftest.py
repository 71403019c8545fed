"""Settings of all tests."""

from __future__ import annotations

import os

# Most of the suite's time goes into compiling small programs, which takes half of it without LLVM's optimisations.
# Continuous integration runs the golden files and the tests of bits with them: XLA_FLAGS="" pytest ...
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
