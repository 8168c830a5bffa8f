"""The first two of the five notebooks that the project was started from: what they compute and what they print.

Where a notebook draws random numbers, a test runs it twice over: on numbers of its own, with the results checked
by arithmetic, and on the numbers that the notebook printed, with its text as the answer. Addresses are
printed as `0x`.
"""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from printed import Printed, check_printed_numbers

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
