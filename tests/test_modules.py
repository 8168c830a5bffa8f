"""`nn.Module`: what it registers, finds, converts and prints. The messages are torch's."""

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


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3, bias=False)
        self.register_buffer("shift", distgrad.ones(3))
        self.register_buffer("passing", distgrad.zeros(2), persistent=False)
        self.rest = nn.ModuleList([nn.Identity(), nn.Identity()])

    def forward(self, x: Any) -> Any:
        return self.second(distgrad.relu(self.first(x))) + self.shift


PRINTED = """\
Net(
  (first): Linear(in_features=4, out_features=8, bias=True)
  (second): Linear(in_features=8, out_features=3, bias=False)
  (rest): ModuleList(
    (0-1): 2 x Identity()
  )
)"""


def test_a_network_is_trained_and_printed(torch: ModuleType) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.arange(20.0).reshape(5, 4) / 10
    assert repr(net) == PRINTED
    net(x).sum().backward()
    w, b, v = (p.detach().numpy() for p in net.parameters())
    hidden = x.numpy() @ w.T + b
    np.testing.assert_allclose(net(x).detach().numpy(), np.maximum(hidden, 0) @ v.T + 1, rtol=1e-5)
    np.testing.assert_allclose(
        net.first.bias.grad.numpy(), (v.sum(0) * (hidden > 0)).sum(0), rtol=1e-5, atol=1e-6
    )
    assert net.second.weight.grad.shape == (3, 8)
    net.zero_grad()
    assert net.second.weight.grad is None


def test_names_and_walks() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == ["first.weight", "first.bias", "second.weight"]
    assert [name for name, _ in net.named_buffers()] == ["shift", "passing"]
    assert [name for name, _ in net.named_modules()] == ["", "first", "second", "rest", "rest.0", "rest.1"]
    assert list(net.state_dict()) == ["shift", "first.weight", "first.bias", "second.weight"]
    assert net.get_parameter("first.bias") is net.first.bias
    assert net.get_submodule("rest.1") is net.rest[1]
    assert net.get_buffer("shift") is net.shift
    shared = nn.Linear(2, 2)
    pair = nn.ModuleList([shared, shared])
    assert len(list(pair.parameters())) == 2
    assert len(list(pair.named_parameters(remove_duplicate=False))) == 4
    assert len(list(pair.children())) == 1
    assert {"first", "shift", "training"} <= set(dir(net))


def test_attributes_change_their_kind() -> None:
    net = Net()
    net.shift = nn.Parameter(distgrad.ones(3))
    assert "shift" in net._parameters
    assert "shift" not in net._buffers
    net.first = None
    assert net.first is None
    net.extra = nn.Buffer(distgrad.ones(2), persistent=False)
    assert "extra" in net._buffers
    assert "extra" not in net.state_dict()
    del net.second
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'second'"):
        _ = net.second


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda n: setattr(n, "first", 3),
            TypeError,
            "cannot assign 'int' as child module 'first' (torch.nn.Module or None expected)",
        ),
        (
            lambda n: setattr(n.first, "weight", distgrad.ones(2)),
            TypeError,
            "cannot assign 'torch.FloatTensor' as parameter 'weight' (torch.nn.Parameter or None expected)",
        ),
        (
            lambda n: setattr(n, "shift", "x"),
            TypeError,
            "cannot assign 'str' as buffer 'shift' (torch.nn.Buffer, torch.Tensor or None expected)",
        ),
        (lambda n: n.register_buffer("first", None), KeyError, "attribute 'first' already exists"),
        (lambda n: n.register_parameter("a.b", None), KeyError, 'parameter name can\'t contain "."'),
        (lambda n: n.add_module("a.b", nn.Identity()), KeyError, 'module name can\'t contain ".", got: a.b'),
        (lambda n: n.add_module("a", 3), TypeError, "int is not a Module subclass"),
        (lambda n: n.register_buffer("", None), KeyError, 'buffer name can\'t be empty string ""'),
        (lambda n: n.get_submodule("first.x"), AttributeError, "Linear has no attribute `x`"),
        (lambda n: n.get_submodule("shift"), AttributeError, "`shift` is not an nn.Module"),
        (lambda n: n.get_parameter("shift"), AttributeError, "`shift` is not an nn.Parameter"),
        (lambda n: n.get_buffer("first.bias"), AttributeError, "`bias` is not a buffer"),
        (lambda n: n.train(1), ValueError, "training mode is expected to be boolean"),
        (
            lambda n: n.to(distgrad.int64),
            TypeError,
            "nn.Module.to only accepts floating point or complex dtypes, but got desired dtype=torch.int64",
        ),
        (
            lambda n: nn.Module()(1),
            NotImplementedError,
            'Module [Module] is missing the required "forward" function',
        ),
        (
            lambda n: n.register_parameter("p", n.first.weight * 1),
            TypeError,
            "cannot assign 'torch.FloatTensor' object to parameter 'p' (torch.nn.Parameter or None required)",
        ),
        (
            lambda n: nn.Module(3),
            TypeError,
            "Module.__init__() takes 1 positional argument but 2 were given",
        ),
        (
            lambda n: setattr(nn.Module.__new__(Net), "x", nn.Parameter(distgrad.ones(1))),
            AttributeError,
            "cannot assign parameters before Module.__init__() call",
        ),
    ],
)
def test_what_is_refused(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        act(Net())
    assert caught.value.args[0] == text


def test_conversions_keep_the_objects(torch: ModuleType) -> None:
    net = Net()
    weight = net.first.weight
    net(torch.ones(2, 4)).sum().backward()
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype is weight.grad.dtype is net.shift.dtype is torch.float64
    net.to(torch.float32).eval().requires_grad_(False)
    assert weight.dtype is torch.float32
    assert not any(m.training for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    seen: list[str] = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "Identity", "Identity", "ModuleList", "Net"]


def test_copies_and_pickles(torch: ModuleType) -> None:
    net = Net()
    net.tied = net.first.weight
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.tied is twin.first.weight is not net.tied
        assert isinstance(twin.tied, nn.Parameter)
        assert torch.equal(twin.first.weight, net.first.weight)
        with torch.no_grad():
            twin.first.weight.add_(1)
        assert not torch.equal(twin.first.weight, net.first.weight)


def test_a_parameter_shares_the_storage_of_its_data(torch: ModuleType) -> None:
    data = torch.ones(2)
    p = nn.Parameter(data)
    assert isinstance(p, torch.Tensor)
    assert repr(p) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
    assert type(p * 2) is type(p.detach()) is type(p.data) is torch.Tensor
    with torch.no_grad():
        data.add_(1)
    assert p.tolist() == [2, 2]
    assert p._version == 1
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        nn.Parameter(torch.tensor([1, 2]))
    assert type(copy.copy(p)) is nn.Parameter


def test_large_parameters_stay_on_the_workers(start: Any) -> None:
    transport = start(workers=3, shard_bytes=1024)
    layer = nn.Linear(64, 128)
    assert transport.calls == []  # nothing is drawn before it is needed
    assert layer.weight.sharding.count > 1
    layer(distgrad.ones(8, 64)).sum().backward()
    assert layer.weight.grad.sharding == layer.weight.sharding
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.full((128, 64), 8.0))
    bound = 1 / math.sqrt(64)
    drawn = layer.weight.detach().numpy()
    assert np.abs(drawn).max() <= bound
    assert abs(drawn.std() - bound / math.sqrt(3)) < 0.003


def test_bilinear_by_einsum(torch: ModuleType) -> None:
    layer = nn.Bilinear(3, 4, 5)
    a, b = torch.randn(2, 6, 3, requires_grad=True), torch.randn(2, 6, 4)
    out = layer(a, b)
    w, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = np.einsum("...i,kij,...j->...k", a.detach().numpy(), w, b.numpy()) + bias
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    out.sum().backward()
    np.testing.assert_allclose(
        a.grad.numpy(), np.einsum("kij,...j->...i", w, b.numpy()), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(RuntimeError) as caught:
        layer(a, torch.randn(2, 6, 3))
    assert str(caught.value) == "bilinear(): input2 size does not match weight size: got 3 but expected 4"


def test_the_longer_names_of_layers() -> None:
    modules = nn.modules
    assert modules.Linear is modules.linear.Linear is nn.Linear
    assert issubclass(nn.BatchNorm2d, modules.batchnorm._BatchNorm)
    assert modules.module.Module is nn.Module
    assert callable(modules.module.register_module_forward_hook)
    assert modules.container.Sequential is nn.Sequential


def test_other_devices_are_refused() -> None:
    layer = nn.Linear(2, 2)
    assert layer.to("cpu", non_blocking=True) is layer.cpu() is layer
    with pytest.raises(RuntimeError, match="Cannot access accelerator device when none is available"):
        layer.to(0)
    with pytest.raises(AssertionError, match="Torch not compiled with CUDA enabled"):
        layer.cuda()
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        layer.to(other=1)
