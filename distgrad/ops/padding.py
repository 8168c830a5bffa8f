"""Elements added at the ends of dimensions: zeros or another number, or elements of the tensor itself."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.ops.base import Ints, Tensor, Value, broadcast_to, constant, op
from distgrad.ops.samples import real
from distgrad.sharding import Cut, Sharding

__all__ = ["constant_pad_nd"]

WAYS = """Supported combinations for non-constant padding:
  - 2D or 3D input: padding size = 2 (pads last dimension)
  - 3D or 4D input: padding size = 4 (pads last 2 dimensions)
  - 4D or 5D input: padding size = 6 (pads last 3 dimensions)"""
NODES = {"reflect": "ReflectionPad{}DBackward0", "replicate": "ReplicationPad{}DBackward0"}


def _ends(pad: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """(before, after) of each dimension; `pad` begins with the last."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (ndim - len(pairs)) + pairs[::-1]


@op(
    input=lambda g, pad: constant_pad_nd(g, [-p for p in pad]),
    method=False,
    samples=lambda: [
        (real(3, 4), (1, 2)),
        (real(3, 4), (-1, 2, 0, 1), 2.5),
        (real(2, 3, 2), (1, 0, -1, -1, 0, -1)),
    ],
)
def constant_pad_nd(input: Value, pad: Any, value: Any = 0) -> Value:
    """`value` before and after the elements, as often as `pad` says, last dimension first; below 0, fewer elements."""
    shape, ndim = input.shape, len(input.shape)
    if len(pad) % 2:
        raise RuntimeError("Length of pad must be even but instead it equals " + str(len(pad)))
    if len(pad) > 2 * ndim:
        raise RuntimeError(
            "Length of pad should be no more than twice the number of dimensions of the input. Pad length is "
            f"{len(pad)}while the input has {ndim}dimensions."
        )
    ends = _ends([operator.index(p) for p in pad], ndim)
    made = tuple(n + before + after for n, (before, after) in zip(shape, ends, strict=True))
    for n, (before, after) in zip(shape, ends, strict=True):
        if n + min(before, 0) + min(after, 0) < 0:
            raise RuntimeError("narrow(): length must be non-negative.")
    kept = tuple(
        (max(0, -before), n + min(before, 0) + min(after, 0), 1)
        for n, (before, after) in zip(shape, ends, strict=True)
    )
    x = input if all(s[1] == n for s, n in zip(kept, shape, strict=True)) else session.part(input, kept)
    if x.shape == made:
        return x if x is not input else session.emit("copy", x)
    cuts = [c if n == m else Cut(m) for c, n, m in zip(x.sharding.cuts, x.shape, made, strict=True)]
    there = tuple((max(0, before), n, 1) for (before, _), n in zip(ends, x.shape, strict=True))
    if not value:
        return session.emit("pad", x, slices=there, cuts=Sharding(tuple(cuts)))
    number = bool(value) if x.dtype == BOOL else int(value) if x.dtype.kind == "i" else value
    return session.put(broadcast_to(constant(number, x.dtype), made, Sharding(tuple(cuts))), x, there)


# Elements of the tensor itself: along each dimension the result takes them at given positions.
@op(
    name=lambda input, dims, positions, node: node,
    input=lambda g, dims, positions, like: _untaken(g, dims, positions, tuple(like.shape)),
    method=False,
    samples=lambda: [(real(2, 3, 2), (1, 2), ((2, 0, 1, 2), (0, 0, 1)))],
)
def _taken(input: Value, dims: Ints, positions: Any, node: str = "TakenBackward0") -> Value:
    """The elements at `positions` along each of `dims`."""
    for d, places in zip(dims, positions, strict=True):
        index = session.constant(np.array(places, np.int64))
        input = session.emit("take", input, index, dim=d, size=input.shape[d], wrap=False)
    return input


@op(
    input=lambda g, dims, positions: _taken(g, dims, positions),
    method=False,
    samples=lambda: [(real(2, 4, 3), (1, 2), ((2, 0, 1, 2), (0, 0, 1)), (2, 3, 2))],
)
def _untaken(input: Value, dims: Ints, positions: Any, shape: Ints) -> Value:
    """The transposed of `_taken`: the elements are added where they were taken, in a tensor of this shape."""
    for d, places in zip(dims, positions, strict=True):
        index = session.constant(np.array(places, np.int64))
        input = session.emit("index_add", index, input, dim=d, size=shape[d])
    return input


def _reflected(n: int, before: int, after: int) -> np.ndarray:
    """n - 1 - |n - 1 - |i||: an element at an end stands there once."""
    return n - 1 - np.abs(n - 1 - np.abs(np.arange(-before, n + after)))


def _replicated(n: int, before: int, after: int) -> np.ndarray:
    return np.clip(np.arange(-before, n + after), 0, n - 1)


def _circled(n: int, before: int, after: int) -> np.ndarray:
    return np.arange(-before, n + after) % n


MODES: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "reflect": _reflected,
    "replicate": _replicated,
    "circular": _circled,
}


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """More elements at the ends of the last dimensions: (before, after) of the last, then of the one before it, ...

    "constant" puts `value` (0) there; "reflect" the elements next to the end, mirrored; "replicate" that at the end;
    "circular" those of the other end. Numbers below 0 take elements away.
    """
    sizes = _sizes(pad)
    if len(sizes) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(sizes) > 2 * input.dim():
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got padding length "
            f"{len(sizes)} and input of dimension {input.dim()}"
        )
    if mode == "constant":
        return constant_pad_nd(input, sizes, 0 if value is None else value)
    if value is not None and value != 0:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    n = len(sizes) // 2
    if n not in (1, 2, 3) or input.dim() not in (n + 1, n + 2):
        raise NotImplementedError(
            f"Padding size {len(sizes)} is not supported for {input.dim()}D input tensor.\n{WAYS}"
        )
    if mode not in MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    _check(input, sizes, mode)
    ends = _ends(sizes, input.dim())
    dims = tuple(d for d, (before, after) in enumerate(ends) if before or after)
    positions = tuple(tuple(MODES[mode](input.shape[d], *ends[d]).tolist()) for d in dims)
    node = NODES.get(mode, "CopySlices").format(n)
    return _taken(input, dims, positions, node)


def _sizes(pad: Any) -> list[int]:
    if not isinstance(pad, (tuple, list)):
        raise TypeError(f"pad(): argument 'pad' (position 2) must be tuple of ints, not {type(pad).__name__}")
    for i, p in enumerate(pad):
        if not hasattr(p, "__index__") or isinstance(p, bool):
            raise TypeError(
                "pad(): argument 'pad' (position 2) must be tuple of ints, but found element of type "
                f"{type(p).__name__} at pos {i}"
            )
    return [operator.index(p) for p in pad]


def _check(input: Tensor, sizes: list[int], mode: str) -> None:
    """Raise what torch does where there are no such elements."""
    n, shape = len(sizes) // 2, tuple(input.shape)
    ends = list(enumerate(_ends(sizes, len(shape))))[-n:]
    if mode == "circular":
        for d, (before, after) in ends:
            if max(before, after) > shape[d]:
                raise RuntimeError("Padding value causes wrapping around more than once.")
            if shape[d] + before + after <= 0:
                raise RuntimeError("Negative padding value is resulting in an empty dimension")
        return
    if input._avals.dtype == BOOL:
        word = "reflection" if mode == "reflect" else "replication"
        raise NotImplementedError(f"\"{word}_pad{n}d\" not implemented for 'Bool'")
    if 0 in shape[-n - 1 :]:
        raise RuntimeError(
            f"Expected {n + 1}D or {n + 2}D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(shape)}"
        )
    for number, (d, (before, after)) in enumerate(ends[::-1]):
        if mode == "reflect" and max(before, after) >= shape[d]:
            raise RuntimeError(
                f"Argument #{4 + 2 * number}: Padding size should be less than the corresponding input dimension, "
                f"but got: padding ({before}, {after}) at dimension {d} of input {list(shape)}"
            )
    made = [shape[d] + before + after for d, (before, after) in ends]
    if min(made) < 1:
        letters = "DHW"[-n:]
        given, result = (
            " ".join(f"{c}: {m}" for c, m in zip(letters, what, strict=True)) for what in (shape[-n:], made)
        )
        raise RuntimeError(f"input ({given}) is too small. Calculated output {result}")
