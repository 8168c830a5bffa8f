"""NumPy's own warnings reach nobody: infinities that meet, overflow and 0 / 0 are what they are, as in torch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from op_calls import CUTS, OPS, Array, calls, is_real, leaves, workers

import distgrad as torch
from distgrad.session import door
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

SPECIAL = [np.inf, -np.inf, np.nan, 3e38, -3e38, 0.0, -0.0, 1e-45]


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    door.shutdown()
    yield
    door.shutdown()


def special(array: Array) -> Array:
    """An array of this shape with what NumPy warns of."""
    if not is_real(array):
        return array
    return np.resize(np.array(SPECIAL), array.shape).astype(array.dtype)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_infinities_that_meet_in_the_driver(count: int) -> None:
    door.attach(InProcess(count, Worker), inline_bytes=0, shard_bytes=64)
    x = torch.from_numpy(np.array([np.inf] * 20 + [-np.inf] * 20)).reshard(5)
    assert np.isnan(x.sum().item())
    assert np.isnan(x.mean().item())
    assert np.isnan(torch.stack([x, x]).sum(1).tolist()).all()


def test_infinities_that_meet_between_ray_workers(ray_workers: Transport) -> None:
    door.attach(ray_workers, inline_bytes=0, shard_bytes=64, timeout=120)
    try:
        x = torch.from_numpy(np.array([np.inf] * 20 + [-np.inf] * 20)).reshard(5)
        assert np.isnan(x.sum().item())
    finally:
        door.detach()


@pytest.mark.sweep
@pytest.mark.parametrize("where", ["driver", "workers"])
@pytest.mark.parametrize("name", sorted(OPS))
def test_ops_on_special_values(name: str, where: str) -> None:
    with workers(0 if where == "workers" else 1 << 20):
        for call in calls(name):
            arrays = [special(array) for array in call.arrays()]
            cut = CUTS["mixed"]
            tensors: list[Tensor] = []
            for number, array in enumerate(arrays):
                made = torch.from_numpy(array)
                tensors.append(made.reshard(cut(number, array.shape)) if where == "workers" else made)
                tensors[-1].requires_grad_(is_real(array))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=UserWarning)  # distgrad's own, as torch has them
                _run(call, tensors)


def _run(call: object, tensors: list[Tensor]) -> None:
    """Values and gradients are made; a value that an op does not take may be refused."""
    try:
        outs = [out for out in leaves(call.run(tensors)) if isinstance(out, Tensor)]  # type: ignore[attr-defined]
        for out in outs:
            out.tolist()
            str(out)
        loss = sum(out.sum() for out in outs if out.requires_grad)
        for grad in torch.autograd.grad(loss, tensors, allow_unused=True) if isinstance(loss, Tensor) else ():
            _ = None if grad is None else grad.tolist()
    except RuntimeWarning:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, OverflowError):
        return


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sci_mode", [None, True, False])
def test_printing(dtype: torch.dtype, sci_mode: bool | None) -> None:
    with torch.printoptions(sci_mode=sci_mode):
        for values in (
            [np.inf, np.nan],
            SPECIAL,
            [1e-45, 3e38],
            [-3e38, 3e38],
            [5e-324, 1.7e308],
            [np.nan],
            [0.0],
        ):
            x = torch.tensor(values, dtype=dtype)
            assert str(x).startswith("tensor([")
            assert f"{x[0]:.3f}"


def test_in_another_thread() -> None:
    told: list[object] = []

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                with workers(0, 64):
                    x = torch.from_numpy(np.array([np.inf] * 20 + [-np.inf] * 20)).reshard(5)
                    told.append((x / x).sum().item())
                told.append((torch.ones(3) / 0 - torch.ones(3) / 0).sum().item())
            except Warning as warning:
                told.append(warning)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [type(t) for t in told] == [float, float]


def test_the_users_own_warnings_stay() -> None:
    before = np.geterr()
    with workers(0, 64):
        torch.from_numpy(np.array([np.inf, -np.inf] * 9)).reshard(2).sum().item()
    assert np.geterr() == before
    with pytest.warns(RuntimeWarning, match="invalid value"):
        np.array(np.inf) - np.array(np.inf)
