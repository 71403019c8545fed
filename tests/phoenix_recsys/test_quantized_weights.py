"""Int8 weight matrices and their products: bounds of the error, exact sums, and what is refused."""

from __future__ import annotations

from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.quantized_weights import (
    MATRICES,
    QuantizedMatrix,
    Unit,
    as_float,
    int8_product,
    int8_unit,
    int8_weights_product,
    integer_product,
    params_nbytes,
    quantize_matrix,
    quantize_params,
    quantize_tokens,
)

SEED = st.integers(0, 2**16)
WIDTH = st.sampled_from([1, 2, 7, 33, 64])
"""Few, since every shape is compiled."""
EXPONENT = st.integers(-25, 25)
FEW = settings(max_examples=15, deadline=None)


@attrs.frozen(eq=False)
class Case:
    """Tokens and a matrix, float32 and quantised."""

    x: np.ndarray[Any, np.dtype[np.float32]]
    w: np.ndarray[Any, np.dtype[np.float32]]
    quantized: QuantizedMatrix


def _case(seed: int, inputs: int, outputs: int = 5, exponent: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((7, inputs)) * 10.0**exponent).astype(np.float32)
    w = (rng.standard_normal((inputs, outputs)) * rng.uniform(0.1, 10, outputs)).astype(np.float32)
    return Case(x, w, quantize_matrix(w))


@FEW
@given(seed=SEED, inputs=WIDTH, outputs=st.sampled_from([1, 9]))
def test_weights_are_within_half_a_step(seed: int, inputs: int, outputs: int) -> None:
    """Every weight lies within half a step of its channel, and the largest of a channel is ±127 steps."""
    case = _case(seed, inputs, outputs)
    assert case.quantized.values.dtype == np.int8
    assert case.quantized.scales.dtype == np.float32
    assert case.quantized.shape == (inputs, outputs)
    assert case.quantized.nbytes == inputs * outputs + 4 * outputs
    gap = np.abs(np.asarray(as_float(case.quantized)) - case.w)
    assert (gap <= np.asarray(case.quantized.scales) * 0.5001).all()
    assert (np.abs(np.asarray(case.quantized.values)).max(axis=0) == 127).all()


@FEW
@given(seed=SEED, inputs=WIDTH, exponent=EXPONENT)
def test_tokens_are_within_half_a_step(seed: int, inputs: int, exponent: int) -> None:
    """Every activation lies within half a step of its token, whatever the token's size."""
    x = _case(seed, inputs, exponent=exponent).x
    whole, scales = (np.asarray(part) for part in quantize_tokens(jnp.asarray(x)))
    assert np.abs(whole).max() == 127
    assert (whole == np.rint(whole)).all()
    assert (np.abs(whole * scales - x) <= scales * 0.501).all()


@FEW
@given(seed=SEED, inputs=WIDTH, exponent=EXPONENT)
def test_products_keep_to_their_bound(seed: int, inputs: int, exponent: int) -> None:
    """A product is off by no more than half a step of either factor at each input allows."""
    case = _case(seed, inputs, exponent=exponent)
    scales = np.abs(case.x).max(axis=1, keepdims=True).astype(np.float64) / 127
    wide_x, wide_w = np.abs(case.x).astype(np.float64), np.abs(case.w).astype(np.float64)
    steps = np.asarray(case.quantized.scales, np.float64)
    wanted = case.x.astype(np.float64) @ case.w
    bound = 0.51 * (scales * wide_w.sum(axis=0) + wide_x.sum(axis=1, keepdims=True) * steps + inputs * scales * steps)
    assert (np.abs(np.asarray(int8_product(jnp.asarray(case.x), case.quantized)) - wanted) <= bound).all()
    # Bfloat16 keeps eight bits of every activation.
    bound = 0.51 * wide_x.sum(axis=1, keepdims=True) * steps * 1.01 + 2.0**-8 * wide_x @ wide_w
    assert (np.abs(np.asarray(int8_weights_product(jnp.asarray(case.x), case.quantized)) - wanted) <= bound).all()


@pytest.mark.parametrize("inputs", [1, 3, 64, 1040])
@pytest.mark.parametrize("how", ["random", "extreme"])
def test_both_units_give_the_same_bits(inputs: int, how: str) -> None:
    """Products in int8 and in bfloat16 are equal to the last bit, even where every one is extreme."""
    case = _case(inputs, inputs)
    if how == "extreme":
        case = attrs.evolve(case, x=np.ones_like(case.x), quantized=quantize_matrix(np.ones_like(case.w)))
    units: tuple[Unit, Unit] = ("int8", "bfloat16")
    for run in (int8_product, jax.jit(int8_product, static_argnames="unit")):
        first, second = (np.asarray(run(jnp.asarray(case.x), case.quantized, unit=unit)) for unit in units)
        np.testing.assert_array_equal(first, second)
    assert int8_unit() in units
    chosen = np.asarray(int8_product(jnp.asarray(case.x), case.quantized))
    np.testing.assert_array_equal(chosen, np.asarray(int8_product(jnp.asarray(case.x), case.quantized, "int8")))


@FEW
@given(seed=SEED, inputs=st.sampled_from([1, 9, 500, 1040]))
def test_integer_products_are_exact(seed: int, inputs: int) -> None:
    """Sums of whole numbers are those that int64 gives."""
    rng = np.random.default_rng(seed)
    q, values = rng.integers(-127, 128, (3, inputs)), rng.integers(-127, 128, (inputs, 4)).astype(np.int8)
    wanted = q @ values.astype(np.int64)
    for unit in ("int8", "bfloat16"):
        found = integer_product(q.astype(np.float32), values, unit)
        np.testing.assert_array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("unit", ["int8", "bfloat16"])
def test_empty_tokens_give_zero(unit: Unit) -> None:
    """A token of zeros, or too small for a scale, gives zeros beside others that do not feel it."""
    case = _case(1, 16)
    x = case.x.copy()
    x[2], x[4] = 0, 1e-38
    found = np.asarray(int8_product(jnp.asarray(x), case.quantized, unit))
    assert np.isfinite(found).all()
    assert not found[2].any()
    assert np.abs(found[4]).max() < 1e-30
    rest = [0, 1, 3, 5, 6]
    np.testing.assert_array_equal(
        found[rest], np.asarray(int8_product(jnp.asarray(case.x), case.quantized, unit))[rest]
    )


@pytest.mark.parametrize("unit", ["int8", "bfloat16"])
def test_a_broken_token_shows(unit: Unit) -> None:
    """NaN or an infinite value in a token makes its own results NaN or infinite, and no other's."""
    case = _case(2, 16)
    x = case.x.copy()
    x[2, 3], x[4, 3] = np.nan, np.inf
    found = np.asarray(int8_product(jnp.asarray(x), case.quantized, unit))
    assert not np.isfinite(found[[2, 4]]).any()
    assert np.isfinite(found[[0, 1, 3, 5, 6]]).all()


def test_unusable_matrices_are_refused(small_ranker: Artifact) -> None:
    """NaN, infinite and whole numbers are refused with the matrix's name."""
    w = np.ones((3, 4), np.float32)
    w[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"proj: wanted finite numbers .* found nan in row 2, column 1"):
        quantize_matrix(w, name="proj")
    with pytest.raises(TypeError, match="floating point"):
        quantize_matrix(np.ones((3, 4), np.int8))
    params = {"phoenix_model": {"unembeddings": w}}
    with pytest.raises(ValueError, match="phoenix_model/unembeddings"):
        quantize_params(params)


def test_parameters_are_quantised_once(small_ranker: Artifact) -> None:
    """Matrices that products read are quantised, everything else and what is quantised already stays as it is."""
    once = quantize_params(small_ranker.params)
    again = quantize_params(once)
    matrices = 0
    for module, entries in small_ranker.params.items():
        for name, value in entries.items():
            found = once[module][name]
            assert again[module][name] is found
            if name in MATRICES:
                matrices += 1
                assert isinstance(found, QuantizedMatrix)
                assert found.shape == value.shape
            else:
                assert found is value
    assert matrices == 3 + 2 + 7 * 2
    assert params_nbytes(once) < 0.45 * params_nbytes(small_ranker.params)


def test_float_matrices_come_back_in_float32() -> None:
    """On the host and on the device a quantised matrix has the same float values; a float one keeps its own."""
    case = _case(3, 12)
    on_device = QuantizedMatrix(*map(jnp.asarray, case.quantized))
    np.testing.assert_array_equal(np.asarray(as_float(on_device)), np.asarray(as_float(case.quantized)))
    half = as_float(case.w.astype(np.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.asarray(half), case.w, rtol=1e-3)
