"""Writes through views whose elements overlap, and what becomes of gradients: values worked out by hand."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest

OVERLAP = "more than one element of the written-to tensor refers to a single memory location"


def test_an_element_written_through_an_expanded_view(torch: ModuleType) -> None:
    base = torch.tensor([[1.0], [2.0]])
    b = base.expand(2, 3)
    b[0, 0] = 5.0
    assert base.tolist() == [[5.0], [2.0]]
    assert b.tolist() == [[5.0] * 3, [2.0] * 3]
    s = torch.zeros(1)
    s.expand(4)[1:2] = 7.0
    assert s.tolist() == [7.0]


def test_a_column_of_a_meshgrid(torch: ModuleType) -> None:
    rows, columns = torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 20, 30])
    x, y = torch.meshgrid(rows, columns, indexing="ij")
    x[:, :1].add_(100)
    y[2].mul_(2)
    assert x.tolist() == [[101.0] * 3, [102.0] * 3, [103.0] * 3]
    assert rows.tolist() == [101.0, 102.0, 103.0]
    assert y.tolist() == [[20.0, 40.0, 60.0]] * 3
    assert columns.tolist() == [20.0, 40.0, 60.0]
    x, y = torch.meshgrid(rows, columns, indexing="xy")
    x[0, 1] = 0.0
    assert rows.tolist() == [101.0, 0.0, 103.0]
    assert x.tolist() == [[101.0, 0.0, 103.0]] * 3
    assert y.tolist() == [[20.0] * 3, [40.0] * 3, [60.0] * 3]


def test_the_gradient_of_such_a_write(torch: ModuleType) -> None:
    w = torch.tensor([[1.0], [2.0]], requires_grad=True)
    p = w * 1
    p.expand(2, 3)[0, 0] = 5.0
    assert torch.autograd.grad(p.sum(), w)[0].tolist() == [[0.0], [1.0]]


def test_both_sides_of_a_write_get_their_gradient(torch: ModuleType) -> None:
    """After it, e is [[3 w1] * 3, [w1] * 3]: weights 0 to 5 give 3 * 3 + 12, and q, its first row, 3 * 10 * 3."""
    w = torch.tensor([[1.0], [2.0]], requires_grad=True)
    e = (w * 1).expand(2, 3)
    q = e[0]
    e[0, 0] = w[1, 0] * 3
    assert e.tolist() == [[6.0] * 3, [2.0] * 3]
    loss = (e * torch.arange(6.0).view(2, 3)).sum() + (q * 10).sum()
    assert torch.autograd.grad(loss, w)[0].tolist() == [[0.0], [111.0]]


def test_second_derivatives_through_such_a_write(torch: ModuleType) -> None:
    """p becomes [w0 * w1, w1]; the loss 2 * (w0 * w1)**2 + w1 has second derivatives 4 w1**2, 8 w0 w1, 4 w0**2."""
    w = torch.tensor([3.0, 2.0], requires_grad=True)
    p = (w * 1).unsqueeze(0).expand(2, 2)
    p[1, 0].mul_(w[1])
    (g,) = torch.autograd.grad((p**2)[:, 0].sum() + p[0, 1], w, create_graph=True)
    assert g.tolist() == [4 * 3 * 2 * 2.0, 4 * 3 * 3 * 2.0 + 1]
    rows = [torch.autograd.grad(g[i], w, retain_graph=True)[0].tolist() for i in range(2)]
    assert rows == [[16.0, 48.0], [48.0, 36.0]]


@pytest.mark.parametrize(
    "write",
    [
        lambda b: b.add_(1),
        lambda b: b.mul_(2),
        lambda b: b[0].copy_(b[1]),
        lambda b: b.__setitem__(0, 7.0),
        lambda b: b.__setitem__((slice(None), slice(1, 3)), 7.0),
        lambda b: b.t().neg_(),
        lambda b: b.unsqueeze(0)[0, :, 1:].exp_(),
        lambda b: b.view(2, 3, 1).clamp_(0, 1),
    ],
)
def test_what_torch_refuses_is_refused_before_anything_changes(torch: ModuleType, write: object) -> None:
    base = torch.tensor([[1.0], [2.0]])
    b = base.expand(2, 3)
    with pytest.raises(RuntimeError, match=OVERLAP):
        write(b)  # type: ignore[operator]
    assert base.tolist() == [[1.0], [2.0]]
    assert b.tolist() == [[1.0] * 3, [2.0] * 3]
    assert base._version == 0


def test_a_diagonal_of_repeated_rows_is_the_row(torch: ModuleType) -> None:
    base = torch.tensor([1.0, 2.0, 3.0])
    wide = base.expand(3, 3)
    wide.diagonal().mul_(10)
    assert base.tolist() == [10.0, 20.0, 30.0]
    wide.diagonal(1).add_(1)
    assert base.tolist() == [10.0, 21.0, 31.0]
    wide.t().diagonal(1)[:1].zero_()
    assert base.tolist() == [0.0, 21.0, 31.0]
    assert wide.tolist() == [[0.0, 21.0, 31.0]] * 3
    with pytest.raises(RuntimeError, match=OVERLAP):
        torch.ones(1, 1).expand(2, 2).diagonal().add_(1)


def test_repeated_dimensions_are_reshaped_and_split(torch: ModuleType) -> None:
    base = torch.arange(6.0).reshape(2, 1, 3)
    wide = base.expand(2, 4, 3)
    wide.view(2, 2, 2, 3)[1, 1, 0].fill_(-1)
    assert base.tolist() == [[[0.0, 1.0, 2.0]], [[-1.0] * 3]]
    wide.split(1, 1)[0].detach().mul_(2)
    assert base.tolist() == [[[0.0, 2.0, 4.0]], [[-2.0] * 3]]
    wide.movedim(1, 0).flatten(1)[3].add_(1)
    assert base.tolist() == [[[1.0, 3.0, 5.0]], [[-1.0] * 3]]
    assert wide.tolist() == [[[1.0, 3.0, 5.0]] * 4, [[-1.0] * 3] * 4]


def test_a_detached_view_that_overlaps_is_a_base(torch: ModuleType) -> None:
    """Each row of d is one number: what is read of it sums to 3, 12 times the row's number."""
    w = torch.tensor(2.0, requires_grad=True)
    d = torch.tensor([[1.0], [2.0]]).expand(2, 3).detach()
    d[:, 1].mul_(w)
    assert d.tolist() == [[2.0] * 3, [4.0] * 3]
    (g,) = torch.autograd.grad((d * torch.arange(6.0).view(2, 3)).sum(), w)
    assert g.item() == 3 * 1 + 12 * 2


def test_a_storage_keeps_its_cuts_through_a_reshaped_view(torch: ModuleType) -> None:
    if not torch.is_initialized():
        torch.init("inproc", workers=2)
    x = torch.ones(6, 4, sharding={1: 2})
    before = x.sharding
    x.view(24)[::5].mul_(3)
    x.diagonal().add_(1)
    assert x.sharding == before
    assert x.sum().item() == 24 + 2 * 5 + 4


def test_what_writes_the_same_everywhere_may_overlap(torch: ModuleType) -> None:
    base = torch.tensor([[1.0], [2.0], [3.0]])
    b = base.expand(3, 4)
    b.copy_(b)
    assert base.tolist() == [[1.0], [2.0], [3.0]]
    b[1:].fill_(7)
    assert base.tolist() == [[1.0], [7.0], [7.0]]
    b[2:].zero_()
    assert base.tolist() == [[1.0], [7.0], [0.0]]
    some = torch.tensor([[False, False, True, False], [False] * 4, [True] * 4])
    with pytest.warns(UserWarning, match="masked_fill_ on expanded tensors"):
        b.masked_fill_(some, 5.0)
    with pytest.warns(UserWarning, match="masked_fill_ on expanded tensors"):
        b[torch.tensor([False, True, False])] = 8.0
    with pytest.warns(UserWarning, match="index_fill_ on expanded tensors"):
        b[:2].index_fill_(1, torch.tensor([3]), 6.0)
    assert base.tolist() == [[6.0], [6.0], [5.0]]
    assert b.tolist() == [[6.0] * 4, [6.0] * 4, [5.0] * 4]
    with pytest.raises(RuntimeError, match=OVERLAP):
        b.fill_(torch.tensor(1.0))
    b[:, 2:2].add_(1)  # nothing to write
    b[:0].mul_(2)
    assert base.tolist() == [[6.0], [6.0], [5.0]]


def test_the_gradient_of_writes_that_overlap(torch: ModuleType) -> None:
    """p is [w0, v]: each element of the storage counts once, however often it is seen."""
    w = torch.tensor([[1.0], [2.0]], requires_grad=True)
    v = torch.tensor(3.0, requires_grad=True)
    p = w * 1
    with pytest.warns(UserWarning, match="expanded"):
        p.expand(2, 3).masked_fill_(torch.tensor([[False] * 3, [True, False, True]]), v)
    loss = (p * torch.tensor([[10.0], [100.0]])).sum()
    assert p.tolist() == [[1.0], [3.0]]
    assert [g.tolist() for g in torch.autograd.grad(loss, (w, v))] == [[[10.0], [0.0]], 100.0]
    p = w * 1
    p.expand(2, 3).zero_()
    (p * w).sum().backward()
    assert w.grad.tolist() == [[0.0], [0.0]]


def test_an_operand_that_is_another_part_of_what_is_written(torch: ModuleType) -> None:
    x = torch.arange(5.0)
    writes = [
        lambda: x[1:].add_(x[:-1]),
        lambda: x[1:].copy_(x[:-1]),
        lambda: x.mul_(x[0]),
        lambda: x.__setitem__(slice(1, None), x[:-1]),
        lambda: x[:4].view(2, 2).add_(x[:4].view(2, 2).t()),
    ]
    for write in writes:
        with pytest.raises(RuntimeError, match="some elements of the input tensor and the written-to tensor"):
            write()
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert x._version == 0
    x[:2].add_(x[3:])
    x.mul_(x)
    x[0:1] = x[4]
    x[1:].fill_(x[3])
    assert x.tolist() == [16.0, 9.0, 9.0, 9.0, 9.0]


def test_a_gradient_that_overlaps_is_not_accumulated_into(torch: ModuleType) -> None:
    x = torch.ones(3, requires_grad=True)
    x.grad = torch.zeros(1).expand(3)
    with pytest.raises(RuntimeError, match=OVERLAP):
        (x * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [0.0] * 3


def test_ravel_of_what_is_not_contiguous_is_a_copy(torch: ModuleType) -> None:
    base = torch.tensor([[1.0], [2.0]])
    base.expand(2, 1).t().ravel().add_(1)
    assert base.tolist() == [[2.0], [3.0]]
    base.expand(2, 3)[:1].ravel().add_(1)
    assert base.tolist() == [[2.0], [3.0]]


def test_what_is_written_may_come_from_the_view_itself(torch: ModuleType) -> None:
    """The new elements are not written over by the old ones, in the gradient neither."""
    w = torch.tensor([[[3.0], [1.0], [3.0]]], requires_grad=True)
    p = w * 1
    v = p.diagonal(0, 2, 0)
    v.neg_()
    v.masked_fill_(torch.tensor([[True], [False], [True]]), -3.0)
    (g,) = torch.autograd.grad((v * torch.tensor([[7.0], [-3.0], [2.0]])).sum(), w)
    assert g.tolist() == [[[0.0], [3.0], [0.0]]]
    assert p.tolist() == [[[-3.0], [-1.0], [-3.0]]]


def test_index_put_into_what_is_repeated(anywhere: ModuleType) -> None:
    """The last write to an element counts; torch warns, and does it."""
    torch = anywhere
    base = torch.zeros(3, 1, 5, requires_grad=True)
    values = torch.arange(24.0).view(4, 2, 3).requires_grad_()
    y = base * 1
    wide = y.expand(3, 4, 5)
    picked = torch.tensor([1, 1, 2])
    with pytest.warns(UserWarning, match="index_put_ on expanded tensors.*indices. = tensor"):
        wide[1:].transpose(0, 1)[:, :, picked] = values
    expected = np.zeros((3, 5))
    expected[1:, 1], expected[1:, 2] = [19, 22], [20, 23]
    assert y.detach()[:, 0].tolist() == expected.tolist()
    (y[:, 0] * torch.arange(15.0).view(3, 5)).sum().backward()
    assert base.grad[0, 0].tolist() == [0, 1, 2, 3, 4]
    assert base.grad[2, 0].tolist() == [10, 0, 0, 13, 14]
    assert values.grad[3].tolist() == [[6, 6, 7], [11, 11, 12]]  # as in torch, to whoever wrote
    assert values.grad[:3].abs().sum().item() == 0
    repeated = torch.zeros(1).expand(4)
    with pytest.warns(UserWarning, match="index_put_ on expanded tensors"):
        repeated.index_put_((picked,), torch.tensor([1.0, 2.0, 3.0]), accumulate=True)
    assert repeated.tolist() == [6.0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(IndexError, match="index 4 is out of"):
            assert repeated.index_put_((picked * 2,), torch.ones(3)).tolist()


# What is written through strides of any kind, against NumPy's.
FILLS = ["fill", "zero", "masked_fill", "index_fill", "tril", "triu", "copy"]


def _written(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, list[Any]]:
    """Where an op writes, and its arguments that say so."""
    mask = np.zeros(shape, bool)
    if kind == "masked_fill":
        mask = random.random(shape) < 0.3
        return mask, [mask]
    if kind == "index_fill":
        d = int(random.integers(len(shape)))
        index = random.integers(-shape[d], shape[d], 2)
        np.moveaxis(mask, d, 0)[index] = True
        return mask, [d, index]
    if kind in ("tril", "triu"):
        k = int(random.integers(-2, 3))
        return getattr(np, kind)(np.ones(shape), k) == 0, [k]
    return ~mask, []


def _strides(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...], int, np.ndarray]:
    """Size, strides and offset of a view, and which element of the storage it has where."""
    size = tuple(int(n) for n in random.integers(1, 5, 3))
    stride = tuple(int(n) for n in random.integers(0, 4, 3))
    offset = int(random.integers(0, 3))
    places = offset + sum(s * i for s, i in zip(stride, np.indices(size), strict=True))
    return size, stride, offset, places


@pytest.mark.filterwarnings("ignore:Use of")
@pytest.mark.parametrize("kind", FILLS)
def test_one_number_is_written_wherever_an_element_is_seen(anywhere: ModuleType, kind: str) -> None:
    """Each element of the storage counts once in the gradient, also that of the number."""
    torch = anywhere
    random = np.random.default_rng(FILLS.index(kind))
    for turn in range(4):
        size, stride, offset, places = _strides(random)
        start, weights = random.integers(1, 9, (2, 30)).astype(float)
        w, v = torch.tensor(start, requires_grad=True), torch.tensor(7.0, requires_grad=True)
        base = (w * 1).reshape(5, 6)
        view = base.as_strided(size, stride, offset)
        mask, args = _written(kind, size, random)
        args = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in args]
        repeats = any(n > 1 and not s for n, s in zip(size, stride, strict=True))
        if kind not in ("zero", "tril", "triu"):
            args.append(v if turn % 2 else 7.0)
        if repeats and (kind == "copy" or (kind == "fill" and turn % 2)):
            with pytest.raises(RuntimeError, match=OVERLAP):
                getattr(view, f"{kind}_")(*args)
            assert base.flatten().tolist() == start.tolist()
            continue
        number = 0 if kind in ("zero", "tril", "triu") else 7
        getattr(view, f"{kind}_")(*args)
        at = np.unique(places[mask])
        assert base._version == 1
        start[at] = number
        assert base.flatten().tolist() == start.tolist()
        assert view.tolist() == start[places].tolist()
        loss = (base.flatten() * torch.tensor(weights)).sum()
        gradients = torch.autograd.grad(loss, (w, v), allow_unused=True)
        expected = weights[at].sum() if number and turn % 2 else 0
        assert (gradients[1].item() if gradients[1] is not None else 0) == expected
        weights[at] = 0
        assert gradients[0].tolist() == weights.tolist()


@pytest.mark.filterwarnings("ignore:Use of")
@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put_through_strides_of_any_kind(anywhere: ModuleType, accumulate: bool) -> None:
    torch = anywhere
    random = np.random.default_rng(1)
    for _ in range(6):
        size, stride, offset, places = _strides(random)
        start, new = random.integers(1, 9, 30).astype(float), random.integers(10, 99, 3).astype(float)
        base = torch.tensor(start).reshape(5, 6)
        view = base.as_strided(size, stride, offset)
        at = [random.integers(0, n, 3) for n in size]
        view.index_put_([torch.tensor(i) for i in at], torch.tensor(new), accumulate)
        if accumulate:
            np.add.at(start, places[tuple(at)], new)
        else:
            start[places[tuple(at)]] = new
        assert base.flatten().tolist() == start.tolist()
        assert base._version == 1


def test_windows_are_written_and_watched(torch: ModuleType) -> None:
    """What is not one number is refused: what becomes of it would depend on the order of the writes."""
    base = torch.arange(6.0)
    windows = base.unfold(0, 4, 1)
    for write in (lambda: windows.add_(1), lambda: windows.copy_(torch.ones(3, 4)), lambda: windows.exp_()):
        with pytest.raises(RuntimeError, match=OVERLAP):
            write()
    windows[1:] = 9.0
    assert base.tolist() == [0.0] + [9.0] * 5
    windows.fill_diagonal_(-1)
    assert base.tolist() == [-1.0, 9.0, -1.0, 9.0, -1.0, 9.0]
    windows[windows == 9] = torch.arange(6.0)
    assert base.tolist() == [-1.0, 2.0, -1.0, 4.0, -1.0, 5.0]
    apart = windows.detach()
    v = torch.tensor(2.0, requires_grad=True)
    apart.masked_fill_(torch.eye(3, 4).bool(), v)
    assert base.tolist() == [2.0, 2.0, 2.0, 4.0, 2.0, 5.0]
    assert torch.autograd.grad(apart.sum(), v)[0].item() == 6


@pytest.mark.parametrize(
    ("name", "args", "once"),
    [
        ("abs", (), np.abs),
        ("relu", (), lambda x: np.maximum(x, 0)),
        ("clamp", (-1.0, 2.0), lambda x: np.clip(x, -1, 2)),
        ("floor", (), np.floor),
        ("sign", (), np.sign),
    ],
)
def test_what_changes_nothing_a_second_time(anywhere: ModuleType, name: str, args: Any, once: Any) -> None:
    torch = anywhere
    random = np.random.default_rng(2)
    for _ in range(4):
        size, stride, offset, places = _strides(random)
        start, weights = random.integers(-9, 9, (2, 30)) + 0.25
        w = torch.tensor(start, requires_grad=True)
        base = (w * 1).reshape(5, 6)
        view = base.as_strided(size, stride, offset)
        if any(n > 1 and not s for n, s in zip(size, stride, strict=True)):
            with pytest.raises(RuntimeError, match=OVERLAP):
                getattr(view, f"{name}_")(*args)
            continue
        getattr(view, f"{name}_")(*args)
        at = np.unique(places)
        slope = np.ones(30)
        slope[at] = (once(start[at] + 1e-6) - once(start[at] - 1e-6)) / 2e-6
        start[at] = once(start[at])
        assert base.flatten().tolist() == start.tolist()
        assert base._version == 1
        (g,) = torch.autograd.grad((base.flatten() * torch.tensor(weights)).sum(), w)
        np.testing.assert_allclose(g.numpy(), weights * slope, rtol=1e-6)


def test_a_detached_view_of_windows_is_changed_once(torch: ModuleType) -> None:
    base, v = torch.arange(-3.0, 3), torch.ones(1, requires_grad=True)
    apart = base.unfold(0, 4, 1).detach()
    apart.masked_fill_(torch.eye(3, 4).bool(), v[0] * -4)
    apart.abs_()
    assert base.tolist() == [4.0, 2.0, 4.0, 0.0, 4.0, 2.0]
    assert torch.autograd.grad(apart.sum(), v)[0].item() == 6 * 4
    whole = torch.ones(1).long()
    whole.expand(2, 3).nan_to_num_()
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.arange(4).unfold(0, 3, 1).clamp_(0.5)
    assert whole.item() == 1


def test_triangles_of_what_is_expanded(torch: ModuleType) -> None:
    rows, columns = torch.arange(1.0, 4), torch.arange(1.0, 4)
    rows.expand(4, 3).tril_()
    columns.unsqueeze(1).expand(3, 4).triu_()
    assert rows.tolist() == columns.tolist() == [1.0, 0.0, 0.0]
    number = torch.ones(1)
    number.expand(3, 3).tril_(2)
    assert number.item() == 1
    number.expand(3, 3).triu_()
    assert number.item() == 0


def test_what_is_written_may_be_an_element_of_it(torch: ModuleType) -> None:
    x = torch.arange(5.0)
    x.index_fill_(0, torch.tensor([1]), x[2])
    x.unfold(0, 3, 1)[:2].fill_(x[4])
    assert x.tolist() == [4.0] * 5
