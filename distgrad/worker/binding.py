"""The calls of a tile: take the operands from the registers, run the kernel, bring the result to where it belongs.

A tile is some dozen calls of some microseconds, so what they need is bound to them once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

Kernel = Callable[..., Any]
Getter = Callable[[list[Any]], tuple[Any, ...]]
Call = Callable[[], None]


def getter(registers: tuple[int, ...]) -> Getter:
    """Takes the operands from the registers."""
    if len(registers) > 1:
        return itemgetter(*registers)
    return lambda regs: tuple([regs[r] for r in registers])


def _by_position(kernel: Kernel) -> bool:
    """Whether the kernel takes `out` by position, which is quicker by 0.2 us. NumPy warns of that for two ufuncs."""
    return isinstance(kernel, np.ufunc) and kernel not in (np.maximum, np.minimum)


def writing(kernel: Kernel, regs: list[Any], operands: tuple[int, ...], register: int) -> Call:
    """The kernel writes into the array in `register`."""
    if _by_position(kernel):
        all_of = getter((*operands, register))
        return lambda: kernel(*all_of(regs))
    get = getter(operands)

    def call() -> None:
        kernel(*get(regs), out=regs[register])

    return call


def bound(kernel: Kernel, operands: list[np.ndarray], target: np.ndarray) -> Call:
    """The kernel with arrays that are the same for every tile."""
    if _by_position(kernel):
        return partial(kernel, *operands, target)
    return partial(kernel, *operands, out=target)


def making(
    kernel: Kernel,
    regs: list[Any],
    get: Getter,
    registers: list[int],
    copied: list[bool],
) -> Call:
    """The kernel makes its results; those that have a place are copied there."""

    def call() -> None:
        results = kernel(*get(regs))
        results = results if isinstance(results, tuple) else (results,)
        for register, copy, result in zip(registers, copied, results, strict=True):
            if copy:
                np.copyto(regs[register], result)
            else:
                regs[register] = result

    return call


def summing(
    kernel: Kernel,
    regs: list[Any],
    operands: tuple[int, ...],
    register: int,
    merge: Callable[..., Any],
    into: bool,
    first: bool,
    target: np.ndarray | None,
) -> Call:
    """The first tile's part is the beginning of the sum; the others are put to it in their order."""
    if first and into:
        return writing(kernel, regs, operands, register)
    get = getter(operands)
    if first:
        return making(kernel, regs, get, [register], [True])

    def call() -> None:
        part = kernel(*get(regs)) if target is None else kernel(*get(regs), out=target)
        merge(regs[register], part, out=regs[register])

    return call


def putting(part: np.ndarray, regs: list[Any], register: int, merge: Kernel, first: bool) -> Call:
    """The sum of a tile, which a compiled unit has made, is put to the one in `register`, or is its beginning."""
    if first:
        return lambda: np.copyto(regs[register], part)

    def call() -> None:
        merge(regs[register], part, out=regs[register])

    return call


def carrying(regs: list[Any], part: int, register: int, merge: Kernel, first: bool) -> Call:
    """The partial sum in register `part` is put to the one above it, or is its beginning."""
    if first:
        return lambda: np.copyto(regs[register], regs[part])

    def call() -> None:
        merge(regs[register], regs[part], out=regs[register])

    return call


def adding(kernel: Kernel, regs: list[Any], get: Getter, register: int) -> Call:
    """The kernel adds its part onto the array in `register`."""

    def call() -> None:
        kernel(*get(regs), onto=regs[register])

    return call


def viewed(kernel: Kernel, operand: np.ndarray | None) -> np.ndarray | None:
    """What a regrouping makes of a temporary, if that is a view of it: then nothing is left to do for a tile."""
    if operand is None:
        return None
    made = kernel(operand)
    return made if np.may_share_memory(made, operand) else None


def shifting(kernel: Kernel, regs: list[Any], operand: int, register: int, target: np.ndarray | None) -> Call:
    """A regrouping gives a view of its operand or, where it takes `out`, fills the temporary."""
    out = {} if target is None else {"out": target}

    def call() -> None:
        regs[register] = kernel(regs[operand], **out)

    return call


def told(kernel: Kernel, regs: list[Any], register: int) -> Kernel:
    """The kernel, told where the tile lies: a register has it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return kernel(*args, at=regs[register], **kwargs)

    return call
