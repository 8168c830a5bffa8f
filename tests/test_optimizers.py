"""Every optimizer step by step against the published formula, where the parameters are in the driver and where they
are cut, on one worker and on three."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from optimizer_formulas import FORMULAS, OPTIONS

import distgrad as torch
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

RNG = np.random.default_rng(5)
STEPS = 7
START = [RNG.standard_normal(shape) for shape in ((11, 6), (4,), ())]
GRADIENTS = [[RNG.standard_normal(p.shape) for _ in range(STEPS)] for p in START]
EACH = pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, each in OPTIONS.items() for options in each]
)


@pytest.fixture(params=["driver", 1, 3])
def workers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Parameters in the driver, or on so many workers, cut unevenly."""
    door.shutdown()
    if request.param != "driver":
        door.attach(InProcess(request.param, Worker), inline_bytes=0, shard_bytes=64)
    yield request.param
    door.shutdown()


@pytest.fixture
def double() -> Iterator[None]:
    """float64 for numbers too: NAdam and ASGD keep some as tensors of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(workers: Any) -> list[torch.Tensor]:
    made = [torch.tensor(p, dtype=torch.float64) for p in START]
    if workers != "driver":
        made[0] = made[0].reshard([0, 0, 2, 3, 11])
    return [p.requires_grad_() for p in made]


def feed(params: list[torch.Tensor], t: int) -> None:
    """The gradients of step number `t`."""
    for p, gs in zip(params, GRADIENTS, strict=True):
        p.grad = torch.tensor(gs[t], dtype=torch.float64).reshard(p.sharding)


def values(params: list[torch.Tensor]) -> list[np.ndarray]:
    return [p.detach().numpy() for p in params]


@EACH
def test_steps_are_those_of_the_formula(
    workers: Any, name: str, options: dict[str, Any], double: None
) -> None:
    params = parameters(workers)
    optimizer = getattr(torch.optim, name)(params, **options)
    told = {k: v for k, v in options.items() if k not in ("foreach", "fused")}
    wanted = [list(FORMULAS[name](p, gs, **told)) for p, gs in zip(START, GRADIENTS, strict=True)]
    seen = []
    for t in range(STEPS):
        feed(params, t)
        optimizer.step()
        seen.append([p.detach().clone() for p in params])
    for t, each in enumerate(seen):
        for p, want in zip(each, wanted, strict=True):
            np.testing.assert_allclose(p.numpy(), want[t], rtol=1e-12, atol=1e-12)
    for p in params:  # the state lies as its parameter does
        for item in optimizer.state[p].values() if p in optimizer.state else ():
            assert item.sharding == p.sharding or not item.shape


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loaded_state_goes_on_as_the_other(workers: Any, name: str) -> None:
    options = OPTIONS[name][-1]
    params = parameters(workers)
    optimizer = getattr(torch.optim, name)(params, **options)
    for t in range(3):
        feed(params, t)
        optimizer.step()
    others = [p.detach().clone().requires_grad_() for p in params]
    other = getattr(torch.optim, name)(others)
    saved = optimizer.state_dict()
    other.load_state_dict(
        {
            "state": {k: {n: v.clone() for n, v in s.items()} for k, s in saved["state"].items()},
            "param_groups": saved["param_groups"],
        }
    )
    assert other.param_groups[0].keys() == optimizer.param_groups[0].keys()
    for t in range(3, STEPS):
        for each, own in ((params, optimizer), (others, other)):
            feed(each, t)
            own.step()
    for a, b in zip(values(params), values(others), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_stays_float32(name: str) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **OPTIONS[name][-1])
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    assert p.dtype is torch.float32
    assert all(item.dtype is torch.float32 for item in optimizer.state[p].values())
    assert p._version >= 3
