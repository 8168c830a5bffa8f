"""Tensors as objects, and the functions that make them: what torch prints, in the driver and on workers."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import golden_cases
import numpy as np
import pytest


@pytest.mark.parametrize("case", golden_cases.cases("tensor"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


@pytest.fixture
def cut(torch: ModuleType) -> ModuleType:
    """`torch` with workers in any case: tensors with cuts of their own need some."""
    if not torch.is_initialized():
        torch.init("inproc", workers=2)
    return torch


def test_random_numbers_depend_on_the_seed_alone(cut: ModuleType) -> None:
    def draw(**options: object) -> list[list[float]]:
        cut.manual_seed(5)
        made = [
            cut.rand(7, 3, **options),
            cut.randn(7, 3, **options),
            cut.randint(0, 9, (7, 3), **options),
        ]
        return [x.reshape(-1).tolist() for x in made]

    first = draw()
    assert draw(sharding=2) == draw(sharding={1: 1}) == draw(sharding=[0, 0, 5]) == first
    assert cut.rand(3).tolist() != cut.rand(3).tolist()


def test_random_numbers_are_as_they_should_be(torch: ModuleType) -> None:
    torch.manual_seed(1)
    uniform, normal = torch.rand(2000).numpy(), torch.randn(2000).numpy()
    whole = torch.randint(3, 6, (2000,)).numpy()
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1
    assert np.bincount(whole).tolist()[:3] == [0, 0, 0]
    assert np.bincount(whole)[3:].min() > 550
    assert sorted(torch.randperm(50).tolist()) == list(range(50))


def test_states_of_the_random_numbers(torch: ModuleType) -> None:
    torch.manual_seed(3)
    torch.rand(2)
    state = torch.get_rng_state()
    first = torch.rand(4).tolist()
    torch.set_rng_state(state)
    assert torch.rand(4).tolist() == first
    generator = torch.Generator().manual_seed(3)
    torch.rand(2, generator=generator)
    assert torch.rand(4, generator=generator).tolist() == first


def test_sharding_is_as_asked_for(cut: ModuleType) -> None:
    x = cut.ones(10, 4, sharding=4)
    assert x.sharding.grid == (3, 1)
    assert cut.zeros_like(x).sharding == x.sharding
    assert cut.tensor([[1.0, 2.0]], sharding={1: 1}).tolist() == [[1.0, 2.0]]
    y = x.reshard([0, 3, 3, 10])
    assert y.sharding.cuts[0].edges == (0, 3, 3, 10)
    assert (x + y).sum().item() == 80
    with pytest.raises(ValueError, match="cut points"):
        x.reshard([0, 20])


def test_a_leafs_gradient_has_its_sharding(cut: ModuleType) -> None:
    x = cut.ones(10, 4, sharding=3, requires_grad=True)
    w = cut.ones(4, 6, requires_grad=True, sharding={1: 2})
    ((x @ w) * cut.ones(10, 6)).sum().backward()
    assert x.grad.sharding == x.sharding
    assert w.grad.sharding == w.sharding
    assert x.grad.tolist() == [[6.0] * 4] * 10
    assert w.grad.tolist() == [[10.0] * 6] * 4
    y = cut.ones(10, 4, sharding=3, requires_grad=True)
    y.reshard({1: 2}).sum().backward()
    assert y.grad.sharding == y.sharding


def test_numpy_takes_tensors(torch: ModuleType) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(x).dtype == np.float32
    assert np.array_equal(np.array(x, dtype=np.float64), [[1, 2], [3, 4]])
    assert np.sum(np.asarray(x)) == 10
    assert isinstance(np.exp(x), torch.Tensor)
    copied = x.numpy()
    copied[0] = 9
    assert x[0].tolist() == [1.0, 2.0]
    assert (x * np.full((2, 2), 2.0)).dtype is torch.float64
    assert (np.full(2, 2.0, np.float32) * x).tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert (x * np.float64(2)).dtype is torch.float32


def test_copies(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    other = copy.deepcopy(x)
    other.grad.zero_()
    assert x.grad.tolist() == [2.0, 4.0]
    twins = copy.deepcopy([x, x])
    assert twins[0] is twins[1]
    loaded = pickle.loads(pickle.dumps(x))
    assert loaded.requires_grad
    assert loaded.tolist() == [1.0, 2.0]
    assert pickle.loads(pickle.dumps(x.dtype)) is x.dtype
    assert copy.deepcopy(x.shape) == x.shape


def test_users_may_note_things_on_a_tensor(torch: ModuleType) -> None:
    x = torch.ones(2)
    x.label = "weights"
    assert x.label == "weights"
    assert len({x, x, torch.ones(2)}) == 2


def test_a_large_tensor_is_printed_by_its_corners(torch: ModuleType) -> None:
    x = torch.arange(2400.0).reshape(60, 40)
    text = str(x)
    assert (
        text.splitlines()[0] == "tensor([[0.0000e+00, 1.0000e+00, 2.0000e+00,  ..., 3.7000e+01, 3.8000e+01,"
    )
    assert len(text) < 800
    assert "requires_grad=True" in str(torch.zeros(30, 50, requires_grad=True))


def test_a_variable_is_a_tensor(torch: ModuleType) -> None:
    data = torch.ones(2)
    x = torch.autograd.Variable(data, requires_grad=True)
    assert isinstance(x, torch.autograd.Variable)
    assert isinstance(x, torch.Tensor)
    assert x.requires_grad
    assert not data.requires_grad
    data.add_(1)
    assert x.tolist() == [2.0, 2.0]
