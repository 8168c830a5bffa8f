"""In-place ops and views: what torch prints, for tensors in the driver and on workers."""

from __future__ import annotations

import gc
import weakref
from types import ModuleType

import golden_cases
import pytest


@pytest.mark.parametrize("case", golden_cases.cases("inplace_views"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


def test_the_message_names_both_lines(torch: ModuleType) -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * 1
    first = test_the_message_names_both_lines.__code__.co_firstlineno
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError) as error:
        z.sum().backward()
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        f'Saved by mul, called at File "{__file__}", line {first + 4}.',
        f'Changed by add_, called at File "{__file__}", line {first + 5}.',
    ]


def test_nothing_is_changed_before_the_error(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    whole = torch.tensor([1, 2])
    with pytest.raises(RuntimeError, match="leaf Variable"):
        x += 1
    with pytest.raises(RuntimeError, match="can't be cast"):
        whole += 0.5
    with pytest.raises(RuntimeError, match="broadcast shape"):
        whole += torch.ones(2, 2, dtype=torch.int64)
    assert x.tolist() == [1.0, 2.0]
    assert whole.tolist() == [1, 2]
    assert (x._version, whole._version) == (0, 0)


def test_a_storage_keeps_its_sharding(torch: ModuleType) -> None:
    if not torch.is_initialized():
        torch.init("inproc", workers=2)
    x = torch.zeros(6, 4, sharding=2)
    before = x.sharding
    x += torch.ones(6, 4, sharding={1: 2})
    x[1:3] = torch.ones(4)
    x.t().mul_(3)
    assert x.sharding == before
    assert x.sum().item() == 72


def test_a_change_of_data_reaches_saved_tensors_unnoticed(torch: ModuleType) -> None:
    """As in torch: what is saved is the tensor, with what its storage holds when backward asks for it."""
    x = torch.tensor([3.0], requires_grad=True)
    y = x * x
    x.data.mul_(10)
    y.backward()
    assert (x.item(), x.grad.item()) == (30.0, 60.0)


def test_a_change_of_data_reaches_a_saved_result(torch: ModuleType) -> None:
    x = torch.arange(4.0, requires_grad=True)
    y = x.exp()
    z = y.sum()
    y.data[0] = 100.0
    z.backward()
    assert x.grad[0].item() == 100.0


def test_an_op_on_itself_in_place_is_differentiated(torch: ModuleType) -> None:
    """torch raises here, since it has overwritten what it needs."""
    x = torch.tensor([3.0], requires_grad=True)
    y = x * 1
    y.mul_(y)
    y.backward()
    assert x.grad.item() == 6.0


def test_a_long_history_of_changes(torch: ModuleType) -> None:
    x = torch.ones(2, 2, requires_grad=True)
    y = x * 1
    row = y[0]
    for _ in range(20):
        row.add_(1)
        y.mul_(0.5)
    assert row.tolist() == y[0].tolist()
    y.sum().backward()
    assert x.grad.tolist() == [[0.5**20] * 2] * 2


def test_old_values_are_let_go(torch: ModuleType) -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(4)
        old = weakref.ref(x._value)
        x += 1
        assert old() is None
        view = x[1:]
        seen = weakref.ref(view._value)
        del view
        assert seen() is None
    finally:
        gc.enable()


def test_log_softmax_guards_its_result_and_not_its_operand(torch: ModuleType) -> None:
    """torch saves the result; here the operand is saved, as it was."""
    x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    logits = x * 1
    torch.log_softmax(logits, 0)[0].backward(retain_graph=True)
    want = x.grad.tolist()
    x.grad = None
    out = torch.log_softmax(logits, 0)
    logits.mul_(3)
    out[0].backward(retain_graph=True)
    assert x.grad.tolist() == want
    out = torch.log_softmax(x * 1, 0)
    out.mul_(2)
    with pytest.raises(RuntimeError, match="output 0 of LogSoftmax, is at version 1"):
        out.sum().backward()


def test_picked_elements_may_be_changed(torch: ModuleType) -> None:
    """Their gradient needs only the positions."""
    for pick in (
        lambda x: x.max(0)[0],
        lambda x: x.median(0)[0],
        lambda x: x.kthvalue(2, 0)[0],
        lambda x: x.sort(0)[0],
        lambda x: x.topk(2, 0)[0],
    ):
        x = torch.tensor([[3.0], [1.0], [2.0]], requires_grad=True)
        picked = pick(x)
        total = picked.sum()
        picked.mul_(2)
        total.backward()
        assert x.grad.sum().item() == picked.numel()
