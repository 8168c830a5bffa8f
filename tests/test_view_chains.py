"""Random chains of views and writes through any of them, against positions in a flat memory.

In the reference a view is the array of the positions of its elements, as NumPy's indexing gives it; an element of the
memory is an affine function of all that was ever written: what it is multiplied with, and a constant. So values and
gradients follow from one matrix, and overlap is a position that stands twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as torch
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

OVERLAP = "more than one element of the written-to tensor refers to a single memory location"
NUMBERS = (0.0, 2.0, -3.0)


@pytest.fixture(scope="module", params=["driver", "inproc"])
def place(request: pytest.FixtureRequest) -> Iterator[None]:
    door.shutdown()
    if request.param == "inproc":
        door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)
    yield
    door.shutdown()


class Alive(NamedTuple):
    tensor: Any
    positions: np.ndarray


class Memory:
    """Each row tells an element: its weights for all parameters, and a constant last."""

    def __init__(self, values: np.ndarray, grad: bool):
        self.grad = grad
        self.leaves = [torch.tensor(values, requires_grad=grad)]
        self.numbers = [values.reshape(-1)]
        n = values.size
        self.rows = np.hstack([np.eye(n), np.zeros((n, 1))])

    def source(self, values: np.ndarray) -> tuple[Any, np.ndarray]:
        """A new tensor, and its elements' rows."""
        leaf = torch.tensor(values, requires_grad=self.grad)
        n, had = values.size, self.rows.shape[1] - 1
        self.rows = np.hstack([self.rows[:, :-1], np.zeros((len(self.rows), n)), self.rows[:, -1:]])
        self.leaves.append(leaf)
        self.numbers.append(values.reshape(-1))
        rows = np.zeros((n, had + n + 1))
        rows[np.arange(n), had + np.arange(n)] = 1
        return leaf, rows.reshape((*values.shape, had + n + 1))

    def read(self, positions: np.ndarray) -> np.ndarray:
        return self.rows[positions] @ np.concatenate([*self.numbers, [1.0]])


def strided(positions: np.ndarray) -> tuple[list[int], int] | None:
    """Strides and offset by which the positions can be told, if there are such."""
    first = positions[tuple(slice(0, 1) for _ in positions.shape)].reshape(-1)
    steps = [
        int(positions.take(1, d).flat[0] - first[0]) if n > 1 else 0 for d, n in enumerate(positions.shape)
    ]
    made = np.full(positions.shape, first[0])
    for d, step in enumerate(steps):
        made = made + step * np.arange(positions.shape[d]).reshape(
            [-1 if i == d else 1 for i in range(positions.ndim)]
        )
    return (steps, int(first[0])) if np.array_equal(made, positions) else None


def key_of(r: random.Random, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Integers, slices, None and Ellipsis."""
    key: list[Any] = []
    for n in shape[: r.randint(0, len(shape))]:
        kind = r.randint(0, 3)
        if kind == 0 and n:
            key.append(r.randrange(-n, n))
        elif kind == 1:
            key.append(slice(r.randint(-n, n), r.randint(-n, n + 1), r.randint(1, 2)))
        else:
            key.append(slice(r.randint(0, 1), None))
    if r.random() < 0.2:
        key.insert(r.randint(0, len(key)), None)
    return (*key, ...) if r.random() < 0.3 else tuple(key)


def viewed(r: random.Random, one: Alive, grad: bool) -> Alive | None:
    """A view of a tensor; None where there is none of the kind that is drawn."""
    x, at = one
    n, shape = at.ndim, at.shape
    kind = r.choice(
        ["index"] * 4 + ["expand"] * 4 + ["permute", "squeeze", "unsqueeze", "reshape"] * 2 + ["rest"]
    )
    if kind == "index":
        key = key_of(r, shape)
        return Alive(x[key], np.asarray(at[key]))
    if kind == "expand" and n < 4:
        size = tuple(r.choice((1, 2, 3)) if m == 1 else m for m in shape)
        size = (*(r.choice((1, 2, 3)) for _ in range(r.randint(0, 2))), *size)
        return Alive(x.expand(size), np.broadcast_to(at, size))
    if kind == "permute":
        dims = r.sample(range(n), n)
        return Alive(x.permute(dims), at.transpose(dims))
    if kind == "squeeze":
        ones = tuple(d for d in range(n) if shape[d] == 1 and r.random() < 0.7)
        return Alive(x.squeeze(ones), at.squeeze(ones)) if ones else Alive(x.squeeze(), at.squeeze())
    if kind == "unsqueeze":
        d = r.randint(0, n)
        return Alive(x.unsqueeze(d), np.expand_dims(at, d))
    if kind == "reshape":
        return reshaped(r, one)
    if n < 2:
        return None
    a, b = r.sample(range(n), 2)
    offset = r.randint(-1, 1)
    if grad or r.random() < 0.5:
        return Alive(x.diagonal(offset, a, b), np.diagonal(at, offset, a, b))
    if not shape[a]:
        return None
    i = r.randrange(shape[a])
    if r.random() < 0.5:
        return Alive(x.unbind(a)[i].detach(), np.asarray(at.take(i, a)))
    return Alive(x.split(1, a)[i].data, at.take([i], a))


def reshaped(r: random.Random, one: Alive) -> Alive | None:
    x, at = one
    factors = [m for m in (2, 2, 3, 3, 4, 5) if r.random() < 0.4]
    size = (*factors, at.size // math.prod(factors))
    if not at.size or math.prod(size) != at.size:
        return None
    new = at.reshape(size)
    if strided(new) is not None:
        return Alive(x.view(size), new)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.view(size)
    assert x.reshape(size)._base is None
    return None


def write(r: random.Random, one: Alive, memory: Memory) -> None:
    """A write, refused where a position stands twice."""
    x, at = one
    kind = r.choice(["fill", "zero", "add", "mul", "neg", "copy", "addition", "key", "masked", "where"])
    number, before = r.choice(NUMBERS), memory.rows.copy()
    if kind == "key":
        key = key_of(r, at.shape)
        return set_item(r, one, key, memory)
    if kind in ("masked", "where"):
        mask = np.array([r.random() < 0.5 for _ in range(at.size)], bool).reshape(at.shape)
        if len(np.unique(at)) < at.size:
            return None
        memory.rows[at[mask]] = constant(memory, number)
        if kind == "masked":
            x.masked_fill_(torch.tensor(mask), number)
        else:
            x[torch.tensor(mask)] = number
        return None
    small = tuple(1 if r.random() < 0.3 else n for n in at.shape)[r.randint(0, at.ndim) :]
    leaf, rows = memory.source(
        np.array([float(r.randint(-3, 3)) for _ in range(math.prod(small))]).reshape(small)
    )
    wide = np.broadcast_to(rows, (*at.shape, rows.shape[-1]))
    changed = memory.rows.copy()
    if kind in ("fill", "zero"):
        changed[at] = constant(memory, number if kind == "fill" else 0)
    elif kind == "add":
        changed[at] = changed[at] + constant(memory, number)
    elif kind in ("mul", "neg"):
        changed[at] = changed[at] * (number if kind == "mul" else -1)
    else:
        changed[at] = wide if kind == "copy" else changed[at] + wide
    calls = {
        "fill": lambda: x.fill_(number),
        "zero": lambda: x.zero_(),
        "add": lambda: x.add_(number),
        "mul": lambda: x.mul_(number),
        "neg": lambda: x.neg_(),
        "copy": lambda: x.copy_(leaf),
        "addition": lambda: x.add_(leaf),
    }
    if len(np.unique(at)) < at.size and kind not in ("fill", "zero"):
        with pytest.raises(RuntimeError, match=OVERLAP):
            calls[kind]()
        assert np.array_equal(memory.rows[:, : before.shape[1] - 1], before[:, :-1])
    else:
        calls[kind]()
        memory.rows = changed
    return None


def constant(memory: Memory, number: float) -> np.ndarray:
    row = np.zeros(memory.rows.shape[1])
    row[-1] = number
    return row


def set_item(r: random.Random, one: Alive, key: tuple[Any, ...], memory: Memory) -> None:
    x, at = one
    part = np.asarray(at[key])
    if r.random() < 0.5:
        new, rows = r.choice(NUMBERS), None
    else:
        values = np.array([float(r.randint(-3, 3)) for _ in range(part.size)]).reshape(part.shape)
        new, rows = memory.source(values)
    if len(np.unique(part)) < part.size:
        with pytest.raises(RuntimeError, match=OVERLAP):
            x[key] = new
        return
    x[key] = new
    memory.rows[part] = constant(memory, new) if rows is None else rows


def check(alive: list[Alive], memory: Memory) -> None:
    for x, at in alive:
        assert tuple(x.shape) == at.shape
        assert np.array_equal(x.detach().numpy(), memory.read(at))
        if at.size:
            told = strided(at)
            assert told is not None
            assert x.storage_offset() == told[1]
            for n, stride, want in zip(at.shape, x.stride(), told[0], strict=True):
                assert n == 1 or stride == want


def run(r: random.Random) -> None:
    shape = tuple(r.choice((1, 1, 2, 3, 4)) for _ in range(r.randint(0, 3)))
    n, grad = math.prod(shape), r.random() < 0.6
    values = np.array([float(r.randint(-3, 3)) for _ in range(n)]).reshape(shape)
    memory = Memory(values, grad)
    base = memory.leaves[0] * 1
    alive = [Alive(base, np.arange(n).reshape(shape))]
    for _ in range(r.randint(3, 10)):
        one = r.choice(alive)
        if r.random() < 0.45:
            write(r, one, memory)
            check(alive, memory)
        elif (new := viewed(r, one, grad)) is not None:
            alive.append(new)
    check(alive, memory)
    if grad:
        check_gradient(r, alive, memory)


def check_gradient(r: random.Random, alive: list[Alive], memory: Memory) -> None:
    """Of a random linear read-out of the tensors."""
    loss, want = 0.0, np.zeros(memory.rows.shape[1])
    for x, at in alive:
        if r.random() < 0.6:
            weights = np.array([float(r.randint(-2, 2)) for _ in range(at.size)]).reshape(at.shape)
            loss = loss + (x * torch.tensor(weights)).sum()
            want += (weights[..., None] * memory.rows[at]).reshape(-1, len(want)).sum(0)
    if isinstance(loss, float) or not loss.requires_grad:
        assert not want[:-1].any()
        return
    found = torch.autograd.grad(loss, memory.leaves, allow_unused=True)
    start = 0
    for leaf, g in zip(memory.leaves, found, strict=True):
        part = want[start : start + leaf.numel()].reshape(tuple(leaf.shape))
        assert np.array_equal(np.zeros_like(part) if g is None else g.numpy(), part)
        start += leaf.numel()


@settings(max_examples=25, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_random_chains(place: None, r: random.Random) -> None:
    run(r)
