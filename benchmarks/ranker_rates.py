"""What the machine is, and how fast it multiplies matrices in the ranker's own shapes."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import jax
import jax.numpy as jnp
import numpy as np
from ranker_models import Size, gemm_shapes, layer_repeats
from ranker_timing import interleaved

#: Flags of an x86 or Arm processor that say which products it has instructions for.
FLAGS: Final = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "bf16", "i8mm")
PACKAGES: Final = ("jax", "jaxlib", "numpy", "torch", "onnxruntime")
#: Which rate bounds a variant, by its library and the precision of its products.
JAX_TYPES: Final = {
    "float32": (jnp.float32, jnp.float32),
    "bfloat16": (jnp.bfloat16, jnp.float32),
    "int8": (jnp.int8, jnp.int32),
}


def configuration() -> dict[str, str]:
    """What the figures depend on besides the options."""
    found = {
        "processor": _processor(),
        "flags": ", ".join(sorted(set(FLAGS) & _flags())) or "unknown",
        "cores": str(cores()),
        "device": f"{jax.default_backend()} {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> str:
    """Runnable processes over the last minute and the last five."""
    try:
        return " ".join(f"{load:.2f}" for load in os.getloadavg()[:2])
    except OSError:
        return "unknown"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _processor() -> str:
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            family = next((text.split(":")[1].strip() for text in _cpuinfo().splitlines() if "cpu family" in text), "?")
            return f"{line.split(':', 1)[1].strip()} (family {family})"
    return platform.processor() or platform.machine()


def _flags() -> set[str]:
    for line in _cpuinfo().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


@attrs.frozen
class Rates:
    """GFLOP/s (10^9 additions and multiplications in a second) of products alone, by kind.

    Attributes:
        attainable: of all products of scoring, weighted as scoring has them.
        shapes: of each shape.
    """

    attainable: Mapping[str, float]
    shapes: Mapping[str, Mapping[str, float]]


def measure(size: Size, seconds: float, earlier: Rates | None = None) -> Rates:
    """Rates for the products of a model, by `"jax float32"` and the like; all kinds take turns.

    Operands are random; they are warm, as weights and activations are. What an earlier measurement found to be faster
    stands.
    """
    count = size.candidates[-1]
    shapes = gemm_shapes(size.config, count)
    rates: dict[str, dict[str, float]] = {}
    spent: dict[str, float] = {}
    total = 0.0
    for name, shape in shapes.items():
        batch, rows, inner, columns = shape
        flop, repeats = 2.0 * batch * rows * inner * columns, layer_repeats(size.config, name)
        total += flop * repeats
        times = interleaved(_products(shape), seconds / len(shapes))
        for kind, found in times.items():
            known = None if earlier is None else flop / 1e9 / earlier.shapes[name][kind]
            best = found.best if known is None else min(found.best, known)
            rates.setdefault(name, {})[kind] = flop / best / 1e9
            spent[kind] = spent.get(kind, 0.0) + best * repeats
    return Rates({kind: total / time / 1e9 for kind, time in spent.items()}, rates)


def _products(shape: tuple[int, int, int, int]) -> dict[str, Callable[[], Any]]:
    batch, rows, inner, columns = shape
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-9, 9, (batch, *sides)) for sides in ((rows, inner), (inner, columns)))
    if batch == 1:
        left, right = left[0], right[0]
    found: dict[str, Callable[[], Any]] = {}
    for name, (dtype, out) in JAX_TYPES.items():
        run = jax.jit(lambda a, b, out=out: jnp.matmul(a, b, preferred_element_type=out))
        arrays = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
        found[f"jax {name}"] = lambda run=run, arrays=arrays: run(*arrays).block_until_ready()  # type: ignore[misc]  # bound per kind
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return found
    torch.set_num_threads(cores())
    for name in ("float32", "bfloat16"):
        tensors = tuple(torch.tensor(side).to(getattr(torch, name)) for side in (left, right))
        found[f"torch {name}"] = lambda tensors=tensors: torch.matmul(*tensors)  # type: ignore[misc]  # bound per kind
    return found
