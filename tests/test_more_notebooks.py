"""The last three of the five notebooks; see `test_notebooks.py`."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from printed import Printed, check_printed_numbers, equal

# --- 002: tensors are nodes, functions are edges ----------------------------------------------------------------


def test_002_operations_and_the_gradient_of_out(torch: ModuleType, printed: Printed) -> None:
    x = torch.ones(2, 2, requires_grad=True)
    print(x)
    y = x + 2
    print(y)
    print(y.grad_fn)
    z = y * y * 3
    out = z.mean()
    print(z, "\n", out)
    out.backward()
    print(x.grad)
    printed.equals("""
tensor([[1., 1.],
        [1., 1.]], requires_grad=True)
tensor([[3., 3.],
        [3., 3.]], grad_fn=<AddBackward0>)
<AddBackward0 object at 0x>
tensor([[27., 27.],
        [27., 27.]], grad_fn=<MulBackward0>)\x20
 tensor(27., grad_fn=<MeanBackward0>)
tensor([[4.5000, 4.5000],
        [4.5000, 4.5000]])
""")


def test_002_tracking_begins_later(torch: ModuleType, printed: Printed) -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 2)
    first = a.numpy().astype(float)
    a = (a * 3) / (a - 1)
    print(a.requires_grad)
    assert a.requires_grad_(True) is a
    print(a.requires_grad)
    b = (a * a).sum()
    print(b.grad_fn)
    printed.equals("""
False
True
<SumBackward0 object at 0x>
""")
    assert a.is_leaf
    np.testing.assert_allclose(a.detach().numpy(), first * 3 / (first - 1), rtol=1e-5)
    b.backward()
    equal(a.grad, 2 * a.detach().numpy())


def test_002_doubling_with_its_numbers(torch: ModuleType, printed: Printed) -> None:
    # 1024 times these are the numbers that the notebook printed.
    x = (torch.tensor([622.4786, 186.5931, -1040.9867]) / 1024).requires_grad_()
    y = x * 2
    while y.data.norm() < 1000:
        y = y * 2
    print(y)
    v = torch.tensor([0.1, 1.0, 0.0001], dtype=torch.float)
    y.backward(v)
    print(x.grad)
    printed.equals("""
tensor([  622.4786,   186.5931, -1040.9867], grad_fn=<MulBackward0>)
tensor([1.0240e+02, 1.0240e+03, 1.0240e-01])
""")


def test_002_doubling_with_random_numbers(torch: ModuleType, printed: Printed) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, requires_grad=True)
    y = x * 2
    factor = 2.0
    while y.data.norm() < 1000:
        y = y * 2
        factor *= 2
    print(y)
    check_printed_numbers(printed.text(), y, ", grad_fn=<MulBackward0>)")
    numbers = x.detach().numpy()
    np.testing.assert_array_equal(y.detach().numpy(), numbers * np.float32(factor))
    assert np.linalg.norm(numbers) * factor >= 1000 > np.linalg.norm(numbers) * factor / 2
    v = torch.tensor([0.1, 1.0, 0.0001], dtype=torch.float)
    y.backward(v)
    equal(x.grad, np.array([0.1, 1.0, 0.0001], dtype=np.float32) * np.float32(factor))


def test_002_no_grad_and_detach(torch: ModuleType, printed: Printed) -> None:
    x = torch.randn(3, requires_grad=True)
    print(x.requires_grad)
    print((x**2).requires_grad)
    with torch.no_grad():
        print((x**2).requires_grad)
    printed.equals("True\nTrue\nFalse")

    print(x.requires_grad)
    y = x.detach()
    print(y.requires_grad)
    print(x.eq(y).all())
    printed.equals("True\nFalse\ntensor(True)")


# --- 003: PyTorch gradients -------------------------------------------------------------------------------------


def test_003_back_propagation_on_one_step(torch: ModuleType, printed: Printed) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    y = 2 * x**4 + x**3 + 3 * x**2 + 5 * x + 1
    print(y)
    y.backward()
    print(repr(x.grad))  # the notebook shows the cell's value
    printed.equals("""
tensor(63., grad_fn=<AddBackward0>)
tensor(93.)
""")


def test_003_back_propagation_on_several_steps(torch: ModuleType, printed: Printed) -> None:
    x = torch.tensor([[1.0, 2.0, 3], [3.0, 2.0, 1.0]], requires_grad=True)
    print(x)
    y = 3 * x + 2
    print(y)
    z = 2 * y**2
    print(z)
    out = z.mean()
    print(out)
    out.backward()
    print(x.grad)
    printed.equals("""
tensor([[1., 2., 3.],
        [3., 2., 1.]], requires_grad=True)
tensor([[ 5.,  8., 11.],
        [11.,  8.,  5.]], grad_fn=<AddBackward0>)
tensor([[ 50., 128., 242.],
        [242., 128.,  50.]], grad_fn=<MulBackward0>)
tensor(140., grad_fn=<MeanBackward0>)
tensor([[10., 16., 22.],
        [22., 16., 10.]])
""")


# --- 004: Variable ----------------------------------------------------------------------------------------------

# This notebook is older than the others, and was stored without what it printed. It speaks of a line "Variable
# containing", which torch dropped in 0.4, when Variable became Tensor; so the answers here are what torch 2.13
# prints for its cells.


def test_004_variable(torch: ModuleType, printed: Printed) -> None:
    Variable = torch.autograd.Variable
    x = Variable(torch.ones(2, 2), requires_grad=True)
    assert isinstance(x, Variable)
    assert isinstance(x, torch.Tensor)
    print(x)
    print(x.data)
    print(x.grad)
    print(x.grad_fn)
    y = x + 2
    print(y)
    print(y.grad_fn)
    z = y * y * 3
    out = z.mean()
    print(z, out)
    out.backward()
    print(x.grad)
    printed.equals("""
tensor([[1., 1.],
        [1., 1.]], requires_grad=True)
tensor([[1., 1.],
        [1., 1.]])
None
None
tensor([[3., 3.],
        [3., 3.]], grad_fn=<AddBackward0>)
<AddBackward0 object at 0x>
tensor([[27., 27.],
        [27., 27.]], grad_fn=<MulBackward0>) tensor(27., grad_fn=<MeanBackward0>)
tensor([[4.5000, 4.5000],
        [4.5000, 4.5000]])
""")


def test_004_variable_is_importable_by_name(torch: ModuleType) -> None:
    """`from torch.autograd import Variable`, as the notebook has it, and a Variable that needs no gradient."""
    Variable = importlib.import_module(f"{torch.__name__}.autograd").Variable
    assert Variable is torch.autograd.Variable
    x = Variable(torch.ones(2, 2))
    assert not x.requires_grad


def test_004_two_passes(torch: ModuleType, printed: Printed) -> None:
    torch.manual_seed(0)
    x = torch.autograd.Variable(torch.ones(2, 2), requires_grad=True)
    y = x + 2
    y.backward(torch.ones(2, 2), retain_graph=True)
    print(x.grad)
    z = y * y
    print(z)
    printed.equals("""
tensor([[1., 1.],
        [1., 1.]])
tensor([[9., 9.],
        [9., 9.]], grad_fn=<MulBackward0>)
""")
    gradient = torch.randn(2, 2)
    y.backward(gradient)
    print(x.grad)
    check_printed_numbers(printed.text(), x.grad, ")")
    equal(x.grad, np.float32(1) + gradient.numpy())


@pytest.mark.parametrize("driver", ["Tensor.backward", "autograd.backward"])
def test_004_retain_variables(torch: ModuleType, driver: str) -> None:
    """The notebook's text calls `retain_graph` by its old name.

    torch 2.13 knows that name no more (a TypeError): this is the one place here where distgrad does more.
    """

    def backward(tensor: Any, **options: Any) -> None:
        ones = torch.ones(2, 2)
        if driver == "Tensor.backward":
            tensor.backward(ones, **options)
        else:
            torch.autograd.backward([tensor], [ones], **options)

    x = torch.autograd.Variable(torch.ones(2, 2), requires_grad=True)
    z = (x + 2) * (x + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old name may be called deprecated
        backward(z, retain_variables=True)
        equal(x.grad, np.full((2, 2), 6))
        backward(z, retain_variables=False)
        equal(x.grad, np.full((2, 2), 12))
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        backward(z)
    equal(x.grad, np.full((2, 2), 12))
