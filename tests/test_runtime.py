"""The runtime from `emit` to `fetch`, with workers in this process: same bits everywhere, and nothing is left over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import run_whole
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder import Recorder
from values import (
    CUTS,
    WORKERS,
    Start,
    emit,
    put,
    same_bits,
    train,
    work,
)

from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.graph import Value
from distgrad.primitives import TABLE
from distgrad.session import core, door

# Many values, each with what NumPy says.

reference: dict[Any, dict[str, np.ndarray]] = {}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cut_g", ["whole", "even", "last"])
@pytest.mark.parametrize("cut_x", CUTS)
def test_results_are_numpys_and_their_bits_the_same_on_any_number_of_workers(
    cut_x: str, cut_g: str, workers: int, start: Start
) -> None:
    start(workers, shard_bytes=300)
    made = work(CUTS[cut_x], {"whole": None, "even": 9, "last": {1: 2}}[cut_g])
    if workers % 2:
        session.flush()
    got = {name: session.fetch(value) for name, (value, _) in made.items()}
    for name, (value, expected) in made.items():
        assert got[name].shape == value.shape == expected.shape
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], expected, rtol=2e-4, atol=2e-4, err_msg=name)
    first = reference.setdefault((cut_x, cut_g), got)
    assert [name for name in got if not same_bits(got[name], first[name])] == []


@pytest.mark.parametrize("workers", [1, 3])
def test_fusing_changes_nothing(workers: int, start: Start) -> None:
    """All at once, and each node by a flush of its own."""
    for cuts in CUTS.values():
        start(workers, shard_bytes=300)
        fused = {name: session.fetch(value) for name, (value, _) in work(cuts, 9).items()}
        start(workers, shard_bytes=300)
        record = core.Session.record

        def alone(self: Any, *args: Any, record: Any = record) -> Any:
            values = record(self, *args)
            self.flush()
            return values

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.Session, "record", alone)
            made = work(cuts, 9)
        for name, (value, _) in made.items():
            np.testing.assert_allclose(session.fetch(value), fused[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_inprocess_workers_by_init() -> None:
    door.shutdown()
    with door.init("inproc", workers=3, inline_bytes=0, shard_bytes=300):
        for value, expected in work(4, 9).values():
            np.testing.assert_allclose(session.fetch(value), expected, rtol=2e-4, atol=2e-4)
    assert not session.is_initialized()


@pytest.mark.parametrize("cuts", CUTS)
def test_training_has_the_same_bits_on_any_number_of_workers(cuts: str, start: Start) -> None:
    runs = []
    for workers in WORKERS:
        start(workers, shard_bytes=100)
        runs.append(train(CUTS[cuts], 6))
    losses = [float(v) for v in runs[0][2:]]
    assert losses == sorted(losses, reverse=True)
    for run in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(run, runs[0], strict=True))


# Random graphs.

SHAPES = [(12, 6), (6,), (12, 1), (1,), (), (0, 6), (6, 6)]


def fits(*arrays: np.ndarray) -> bool:
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return False
    return True


def choices(arrays: list[np.ndarray]) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """What could be done next: primitive, operands and attributes."""
    found: list[tuple[str, tuple[int, ...], dict[str, Any]]] = []
    for i, a in enumerate(arrays):
        found += [(name, (i,), {}) for name in ("tanh", "negative", "sigmoid")]
        found += [("sum", (i,), {"dims": dims, "keepdim": keep, "dtype": "float64"})
                  for dims in {(), (0,)[: a.ndim], tuple(range(a.ndim))} for keep in (True, False)]  # fmt: skip
        found.append(("reshape", (i,), {"shape": (a.size,)}))
        found.append(("permute", (i,), {"dims": tuple(range(a.ndim))[::-1]}))
        if a.ndim:
            found.append(("flip", (i,), {"dims": (0,)}))
            found.append(("cumsum", (i,), {"dim": 0, "dtype": "float64"}))
            found.append(
                ("slice", (i,), {"slices": tuple((n // 3, (n - n // 3 + 1) // 2, 2) for n in a.shape)})
            )
            inner = tuple((0, n, 1) for n in a.shape[1:])
            if a.size:
                found += [("slice", (i,), {"slices": ((k, len(a) - 1, 1), *inner)}) for k in (0, 1)]
            wider = sharding_of((len(a) + 2, *a.shape[1:]), 3)
            found.append(("pad", (i,), {"slices": ((1, len(a), 1), *inner), "cuts": wider}))
            found.append(("cat", (i, i), {"dim": a.ndim - 1, "sizes": (a.shape[-1],) * 2}))
            found.append(("reshard", (i,), {"cuts": sharding_of(a.shape, {-1: [a.shape[-1] // 2]})}))
            if a.size:
                found.append(("softmax", (i,), {"dim": a.ndim - 1}))
                found.append(("amax", (i,), {"dims": (0,), "keepdim": True}))
                found.append(("reshard", (i,), {"cuts": sharding_of(a.shape, 5)}))
        for j, b in enumerate(arrays):
            if a.ndim == b.ndim and all(m <= n for n, m in zip(a.shape, b.shape, strict=True)):
                slices = tuple((n - m, m, 1) for n, m in zip(a.shape, b.shape, strict=True))
                found.append(("slice_put", (i, j), {"parts": (slices,)}))
            if fits(a, b):
                found += [(name, (i, j), {}) for name in ("add", "multiply", "maximum", "subtract")]
            if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]:
                found.append(("contract", (i, j), {"subscripts": "mk,kn->mn"}))
            if a.ndim == b.ndim == 2 and a.shape[0] == b.shape[0]:
                found.append(("contract", (i, j), {"subscripts": "km,kn->mn"}))
    return [f for f in found if run_size(arrays, f) <= 2000]


def run_size(arrays: list[np.ndarray], choice: tuple[str, tuple[int, ...], dict[str, Any]]) -> int:
    name, ins, attrs = choice
    primitive = TABLE[name]
    return primitive.shape([door_aval(arrays[i]) for i in ins], attrs)[0].size


def door_aval(array: np.ndarray) -> Any:
    return Value.known(array).result.aval


@pytest.mark.sweep
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = [rng.standard_normal(draw(st.sampled_from(SHAPES))) for _ in range(draw(st.integers(1, 3)))]
    cuts = [
        {
            d: sorted(draw(st.lists(st.integers(0, n), max_size=3)))
            for d, n in enumerate(a.shape)
            if draw(st.booleans())
        }
        for a in arrays
    ]
    steps: list[Any] = []
    for _ in range(draw(st.integers(1, 9))):
        name, ins, attrs = draw(st.sampled_from(choices(arrays)))
        steps.append((name, ins, attrs, draw(st.sampled_from(["go on"] * 4 + ["flush", "fetch", "drop"]))))
        arrays.append(np.asarray(run_whole(TABLE[name], [arrays[i] for i in ins], attrs)[0]))
    inputs = len(cuts)
    shard_bytes = draw(st.sampled_from([1, 64, 200, 1 << 20]))
    runs = []
    for workers in (1, draw(st.integers(2, 5))):
        door.shutdown()
        transport = Recorder(workers)
        door.attach(transport, inline_bytes=0, shard_bytes=shard_bytes)
        try:
            values: list[Value | None] = [put(a, c) for a, c in zip(arrays, cuts, strict=False)]
            for n, (name, ins, attrs, then) in enumerate(steps):
                values.append(emit(name, *(values[i] for i in ins), **attrs))  # type: ignore[arg-type]
                if then == "flush":
                    session.flush()
                elif then == "fetch":
                    session.fetch(values[-1])  # type: ignore[arg-type]
                elif then == "drop" and not any(inputs + n in later for _, later, _, _ in steps[n + 1 :]):
                    values[-1] = None
            got = [None if v is None else session.fetch(v) for v in values]
            runs.append(got)
            del values
            session.flush()  # work that nobody waits for holds its operands until then
            session.memory()
            assert [dict(w.store) for w in transport.objects] == [{}] * workers
        finally:
            door.shutdown()
    for array, one, many in zip(arrays, *runs, strict=True):
        if one is not None and many is not None:
            np.testing.assert_allclose(one, array, rtol=1e-9, atol=1e-9)
            assert same_bits(one, many)
