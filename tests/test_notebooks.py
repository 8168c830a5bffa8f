"""The five notebooks that the project was started from: what they compute and what they print.

Where a notebook draws random numbers, a test runs it twice over: on numbers of its own, with the results checked
by arithmetic, and on the numbers that the notebook printed, with its text as the answer. Addresses are
printed as `0x`.
"""

import importlib
import re
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest


class Printed:
    """What was printed since the last look, without addresses and outer blank lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def text(self) -> str:
        return re.sub(r"0x[0-9a-f]+", "0x", self.capsys.readouterr().out).strip("\n")

    def equals(self, expected: str) -> None:
        assert self.text() == expected.strip("\n")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


def check_printed_numbers(text: str, tensor: Any, suffix: str) -> None:
    """`text` is the printed form of `tensor`, whatever numbers it holds: four digits behind the point."""
    assert text.startswith("tensor(")
    assert text.endswith(suffix)
    rows = text.removesuffix(suffix).count("\n") + 1
    assert rows == (tensor.shape[0] if tensor.ndim == 2 else 1)
    numbers = re.findall(r"-?\d+\.\d{4}(?:e[+-]\d\d)?", text)
    np.testing.assert_allclose(
        np.array(numbers, dtype=float).reshape(tuple(tensor.shape)),
        np.array(tensor.tolist()),
        rtol=1e-4,
        atol=1e-4,
    )


def equal(tensor: Any, expected: Any) -> None:
    """`tensor` holds exactly these numbers, as float32, and is no part of a graph."""
    expected = np.asarray(expected, dtype=np.float32)
    assert not tensor.requires_grad
    assert tensor.numpy().dtype == np.float32
    np.testing.assert_array_equal(tensor.numpy(), expected, strict=True)


# --- 000: automatic differentiation -----------------------------------------------------------------------------


def test_000_with_its_numbers(torch: ModuleType, printed: Printed) -> None:
    x = torch.tensor(
        [
            [1.2012, 1.7958, 0.4781],
            [-0.2387, 1.3726, -0.0301],
            [1.1328, 0.9182, -0.5147],
            [0.8763, -0.2810, 0.2551],
        ],
        requires_grad=True,
    )
    print("\n----------- x ------------")
    print(x)
    printed.equals("""
----------- x ------------
tensor([[ 1.2012,  1.7958,  0.4781],
        [-0.2387,  1.3726, -0.0301],
        [ 1.1328,  0.9182, -0.5147],
        [ 0.8763, -0.2810,  0.2551]], requires_grad=True)
""")

    y = x + 1
    print("\n----------- y ------------")
    print(y)
    printed.equals("""
----------- y ------------
tensor([[2.2012, 2.7958, 1.4781],
        [0.7613, 2.3726, 0.9699],
        [2.1328, 1.9182, 0.4853],
        [1.8763, 0.7190, 1.2551]], grad_fn=<AddBackward0>)
""")

    print(y.grad_fn)
    printed.equals("<AddBackward0 object at 0x>")

    z = y + y + 2
    print("\n----------- z ------------")
    print(z)
    m = z.mean()
    print("\nMean of z : ", m)
    # The notebook's x had more digits than it printed, so these differ from its text in the last one.
    printed.equals("""
----------- z ------------
tensor([[6.4024, 7.5916, 4.9562],
        [3.5226, 6.7452, 3.9398],
        [6.2656, 5.8364, 2.9706],
        [5.7526, 3.4380, 4.5102]], grad_fn=<AddBackward0>)

Mean of z :  tensor(5.1609, grad_fn=<MeanBackward0>)
""")

    # The cells were run three times (their counters jump from 5 to 9 and to 13), and gradients accumulate. Nothing
    # here is saved for backward, so the same graph may be walked again.
    for _ in range(3):
        m.backward()
    print(x.grad)
    printed.equals("""
tensor([[0.5000, 0.5000, 0.5000],
        [0.5000, 0.5000, 0.5000],
        [0.5000, 0.5000, 0.5000],
        [0.5000, 0.5000, 0.5000]])
""")


def test_000_with_random_numbers(torch: ModuleType, printed: Printed) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    print(x)
    check_printed_numbers(printed.text(), x, ", requires_grad=True)")
    y = x + 1
    print(y)
    check_printed_numbers(printed.text(), y, ", grad_fn=<AddBackward0>)")
    z = y + y + 2
    print(z)
    check_printed_numbers(printed.text(), z, ", grad_fn=<AddBackward0>)")
    m = z.mean()
    print(m)
    check_printed_numbers(printed.text(), m, ", grad_fn=<MeanBackward0>)")

    numbers = x.detach().numpy()
    assert len(np.unique(numbers)) == 12
    np.testing.assert_array_equal(z.detach().numpy(), (numbers + 1) + (numbers + 1) + 2)
    np.testing.assert_allclose(m.item(), (2 * numbers.astype(float) + 4).mean(), rtol=1e-6)
    m.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((4, 3), 2 / 12), rtol=1e-6)


# --- 001: differentiation in autograd ---------------------------------------------------------------------------


def test_001_basic_usage(torch: ModuleType, printed: Printed) -> None:
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    print(a)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    print(b)
    Q = 3 * a**3 - b**2
    print(Q)
    external_grad = torch.tensor([1.0, 1.0])
    Q.backward(gradient=external_grad)
    print(a.grad)
    print(b.grad)
    print(9 * a**2 == a.grad)
    print(-2 * b == b.grad)
    printed.equals("""
tensor([2., 3.], requires_grad=True)
tensor([6., 4.], requires_grad=True)
tensor([-12.,  65.], grad_fn=<SubBackward0>)
tensor([36., 81.])
tensor([-12.,  -8.])
tensor([True, True])
tensor([True, True])
""")


def test_001_computational_graph(torch: ModuleType, printed: Printed) -> None:
    x = torch.tensor([[2.1829], [-0.0914], [0.7154]], requires_grad=True)
    print(x)
    y = x + 1
    print(y)
    print(y.requires_grad)
    print(y.grad_fn)
    printed.equals("""
tensor([[ 2.1829],
        [-0.0914],
        [ 0.7154]], requires_grad=True)
tensor([[3.1829],
        [0.9086],
        [1.7154]], grad_fn=<AddBackward0>)
True
<AddBackward0 object at 0x>
""")

    z = y**2 + 3
    print(z)
    print(z.requires_grad)
    print(z.grad_fn)
    print(z.grad_fn.next_functions)
    print(z.grad_fn.next_functions[0][0].next_functions)
    # The notebook's x had more digits than it printed: its first number here was 13.1306.
    printed.equals("""
tensor([[13.1309],
        [ 3.8256],
        [ 5.9426]], grad_fn=<AddBackward0>)
True
<AddBackward0 object at 0x>
((<PowBackward0 object at 0x>, 0), (None, 0))
((<AddBackward0 object at 0x>, 0),)
""")


def test_001_the_graph_leads_back_to_the_same_nodes(torch: ModuleType) -> None:
    """The notebook prints one address for `y.grad_fn` and for the node that the graph of z reaches."""
    x = torch.randn((3, 1), requires_grad=True)
    y = x + 1
    z = y**2 + 3
    node = y.grad_fn
    power = z.grad_fn.next_functions[0][0]
    assert power.next_functions[0][0] is node
    assert node.name() == "AddBackward0"
    (leaf, index), constant = node.next_functions
    assert (type(leaf).__name__, index, constant) == ("AccumulateGrad", 0, (None, 0))
    assert leaf.variable is x
    assert x.grad_fn is None


def test_001_disabling_gradient_tracking(torch: ModuleType, printed: Printed) -> None:
    x = torch.rand(5, 5)
    y = torch.rand(5, 5)
    z = torch.rand((5, 5), requires_grad=True)
    a = x + y
    print(f"Does `a` require gradients? : {a.requires_grad}")
    b = x + z
    print(f"Does `b` require gradients?: {b.requires_grad}")
    with torch.no_grad():
        c = x + z
    print(c.requires_grad)
    d = x + z
    d_detached = d.detach()
    print(d_detached.requires_grad)
    printed.equals("""
Does `a` require gradients? : False
Does `b` require gradients?: True
False
False
""")
    np.testing.assert_array_equal(a.numpy(), x.numpy() + y.numpy())
    np.testing.assert_array_equal(d_detached.numpy(), x.numpy() + z.detach().numpy())
    np.testing.assert_array_equal(c.numpy(), d_detached.numpy())
    assert ((x.numpy() >= 0) & (x.numpy() < 1)).all()


def test_001_autograd_in_a_neural_network(torch: ModuleType, printed: Printed) -> None:
    sample_size = 2
    number_features = 3
    x = torch.arange(sample_size * number_features).reshape(sample_size, number_features) * 1.0
    print(x)
    target = torch.arange(2, sample_size + 2).reshape(sample_size, 1) * 1.0
    print(target)
    w = torch.ones((3, 1), requires_grad=True)
    print(w)
    print(w.grad)
    output = x.matmul(w)
    print(output)
    print(output.grad_fn)
    loss = ((output - target) ** 2).mean()
    print(loss)
    loss.backward()
    print(w.grad)
    printed.equals("""
tensor([[0., 1., 2.],
        [3., 4., 5.]])
tensor([[2.],
        [3.]])
tensor([[1.],
        [1.],
        [1.]], requires_grad=True)
None
tensor([[ 3.],
        [12.]], grad_fn=<MmBackward0>)
<MmBackward0 object at 0x>
tensor(41., grad_fn=<MeanBackward0>)
tensor([[27.],
        [37.],
        [47.]])
""")

    def update_parameter(w: Any, learning_rate: float = 0.1) -> None:
        with torch.no_grad():
            w.add_(w.grad, alpha=-1 * learning_rate)

    update_parameter(w, 0.01)
    print(w)
    printed.equals("""
tensor([[0.7300],
        [0.6300],
        [0.5300]], requires_grad=True)
""")
    assert w.is_leaf
    update_parameter(w)
    np.testing.assert_allclose(w.detach().numpy(), [[-1.97], [-3.07], [-4.17]], rtol=1e-6)


def test_001_vector_jacobian_product(torch: ModuleType, printed: Printed) -> None:
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    Q = 3 * a**3 - b**2
    print(Q)
    external_grad = torch.tensor([1.0, 1.0])
    Q.backward(gradient=external_grad)
    print(a.grad)
    print(repr(a.grad.zero_()))  # the notebook shows the cell's value
    print(a.grad)
    printed.equals("""
tensor([-12.,  65.], grad_fn=<SubBackward0>)
tensor([36., 81.])
tensor([0., 0.])
tensor([0., 0.])
""")


def test_001_the_last_cell(torch: ModuleType, printed: Printed) -> None:
    """The notebook has it as a comment: the gradient of the sum, with the graph kept, accumulates."""
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    Q = 3 * a**3 - b**2
    Q.backward(gradient=torch.tensor([1.0, 1.0]), retain_graph=True)
    Q.sum().backward(retain_graph=True)
    print(a.grad)
    print(b.grad)
    Q.sum().backward()
    print(a.grad)
    printed.equals("""
tensor([ 72., 162.])
tensor([-24., -16.])
tensor([108., 243.])
""")
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        Q.sum().backward()


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
