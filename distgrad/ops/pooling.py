"""Pooling: the largest element, the mean or the p-norm of windows, and its inverse.

Each op here works on the last dimensions, whatever stands before; `primitives/windows.py` says what a window reads.
A maximum is taken without positions; who needs these (its gradient, `return_indices`) asks for them afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad import session
from distgrad.dtype import BOOL
from distgrad.graph import Value
from distgrad.ops.base import Ints, Tensor, call, constant, op
from distgrad.ops.convolution_arguments import spatial
from distgrad.ops.samples import real

Some = int | Sequence[int]


class Windows(NamedTuple):
    """Where windows lie: the attributes of the primitives but for the size of the result."""

    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints


def _emit(name: str, *values: Value, windows: Any, size: Ints) -> Value:
    return session.emit(name, *values, **Windows(*windows)._asdict(), size=size)


ROWS = (3,), (2,), (1,), (1,)
PLANES = (2, 2), (1, 2), (0, 1), (2, 1)


# Sums and their transposes.
def _sum_samples() -> list[Any]:
    return [(real(2, 7), ROWS, (4,)), (real(2, 2, 4, 3), PLANES, (2, 2))]


@op(
    name=lambda input, windows, size, node: node,
    input=lambda g, windows, like: _window_spread(g, windows, _last(like.shape, windows)),
    method=False,
    samples=_sum_samples,
)
def _window_sum(input: Value, windows: Any, size: Ints, node: str = "WindowSumBackward0") -> Value:
    """The sum of each window."""
    return _emit("window_sum", input, windows=windows, size=size)


@op(
    input=lambda g, windows, like: _window_sum(g, windows, _last(like.shape, windows)),
    method=False,
    samples=lambda: [(real(2, 4), ROWS, (7,)), (real(2, 2, 2, 2), PLANES, (4, 3))],
)
def _window_spread(input: Value, windows: Any, size: Ints) -> Value:
    """For each element the sum over the windows that read it."""
    return _emit("window_spread", input, windows=windows, size=size)


def _last(shape: Sequence[int], windows: Any) -> Ints:
    return tuple(shape[len(shape) - len(windows[0]) :])


# The windows themselves.
@op(
    input=lambda g, windows, like: _window_scatter(g, windows, _last(like.shape, windows)),
    method=False,
    samples=_sum_samples,
)
def _window_gather(input: Value, windows: Any, size: Ints) -> Value:
    """The elements of each window, in dimensions before those of the windows."""
    return _emit("window_gather", input, windows=windows, size=size)


@op(
    input=lambda g, windows, like: _window_gather(g, windows, _last(like.shape, windows)),
    method=False,
    samples=lambda: [(real(2, 3, 4), ROWS, (7,)), (real(2, 2, 2, 2, 2), PLANES, (4, 3))],
)
def _window_scatter(input: Value, windows: Any, size: Ints) -> Value:
    """The elements of windows, each added where it was read."""
    return _emit("window_scatter", input, windows=windows, size=size)


# Largest elements.
@op(
    name=lambda input, windows, size, node: node,
    input=lambda g, input, windows, size: _window_place(
        g, _window_argmax(input, windows, size), windows, _last(input.shape, windows)
    ),
    method=False,
    samples=_sum_samples,
)
def _window_max(input: Value, windows: Any, size: Ints, node: str = "WindowMaxBackward0") -> Value:
    """The largest element of each window; nan if there is one."""
    return _emit("window_max", input, windows=windows, size=size)


@op(method=False, samples=_sum_samples)
def _window_argmax(input: Value, windows: Any, size: Ints) -> Value:
    """The number of the offset in each window at which the largest element stands, int32."""
    return _emit("window_argmax", input, windows=windows, size=size)


def _offsets(*shape: int, below: int) -> Tensor:
    return Tensor(Value.known(np.random.default_rng(1).integers(0, below, shape).astype(np.int32)))


@op(
    input=lambda g, which, windows, like: _window_place(g, which, windows, _last(like.shape, windows)),
    method=False,
    samples=lambda: [
        (real(2, 7), _offsets(2, 4, below=3), ROWS),
        (real(2, 2, 4, 3), _offsets(2, 2, 2, 2, below=4), PLANES),
    ],
)
def _window_pick(input: Value, which: Value, windows: Any) -> Value:
    """Of each window the element at the offset `which`."""
    return _emit("window_pick", input, which, windows=windows, size=_last(which.shape, windows))


@op(
    input=lambda g, which, windows: _window_pick(g, which, windows),
    method=False,
    samples=lambda: [
        (real(2, 4), _offsets(2, 4, below=3), ROWS, (7,)),
        (real(2, 2, 2, 2), _offsets(2, 2, 2, 2, below=4), PLANES, (4, 3)),
    ],
)
def _window_place(input: Value, which: Value, windows: Any, size: Ints) -> Value:
    """Each number added at the offset `which` of its window."""
    return _emit("window_place", input, which, windows=windows, size=size)


@op(
    method=False,
    samples=lambda: [(_offsets(2, 4, below=3), ROWS, (7,)), (_offsets(2, 2, below=4), PLANES, (4, 3))],
)
def _window_places(input: Value, windows: Any, size: Ints) -> Value:
    """Offsets in windows as positions in the flattened last dimensions of length `size`, int64."""
    which = session.emit("cast", input, dtype="int64")
    total: Value | None = None
    rest = math.prod(windows[0])
    n = len(size)
    for i, (k, s, p, d) in enumerate(zip(*windows, strict=True)):
        rest //= k
        step = math.prod(size[i + 1 :])
        digit = _by("remainder", _by("floor_divide", which, rest), k)
        starts = (np.arange(input.shape[len(input.shape) - n + i]) * s - p) * step
        base = session.constant(starts.reshape(-1, *[1] * (n - 1 - i)).astype(np.int64))
        part = session.emit("add", _by("multiply", digit, d * step), base)
        total = part if total is None else session.emit("add", total, part)
    assert total is not None
    return total


def _by(name: str, x: Value, number: int) -> Value:
    return session.emit(name, x, constant(number, x.dtype))


# What torch says of wrong arguments.
def windows_of(
    name: str, n: int, kernel_size: Some, stride: Any, padding: Some, dilation: Some, omit: str = "either "
) -> Windows:
    """The arguments of a pooling function."""
    count = ("one int", "two ints", "three ints")[n - 1]
    found: dict[str, Any] = {"kernel_size": spatial(kernel_size, n)}
    left = stride is None or (isinstance(stride, (tuple, list)) and not len(stride))
    found["stride"] = found["kernel_size"] if left else spatial(stride, n)
    found["padding"], found["dilation"] = spatial(padding, n), spatial(dilation, n)
    for what, value in found.items():
        if value is None:
            be = f"must {omit}be "
            be += "omitted, a single int, " if what == "stride" else "a single int, "
            raise RuntimeError(f"{name}: {what} {be}or a tuple of {count}")
    made = Windows(*found.values())
    if min(made.stride) == 0:
        raise RuntimeError("stride should not be zero")
    if min(made.padding) < 0:
        raise RuntimeError(f"pad must be non-negative, but got pad: {min(made.padding)}")
    for k, p, d in zip(made.kernel, made.padding, made.dilation, strict=True):
        if d > 0 and p > ((k - 1) * d + 1) // 2:
            raise RuntimeError(
                f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
    if min(made.dilation) < 1:
        shown = " ".join(f"dilation{c}: {d}" for c, d in zip("THW"[-n:], made.dilation, strict=True))
        raise RuntimeError(f"dilation should be greater than zero, but got {shown}")
    if min(*made.kernel, *made.stride) < 1:
        raise RuntimeError("kernel size should be greater than zero, and so should the stride")
    return made


def counts(input: Tensor, windows: Windows, ceil_mode: bool) -> Ints:
    """How many windows there are along each dimension; the last begins inside, or in the padding before."""
    n = len(windows.kernel)
    size = []
    for length, k, s, p, d in zip(input.shape[input.dim() - n :], *windows, strict=True):
        room = length + 2 * p - d * (k - 1) - 1
        t = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (t - 1) * s >= length + p:
            t -= 1
        size.append(t)
    if min(size) < 1:
        planes = input.shape[input.dim() - n - 1] if input.dim() > n else 1
        given = "x".join(map(str, (planes, *input.shape[input.dim() - n :])))
        made = "x".join(map(str, (planes, *(max(0, t) if t > -1 else t for t in size))))
        raise RuntimeError(
            f"Given input size: ({given}). Calculated output size: ({made}). Output size is too small"
        )
    return tuple(size)


def check_input(name: str, input: Tensor, n: int) -> None:
    """n + 1 or n + 2 dimensions, of which only the samples may be none."""
    shape, k = list(input.shape), input.dim()
    if n == 3:
        if k not in (4, 5):
            raise RuntimeError("non-empty 4D or 5D (batch mode) tensor expected for input")
        for i, length in enumerate(shape[k - 4 :]):
            if not length:
                raise RuntimeError(
                    f"{name}(): Expected input's non-batch dimensions to have positive length, but input has a shape "
                    f"of {shape} and non-batch dimension {i} has length zero!"
                )
        return
    if name == "max_pool2d" and k not in (3, 4):
        raise RuntimeError("non-empty 3D or 4D (batch mode) tensor expected for input")
    if name == "avg_pool1d" and k not in (2, 3):
        raise RuntimeError(
            f"Expected 2 to 3 dimensions, but got {k}-dimensional tensor for argument #1 'self' (while checking "
            "arguments for avg_pool1d)"
        )
    if k not in (n + 1, n + 2) or 0 in shape[k - n - 1 :]:
        first = f"{name}: " if name == "max_pool1d" else ""
        raise RuntimeError(
            f"{first}Expected {n + 1}D or {n + 2}D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got:{shape}"
        )


# What users call.
def max_pool(
    name: str, n: int, input: Tensor, windows: Windows, ceil_mode: bool, indices: bool
) -> tuple[Tensor, Tensor | None]:
    """The largest element of each window and, if they are wanted, the positions."""
    if input._avals.dtype == BOOL:
        raise NotImplementedError(f"\"{name}\" not implemented for 'Bool'")
    size = counts(input, windows, ceil_mode)
    made = _window_max(input, windows, size, f"MaxPool{max(n, 2)}DWithIndicesBackward0")
    if not indices:
        return made, None
    which = _window_argmax(input, windows, size)
    return made, _window_places(which, windows, _last(input.shape, windows))


def avg_pool(
    n: int,
    input: Tensor,
    windows: Windows,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The mean of each window, or its sum over a given divisor."""
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    size = counts(input, windows, ceil_mode)
    made = _window_sum(input, windows, size, f"AvgPool{max(n, 2)}DBackward0")
    number = divisor_override or _elements(input, windows, size, count_include_pad)
    if input.is_floating_point():
        return made / (number if isinstance(number, int) else number.to(input.dtype))
    return call("div", made, number, rounding_mode="trunc")


def _elements(input: Tensor, windows: Windows, size: Ints, padded: bool) -> Any:
    """How many elements each window has: a number if all have as many."""
    lengths = []
    for length, t, k, s, p, _ in zip(_last(input.shape, windows), size, *windows, strict=True):
        first = np.arange(t) * s - p
        low, high = (-p, length + p) if padded else (0, length)
        lengths.append(np.minimum(first + k, high) - np.maximum(first, low))
    if all((n == n[0]).all() for n in lengths):
        return math.prod(int(n[0]) for n in lengths)
    total = lengths[0]
    for more in lengths[1:]:
        total = np.multiply.outer(total, more)
    return Tensor(session.constant(total.astype(np.int64)))


def unpooled(input: Tensor, indices: Tensor, size: Ints) -> Tensor:
    """Zeros with each element at its position in the flattened last dimensions, which have these lengths."""
    lead = tuple(input.shape[: input.dim() - len(size)])
    flat, places = call("reshape", input, (*lead, -1)), call("reshape", indices, (*lead, -1))
    zeros = input.new_zeros((*lead, math.prod(size)))
    return call("reshape", call("scatter", zeros, -1, places, flat), (*lead, *size))
