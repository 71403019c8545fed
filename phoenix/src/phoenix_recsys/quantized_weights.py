"""Weight matrices in int8 with a scale for each output channel, and their product with tokens quantised on the way.

W ≈ q_w · s_w and x ≈ s_x · q_x with s = max|·| / 127 over an output channel or a token, so
x · W ≈ s_x · (q_x · q_w) · s_w with an integer product in between (Jacob et al. 2018, arXiv:1712.05877; scales by
channel and by token: Xiao et al. 2023, arXiv:2211.10438). Nothing is calibrated.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys.inputs import Array
from phoenix_recsys.quantized_rows import dequantize, quantize_rows

Unit = Literal["int8", "bfloat16"]
MATRICES = frozenset({"w", "proj_mat_1", "proj_mat_2", "proj_mat_3", "unembeddings", "continuous_unembeddings"})
"""Names of parameters that activations are multiplied by. What is looked up row by row, or tiny, stays float32."""
PROBE_SHAPES = ((1024, 512), (512, 512))
PROBE_RUNS = 5


class QuantizedMatrix(NamedTuple):
    """A matrix [in, out]; a pytree.

    Attributes:
        values: int8 [in, out], −127 … 127.
        scales: float32 [out].
    """

    values: Array
    scales: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """[in, out]."""
        return tuple(self.values.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return int(self.values.nbytes + self.scales.nbytes)


def quantize_matrix(matrix: Any, *, name: str = "matrix") -> QuantizedMatrix:
    """A float matrix [in, out] to int8, on the host.

    Raises:
        TypeError: if the values are not floating point.
        ValueError: if a value is not finite; gives the output channel as its row.
    """
    values, scales = quantize_rows(np.asarray(matrix).T, name=name)
    return QuantizedMatrix(np.ascontiguousarray(values.T), scales)


def as_float(matrix: Any) -> Array:
    """A matrix in float32, whether it is quantised or not."""
    if not isinstance(matrix, QuantizedMatrix):
        return jnp.asarray(matrix, jnp.float32)
    if isinstance(matrix.values, np.ndarray):
        return dequantize(matrix.values.T, np.asarray(matrix.scales)).T
    return matrix.values.astype(jnp.float32) * matrix.scales


def quantize_params(params: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A parameter tree with every matrix of :data:`MATRICES` quantised; those that are already stay as they are."""
    return {
        module: {
            name: quantize_matrix(value, name=f"{module}/{name}")
            if name in MATRICES and not isinstance(value, QuantizedMatrix)
            else value
            for name, value in entries.items()
        }
        for module, entries in params.items()
    }


def params_nbytes(params: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes of all parameters as they are held."""
    return sum(int(value.nbytes) for entries in params.values() for value in entries.values())


def quantize_tokens(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens [..., D] to whole numbers in −127 … 127, still float32, and scales [..., 1]; a zero token gives zeros."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    # Division by zero must not give NaN, and a subnormal maximum must not overflow its reciprocal.
    inverse = jnp.where(largest > 1e-30, 127.0 / jnp.maximum(largest, 1e-30), 0.0)
    return jnp.round(x * inverse), largest * (1.0 / 127.0)


def int8_product(x: jax.Array, w: QuantizedMatrix, unit: Unit | None = None) -> jax.Array:
    """X · W with both in int8 and an exact sum: float32 [..., in] and [in, out] to float32 [..., out].

    Integers up to 127 are exact in bfloat16, and so are sums of their products in float32 below 2^24. So either unit
    gives the same bits up to 1,040 inputs (beyond, unless nearly all products are extreme and of one sign).

    Args:
        x: float32.
        w: quantised.
        unit: which products the device runs; default the faster one, see :func:`int8_unit`.
    """
    q, scale = quantize_tokens(x)
    return integer_product(q, w.values, unit) * scale * w.scales


def integer_product(q: Array, values: Array, unit: Unit | None = None) -> jax.Array:
    """The product of whole numbers in −127 … 127: [..., in] of any dtype and int8 [in, out] to float32 [..., out]."""
    q, values = jnp.asarray(q), jnp.asarray(values)
    if (unit or int8_unit()) == "int8":
        return jnp.matmul(q.astype(jnp.int8), values, preferred_element_type=jnp.int32).astype(jnp.float32)
    return jnp.matmul(q.astype(jnp.bfloat16), values.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def int8_weights_product(x: jax.Array, w: QuantizedMatrix) -> jax.Array:
    """X · W with tokens in bfloat16: float32 [..., in] and [in, out] to float32 [..., out].

    For the few products whose result everything behind depends on. Bfloat16 holds the weights exactly and rounds
    every activation by itself, where :func:`quantize_tokens` gives all of a token the step of its largest one.
    """
    values = jnp.asarray(w.values).astype(jnp.bfloat16)
    return jnp.matmul(x.astype(jnp.bfloat16), values, preferred_element_type=jnp.float32) * w.scales


@functools.cache
def int8_unit() -> Unit:
    """Which products of the default device are faster, int8 or bfloat16; measured once in a process.

    Results do not depend on it, see :func:`int8_product`: only the time they take does.
    """
    left, right = (np.ones(shape, np.int8) for shape in PROBE_SHAPES)
    as_int8 = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.int32))
    as_bfloat16 = jax.jit(lambda a, b: jnp.matmul(a, b.astype(jnp.bfloat16), preferred_element_type=jnp.float32))
    with jax.ensure_compile_time_eval():  # it may be asked for while another program is traced
        slow = _seconds(as_bfloat16, jnp.asarray(left, jnp.bfloat16), jnp.asarray(right))
        return "int8" if _seconds(as_int8, jnp.asarray(left), jnp.asarray(right)) < slow else "bfloat16"


def _seconds(run: Any, *arrays: jax.Array) -> float:
    run(*arrays).block_until_ready()
    best = float("inf")
    for _ in range(PROBE_RUNS):
        start = time.perf_counter()
        run(*arrays).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best
