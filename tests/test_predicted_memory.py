"""The most bytes that a worker holds, predicted and measured: what is predicted too low breaks a budget unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.exchange.tree import Counting, Tree
from distgrad.nn import functional as F
from distgrad.tensor import Tensor

ROWS, WIDTH, SHARD = 4096, 16, 1 << 14
PAGES = 0.005  # of what is held: memory comes in pages


@pytest.fixture(autouse=True)
def no_session() -> None:
    torch.shutdown()


def indices(x: Tensor) -> Tensor:
    return (torch.arange(x.numel()) % x.shape[0]).reshape(x.shape)


# Of each a loss, whose gradient is asked for too, of one or two matrices; the second has fewer rows.
PROGRAMS: dict[str, Callable[..., Tensor]] = {
    "every other row": lambda a: (a[::2] ** 2).sum(),
    "every third, thrice": lambda a: sum((a[k::3] ** (k + 2)).sum() for k in range(3)),  # type: ignore[misc, return-value]
    "cat": lambda a, b: (torch.cat((a, b)) ** 2).sum(),
    "every other row of cat": lambda a, b: (torch.cat((a, b))[::2] ** 2).sum(),
    "columns of cat": lambda a, b: (torch.cat((a[: len(b)], b), 1)[:, ::2] ** 2).sum(),
    "small before large": lambda a, b: torch.cat((b[:3], a)).tanh().sum(),
    "halves exchanged": lambda a: (torch.cat((a[ROWS // 2 :], a[: ROWS // 2])) * a).sum(),
    "a column": lambda a: (a[:, 3] ** 2).sum(),
    "windows": lambda a: (a.unfold(0, 5, 1) ** 2).sum(),
    "stencil": lambda a: ((a[2:] - 2 * a[1:-1] + a[:-2]) ** 2).sum(),
    "rolled": lambda a: (a.roll(100, 0) * a).sum(),
    "padded": lambda a: (F.pad(a, (2, 2, 3, 3)) ** 2).sum(),
    "chunks": lambda a: sum((c**2).sum() * k for k, c in enumerate(a.chunk(4))),  # type: ignore[misc, return-value]
    "gathered": lambda a: (a.gather(0, indices(a)) ** 2).sum(),
    "scattered": lambda a: (torch.zeros_like(a).scatter_add(0, indices(a), a) ** 2).sum(),
    "products": lambda a: ((a[:512] @ a[:512].t()).softmax(1) @ a[:512]).sum(),
    "rows of columns": lambda a: (a.reshape(WIDTH, ROWS) * torch.arange(float(ROWS))).sum(),
    "whitened": lambda a: (((a - a.mean(0)) / a.std(0)).tanh() ** 2).sum(),
}


def peaks(program: Callable[..., Tensor], count: int) -> Sequence[Any]:
    """Predicted and measured of each worker."""
    with torch.init("inproc", workers=count, inline_bytes=0, shard_bytes=SHARD):
        operands = [torch.randn(n, WIDTH, dtype=torch.float64).requires_grad_() for n in (ROWS, ROWS // 4)]
        operands = operands[: program.__code__.co_argcount]
        torch.synchronize()
        with torch.profile() as p:
            found = torch.autograd.grad(program(*operands), operands)
            torch.synchronize()
        assert len(found) == len(operands)
        return p.peak_bytes


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_more_is_held_than_was_predicted(name: str, count: int) -> None:
    for one in peaks(PROGRAMS[name], count):
        assert (1 - PAGES) * one.measured <= one.predicted <= 1.25 * one.measured


class Array:
    """Memory for a sum, of which it is known how many there are."""

    shape, dtype = (), np.dtype("f8")
    live = most = 0

    def __init__(self) -> None:
        Array.live += 1
        Array.most = max(Array.most, Array.live)

    def __del__(self) -> None:
        Array.live -= 1


def test_what_a_tree_takes_is_counted() -> None:
    """Leaves that come from elsewhere are merged into new memory, and what was merged is used again."""
    for leaves in range(2, 40):
        Array.most = 0
        made, counted = Tree(lambda left, right, out: out, lambda shape, dtype: Array()), Counting(None)  # type: ignore[arg-type, return-value]
        for i in range(leaves):
            made.push(0, i, np.zeros(()))
            counted.push(0, i, False)
        made.finish()
        counted.finish()
        assert counted.most == Array.most
    assert Array.most > 3
