"""Forms of calls that torch takes: empty lists of dimensions, functions beside methods, and every dotted import."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad as t

# From torch's modules to what they have of the names that exist here: name, or name=the name at the top.
PATHS = {
    "autograd": "Variable backward grad enable_grad no_grad set_grad_enabled",
    "autograd.grad_mode": "enable_grad no_grad set_grad_enabled",
    "functional": "einsum norm",
    "linalg": "diagonal matmul",
    "random": "get_rng_state initial_seed manual_seed seed set_rng_state",
    "special": "digamma erf erfc expm1 log1p logit logsumexp round softmax log_softmax "
    "psi=digamma gammaln=lgamma expit=sigmoid",
    "nn.functional": "tanh sigmoid",
}


@pytest.mark.parametrize("path", PATHS)
def test_names_are_reached_by_every_path(path: str) -> None:
    module = importlib.import_module(f"distgrad.{path}")
    for entry in PATHS[path].split():
        name, _, top = entry.partition("=")
        there = getattr(t, top or name, None) or getattr(t.autograd, name)
        assert getattr(module, name) is there
    found: Any = t
    for part in path.split("."):
        found = getattr(found, part)
    assert found is module


def test_statements_of_import() -> None:
    program = """
import distgrad as torch
import distgrad.nn as nn
import distgrad.nn.functional as F
import distgrad.autograd, distgrad.linalg, distgrad.special, distgrad.random
from distgrad import Size, Tensor, autograd, dtype, float32, linalg, nn as again, special
from distgrad.nn import functional
from distgrad.nn.functional import relu, softmax
from distgrad.autograd import Variable, grad
from distgrad.linalg import norm, vector_norm
from distgrad.special import expit
assert functional is F is torch.nn.functional is nn.functional and again is nn
assert special.expit is torch.sigmoid and callable(torch.linalg.norm)
assert torch.random.manual_seed is torch.manual_seed
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_special_functions() -> None:
    x = t.tensor([0.5, 2.0], dtype=t.float64)
    np.testing.assert_allclose(t.special.expit(x).numpy(), [1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-2))])
    np.testing.assert_allclose(t.special.gammaln(x).numpy(), [math.lgamma(0.5), math.lgamma(2)], atol=1e-15)


# Dimensions.
def test_all_and_any_of_no_dimension(torch: ModuleType) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]])
    for none in ((), []):
        for function in (torch.all, torch.any):
            assert function(x, none).tolist() == [[True, True, True], [True, False, True]]
            assert function(x, dim=none, keepdim=True).dtype is torch.bool
            assert function(x != 0, none).tolist() == [[True, True, True], [True, False, True]]
            assert function(torch.tensor(0), none).item() is False
        assert x.sum(none).item() == 16
        assert x.amax(none).item() == 6
    assert x.all(dim=None).item() is False
    assert x.any(dim=(0, 1)).item() is True


def test_integers_of_numpy_and_tensors_are_dimensions() -> None:
    x = t.tensor([[1.0, 2.0], [3.0, 5.0]])
    for one in (np.int64(1), t.tensor(1), -1):
        assert x.cumsum(one).tolist() == [[1, 3], [3, 8]]
        assert x.argmax(one).tolist() == [1, 1]
        assert x.amax(one).tolist() == [2, 5]
        assert t.softmax(x, one).sum(one).tolist() == pytest.approx([1, 1])
        assert x.topk(one if int(one) > 0 else 1)[0].tolist() == [[2], [5]]
    for wrong in (1.0, "a", (0,), True):
        text = rf"softmax\(\): argument 'dim' \(position 2\) must be int, not {type(wrong).__name__}"
        with pytest.raises(TypeError, match=text):
            t.softmax(x, wrong)


def test_what_torch_refuses_is_refused() -> None:
    flags = t.tensor([[True, False], [True, True]])
    assert flags.clamp(min=t.tensor(True)).all()
    for call, text in (
        (lambda: flags.clamp(flags, flags), "\"clamp_cpu\" not implemented for 'Bool'"),
        (lambda: flags.clamp(max=True), "\"clamp_max_scalar_cpu\" not implemented for 'Bool'"),
        (lambda: flags.median(), "\"median_cpu\" not implemented for 'Bool'"),
        (lambda: flags.median(1), "\"median_out\" not implemented for 'Bool'"),
        (lambda: flags.kthvalue(1), "\"kthvalue_cpu\" not implemented for 'Bool'"),
        (lambda: flags.topk(1), "topk does not support bool dtypes on CPU"),
        (lambda: t.ones(2, 1).squeeze((0, 0)), "dim 0 appears multiple times in the list of dims"),
        (lambda: t.ones(2).roll(()), "`shifts` required"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()


# Functions beside methods.
def test_methods_in_place_are_functions_too(torch: ModuleType) -> None:
    x = torch.tensor([-1.5, 2.0])
    assert torch.zero_(x) is x
    assert x.tolist() == [0, 0]
    y = torch.tensor([-1.5, 2.0])
    assert torch.relu_(y).tolist() == [0, 2]
    assert torch.fill_(y, 3).tolist() == [3, 3]
    assert torch.clamp_(y, max=1).tolist() == [1, 1]
    assert torch.nn.functional.relu_(torch.tensor([-1.0])).tolist() == [0]
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    out = w * 3
    torch.zero_(out)
    (out + w).sum().backward()
    assert w.grad.tolist() == [1, 1]
    assert not torch.detach(w).requires_grad
    assert torch.is_complex(w) is False
    assert torch.real(w) is w
    with pytest.raises(
        TypeError, match=r"zero_\(\): argument 'input' \(position 1\) must be Tensor, not list"
    ):
        torch.zero_([1])
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        torch.zero_(w)


def test_sublists_of_einsum(torch: ModuleType) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    x, y = torch.tensor(a), torch.tensor(b)
    assert torch.einsum(x, [0, 1], y, [1, 2], [0, 2]).tolist() == (a @ b).tolist()
    assert torch.einsum(x, [0, 1], y, [1, 2]).tolist() == (a @ b).tolist()
    assert torch.einsum(x, (0, 1), (1, 0)).tolist() == a.T.tolist()
    assert torch.einsum(x, [0, 1], []).item() == 15
    assert torch.einsum(x, [..., 5], [5, ...]).tolist() == a.T.tolist()


def test_embedding_with_a_bound_on_norms(torch: ModuleType) -> None:
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]], dtype=torch.float64)
    found = torch.nn.functional.embedding(torch.tensor([0, 2, 0]), weight, max_norm=1.0)
    scaled = [3 / (5 + 1e-7), 4 / (5 + 1e-7)]
    np.testing.assert_allclose(found.numpy(), [scaled, [0.3, 0.4], scaled], rtol=1e-15)
    np.testing.assert_allclose(weight.numpy(), [scaled, [6, 8], [0.3, 0.4]], rtol=1e-15)
    assert torch.embedding(weight, torch.tensor(1)).tolist() == [6, 8]


def test_sums_to_a_size_count_in_int64() -> None:
    short, long = t.ones(1, 1, dtype=t.int32), t.ones(2, 3, dtype=t.int32)
    assert t.tensordot(short, long, ([0, 1], [0, 1])).dtype is t.int32  # one of the two is repeated
    flags = t.ones(2, 3, dtype=t.bool)
    assert flags.sum_to_size(3).tolist() == [2, 2, 2]
    assert t.ones(2, 3, dtype=t.int32).sum_to_size(1, 3).dtype is t.int64
    assert t.ones(2, 3, dtype=t.int32).sum_to_size(2, 3).dtype is t.int32
    assert t.linspace(4.3, -3, 8, dtype=t.int64).tolist() == [4, 3, 2, 1, 0, -1, -2, -3]
