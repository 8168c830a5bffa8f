"""Steps of optimizers as machine code: NumPy's bits, over the operands or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from distgrad.compiler import switch
from distgrad.primitives import updates
from distgrad.primitives.optimizer_rules import RULES

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-42, 3e38]


@pytest.fixture(autouse=True)
def numpy_again() -> Iterator[None]:
    """Nothing is compiled after a test."""
    yield
    switch.turn(False)


def bits(array: np.ndarray) -> bytes:
    """Those of the elements; any NaN is as good as another."""
    return np.where(np.isnan(array), np.nan, array).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("every", [False, True])
def test_a_compiled_rule_gives_numpys_bits(rule: str, every: bool, dtype: str) -> None:
    options = " ".join(sorted(RULES[rule].options)) if every else ""
    rng = np.random.default_rng(3)
    shapes = [(2, 3), (), (updates.CHUNK + 5,), (4,)]  # the last vector of each run is ragged
    size = sum(math.prod(s) for s in shapes)

    def some(shape: tuple[int, ...]) -> np.ndarray:
        array = np.array(rng.standard_normal(shape), dtype)
        array.reshape(-1)[-len(SPECIAL) :] = rng.permutation(SPECIAL)[: array.size]
        return array

    numbers = np.linspace(0.1, 0.9, RULES[rule].numbers)
    state = [np.abs(some((size,))) for _ in range(RULES[rule].states(frozenset(options.split())))]
    params, grads = ([some(s) for s in shapes] for _ in range(2))
    out = [np.array(a) for a in (*state, *params)]
    with np.errstate(all="ignore"):  # as in a worker
        expected = updates.update_all(numbers, *state, *params, *grads, rule=rule, options=options)
        switch.turn(True)
        made = updates.update_all(numbers, *state, *params, *grads, rule=rule, options=options)
        over = (*out[: len(state)], *out[len(state) :])
        updates.update_all(numbers, *over, *grads, rule=rule, options=options, out=over)
    for a, b, c in zip(expected, made, over, strict=True):
        assert bits(a) == bits(b) == bits(c)


def test_operands_may_lie_in_any_way() -> None:
    """A gradient that is one number, turned parameters, and what is empty."""
    rng = np.random.default_rng(4)
    shapes = [(40,), (30, 20), (0, 3)]
    params = [np.asfortranarray(rng.standard_normal(s).astype("float32")) for s in shapes]
    grads = [np.broadcast_to(np.float32(0.5), s) for s in shapes]
    state = rng.standard_normal(640).astype("float32")
    numbers = np.array([0.1, 0.0, 0.9, 0.9, 1.0])
    made = []
    for on in (False, True):
        switch.turn(on)
        several = updates.update_all(numbers, state, *params, *grads, rule="sgd", options="momentum")
        alone = updates.update(params[1], grads[1], numbers, params[1] * 2, rule="sgd", options="momentum")
        made.append((*several, *alone))
    assert all(bits(a) == bits(b) for a, b in zip(*made, strict=True))


def test_half_precision_is_left_to_numpy() -> None:
    switch.turn(True)
    p, g = np.ones(64, "float16"), np.full(64, 0.5, "float16")
    (made,) = updates.update_all(np.array([0.5, 0, 0, 0, 1]), p, g, rule="sgd", options="")
    assert made.dtype == np.float16
    np.testing.assert_array_equal(made, 0.75)
