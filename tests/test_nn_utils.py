"""`nn.utils` and `functional_call`: clipping, vectors of parameters, and parameters that follow from others."""

from __future__ import annotations

import copy
import math
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.func import functional_call, stack_module_state

utils, parametrize, parametrizations = nn.utils, nn.utils.parametrize, nn.utils.parametrizations


def filled(module: Any) -> Any:
    """The parameters count up from -1 by quarters."""
    for p in module.parameters():
        p.data = (distgrad.arange(p.numel()).reshape(p.shape) * 0.25 - 1).to(p.dtype)
    return module


def with_grads(*grads: Any) -> list[Any]:
    made = []
    for g in grads:
        made.append(nn.Parameter(distgrad.zeros(*np.shape(g))))
        made[-1].grad = distgrad.tensor(g, dtype=distgrad.float32)
    return made


# Clipping.
@pytest.mark.parametrize("order", [1, 2.0, 3, math.inf])
def test_gradients_are_clipped_by_their_norm(torch: ModuleType, order: float) -> None:
    grads = [np.array([[3.0, -4.0]]), np.array([12.0])]
    parameters = [*with_grads(*grads), nn.Parameter(torch.ones(1))]
    total = np.linalg.norm(np.concatenate([g.ravel() for g in grads]), order)
    found = utils.clip_grad_norm_(iter(parameters), 6.5, norm_type=order)
    assert found.item() == pytest.approx(total)
    for p, g in zip(parameters, grads, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), g * 6.5 / total, rtol=1e-6)
    before = parameters[0].grad.tolist()
    utils.clip_grad_norm_(parameters, 100.0)
    assert parameters[0].grad.tolist() == before


def test_other_clipping(torch: ModuleType) -> None:
    (p,) = with_grads([3.0, -0.5])
    utils.clip_grad_value_(p, 1.0)
    assert p.grad.tolist() == [1, -0.5]
    p.grad[0] = math.inf
    with pytest.raises(
        RuntimeError, match=r"norm of order 2.0 for gradients from `parameters` is non-finite"
    ):
        utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert utils.clip_grad_norm_([], 1.0).item() == 0
    with pytest.warns(UserWarning, match="empty generator"):
        utils.clip_grad_norm_((q for q in []), 1.0)


def test_clipping_waits_for_nothing(start: Any) -> None:
    transport = start(workers=3, shard_bytes=1 << 10)
    parameters = [nn.Parameter(distgrad.randn(40, 40)) for _ in range(3)]
    sum((p**2).sum() for p in parameters).backward()
    distgrad.synchronize()
    transport.calls.clear()
    utils.clip_grad_norm_(parameters, 1.0)
    assert transport.calls == []
    assert utils.get_total_norm([p.grad for p in parameters]).item() == pytest.approx(1, rel=1e-5)


def test_parameters_as_one_vector(torch: ModuleType) -> None:
    layer = filled(nn.Linear(2, 3))
    vector = utils.parameters_to_vector(layer.parameters())
    assert vector.tolist() == [-1, -0.75, -0.5, -0.25, 0, 0.25, -1, -0.75, -0.5]
    vector.sum().backward()
    assert layer.bias.grad.tolist() == [1, 1, 1]
    utils.vector_to_parameters(torch.arange(9.0), layer.parameters())
    assert layer.weight.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert layer.bias.tolist() == [6, 7, 8]
    with pytest.raises(TypeError, match=r"expected torch.Tensor, but got: list"):
        utils.vector_to_parameters([1], layer.parameters())


# Parametrizations.
class Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).transpose(-1, -2)

    def right_inverse(self, a: Any) -> Any:
        return a.triu()


class Doubled(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2


class First(nn.Module):
    def forward(self, x: Any) -> Any:
        return x[0]


def test_a_parameter_may_follow_from_another(torch: ModuleType) -> None:
    layer = filled(nn.Linear(3, 3))
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert type(layer).__name__ == "ParametrizedLinear"
    assert layer.weight.tolist() == [[-1, -0.75, -0.5], [-0.75, 0, 0.25], [-0.5, 0.25, 1]]
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad.tolist() == [[1, 2, 2], [0, 1, 2], [0, 0, 1]]
    layer.weight = torch.ones(3, 3)
    assert layer.parametrizations.weight.original.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert layer.weight[0].tolist() == [2, 2, 2]
    with parametrize.cached():
        assert layer.weight is layer.weight
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, layer.weight)
    assert twin.parametrizations.weight.original is not layer.parametrizations.weight.original
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda p: p("weight", First()), ValueError, "may not change the shape of the tensor"),
        (
            lambda p: p("other", Doubled()),
            ValueError,
            "does not have a parameter, a buffer, or a parametrized",
        ),
        (
            lambda p: setattr(p("weight", Doubled()), "weight", 1),
            RuntimeError,
            "parametrization Doubled does not implement right_inverse.",
        ),
        (lambda p: pickle.dumps(p("weight", Doubled())), RuntimeError, "only supported through state_dict"),
        (
            lambda p: parametrize.remove_parametrizations(p("weight", Doubled()), "bias"),
            ValueError,
            "does not have a parametrization on bias",
        ),
    ],
)
def test_what_parametrizing_refuses(act: Any, error: type[Exception], text: str) -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(error, match=text):
        act(lambda *args: parametrize.register_parametrization(layer, *args))


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_parts_length_and_direction(torch: ModuleType, dim: int | None) -> None:
    plain, x = filled(nn.Linear(3, 4).double()), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    new = parametrizations.weight_norm(copy.deepcopy(plain), dim=dim)
    with pytest.warns(FutureWarning, match="deprecated"):
        old = utils.weight_norm(copy.deepcopy(plain), dim=dim)
    weight = plain.weight.detach().numpy()
    others = None if dim is None else (1 - dim,)
    length = np.sqrt((weight**2).sum(others, keepdims=dim is not None))
    for layer, g, v in (
        (new, new.parametrizations.weight.original0, new.parametrizations.weight.original1),
        (old, old.weight_g, old.weight_v),
    ):
        np.testing.assert_allclose(g.detach().numpy(), length)
        np.testing.assert_allclose(layer(x).detach().numpy(), plain(x).detach().numpy())
        layer(x).sum().backward()
        slope = (weight / length * x.numpy()).sum(others, keepdims=dim is not None)
        np.testing.assert_allclose(g.grad.numpy(), slope, atol=1e-12)
        assert v.grad is not None
    fresh = parametrizations.weight_norm(nn.Linear(3, 4).double(), dim=dim)
    fresh.load_state_dict(old.state_dict())
    np.testing.assert_allclose(fresh(x).detach().numpy(), plain(x).detach().numpy())
    utils.remove_weight_norm(old)
    assert sorted(old.state_dict()) == ["bias", "weight"]


def test_spectral_norm_divides_by_the_largest_singular_value(torch: ModuleType) -> None:
    weight = filled(nn.Linear(3, 4)).weight.detach().numpy()
    expected = weight / np.linalg.norm(weight, 2)
    new = parametrizations.spectral_norm(filled(nn.Linear(3, 4)), n_power_iterations=20)
    np.testing.assert_allclose(new.weight.detach().numpy(), expected, rtol=1e-5)
    assert sorted(new.state_dict())[1:3] == ["parametrizations.weight.0._u", "parametrizations.weight.0._v"]
    old = utils.spectral_norm(filled(nn.Linear(3, 4)), n_power_iterations=20)
    old(torch.ones(1, 3)).sum().backward()
    np.testing.assert_allclose(old.weight.detach().numpy(), expected, rtol=1e-5)
    assert list(old.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    again = pickle.loads(pickle.dumps(old))
    assert torch.allclose(again(torch.ones(1, 3)), old(torch.ones(1, 3)))
    before = old.eval().weight_u.tolist()
    old(torch.ones(1, 3))
    assert old.weight_u.tolist() == before
    utils.remove_spectral_norm(old)
    assert list(old.state_dict()) == ["bias", "weight"]


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_a_matrix_stays_orthogonal(torch: ModuleType, kind: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False).double()
    nn.init.orthogonal_(layer.weight)
    before = layer.weight.detach().numpy()
    parametrizations.orthogonal(layer, orthogonal_map=kind)
    assert sorted(layer.state_dict()) == [
        "parametrizations.weight.0.base",
        "parametrizations.weight.original",
    ]
    if shape[0] == shape[1]:  # others are completed at random first
        np.testing.assert_allclose(layer.weight.detach().numpy(), before, atol=1e-12)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (layer.weight * torch.arange(float(math.prod(shape))).reshape(shape)).sum().backward()
        optimizer.step()
    w = layer.weight.detach().numpy()
    assert np.abs(w - before).max() > 0.01
    small = w @ w.T if shape[0] < shape[1] else w.T @ w
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_skip_init() -> None:
    assert utils.skip_init(nn.Linear, 3, 4).weight.shape == (4, 3)
    with pytest.raises(RuntimeError, match="Module must support a 'device' arg"):
        utils.skip_init(nn.Flatten)


# Modules as functions.
class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Parameter(distgrad.ones(1))

    def forward(self, x: Any) -> Any:
        return self.a * 10 + self.b * x


def test_a_module_is_called_with_other_tensors(torch: ModuleType) -> None:
    layer = filled(nn.Linear(2, 1))
    w = torch.ones(1, 2, requires_grad=True)
    out = functional_call(layer, {"weight": w}, torch.tensor([[3.0, 4.0]]))
    assert out.tolist() == [[6]]
    (g,) = torch.autograd.grad(out, w)
    assert g.tolist() == [[3, 4]]
    assert layer.weight.tolist() == [[-1, -0.75]]
    tied, x = Tied(), torch.ones(1)
    two = torch.full((1,), 2.0)
    assert functional_call(tied, {"a": two}, (x,)).item() == 22
    assert functional_call(tied, {"a": two}, (x,), tie_weights=False).item() == 21
    norm = nn.BatchNorm1d(2, affine=False)
    buffers = {name: b.clone() for name, b in norm.named_buffers()}
    functional_call(norm, buffers, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert norm.num_batches_tracked.item() == 0
    assert buffers["num_batches_tracked"].item() == 1
    np.testing.assert_allclose(buffers["running_mean"].numpy(), [0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "options", "error", "text"),
    [
        ({"weight": 3}, {}, TypeError, "3 is not an instance of torch.Tensor"),
        (3, {}, ValueError, "to be a dict, or a list/tuple of dicts"),
        (({"a": None}, {"a": None}), {}, ValueError, r"\['a'\] appeared in multiple dictionaries"),
        ({}, {"strict": True}, RuntimeError, r"for Linear:\n\tMissing key\(s\): 'bias', 'weight'."),
    ],
)
def test_what_functional_call_refuses(given: Any, options: Any, error: type[Exception], text: str) -> None:
    layer = nn.Linear(1, 1)
    before = layer.weight
    with pytest.raises(error, match=text):
        functional_call(layer, given, (distgrad.ones(1, 1),), **options)
    assert layer.weight is before


def test_the_states_of_several_modules(torch: ModuleType) -> None:
    layers = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    parameters, buffers = stack_module_state(layers)
    assert parameters["weight"].shape == (2, 2)
    assert parameters["weight"].is_leaf
    assert parameters["weight"].requires_grad
    assert buffers["num_batches_tracked"].tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="of the same class"):
        stack_module_state([nn.Linear(1, 1), nn.Identity()])
