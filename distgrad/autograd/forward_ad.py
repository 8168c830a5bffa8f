"""Forward mode: duals of a primal and its tangent, as `torch.autograd.forward_ad`.

with dual_level():
    x = make_dual(primal, tangent)
    y, jvp = unpack_dual(f(x))
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple

from distgrad import dual
from distgrad.autograd.pushing import tangent_at
from distgrad.ops.views import _view
from distgrad.recording import _Setting
from distgrad.tensor import Tensor

__all__ = [
    "UnpackedDualTensor",
    "dual_level",
    "enter_dual_level",
    "exit_dual_level",
    "make_dual",
    "unpack_dual",
]


class UnpackedDualTensor(NamedTuple):
    """What `unpack_dual` gives: the primal, and the tangent or None."""

    primal: Tensor
    tangent: Tensor | None


def _current() -> int:
    return len(dual.forward.levels) - 1


def enter_dual_level() -> int:
    """Open a level at which tensors can have tangents; its number. There is one at a time: `func.jvp` nests."""
    if dual.forward.levels:
        raise RuntimeError("Nested forward mode AD is not supported at the moment")
    return dual.enter()


def exit_dual_level(*, level: int | None = None) -> None:
    """Close the level and forget the tangents there."""
    current = _current()
    level = current if level is None else level
    if level != current:
        raise RuntimeError(
            "Trying to exit a forward AD level that was not the last one that was created. This is not supported."
        )
    if level < 0:
        raise RuntimeError("Dual level must be a positive number.")
    dual.leave()


class dual_level(_Setting):
    """`with dual_level():` opens a level for the block; also a decorator."""

    def __enter__(self) -> int:  # type: ignore[override]
        return enter_dual_level()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_dual_level()


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """A view of `tensor` whose tangent is `tangent`, of the same shape; what is computed from it has one too.

    Raises:
        RuntimeError: no level is open, the shapes differ, or one of both has a tangent at this level already.
        ValueError: one of both is not of floating point.
    """
    current = _current()
    level = current if level is None else level
    if level < 0:
        raise RuntimeError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to "
            "enter_dual_level() first."
        )
    for name, item in (("primal", tensor), ("tangent", tangent)):
        if not item.is_floating_point():
            raise ValueError(f"Expected {name} to be floating point or complex, but got: {item.dtype}")
    if level > current:
        raise RuntimeError("Invalid level given to _make_dual")
    if dual.has(tensor, level):
        raise RuntimeError(
            "Making a dual Tensor based on a Tensor that already has a forward gradient at the same "
            f"level {level} is not supported."
        )
    if dual.has(tangent, level):
        raise RuntimeError(
            f"Setting a forward grad that itself has a forward gradient at the same level{level} is not supported."
        )
    if tuple(tensor.shape) != tuple(tangent.shape):
        raise RuntimeError(
            "Trying to set a forward gradient that has a different size than that of the original Tensor, this is "
            f"not supported. Tensor is of size {list(tensor.shape)} while the given forward gradient is of size "
            f"{list(tangent.shape)}."
        )
    made: Tensor = _view(tensor, tuple(tensor.shape))
    dual.give(made, level, tangent)
    return made


def unpack_dual(tensor: Any, *, level: int | None = None) -> UnpackedDualTensor:
    """The primal, a view of `tensor` without a tangent, and the tangent; None if it has none."""
    current = _current()
    level = current if level is None else level
    if level < 0:
        return UnpackedDualTensor(tensor, None)
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"_unpack_dual(): argument 'dual' (position 1) must be Tensor, not {kind}")
    if level > current:
        raise RuntimeError("Invalid level given to _fw_primal")
    return UnpackedDualTensor(primal_below(tensor, level), tangent_at(tensor, level))


def primal_below(tensor: Tensor, level: int) -> Tensor:
    """A view of the tensor without its tangent at `level`."""
    with dual.below(level):
        made: Tensor = _view(tensor, tuple(tensor.shape))
    dual.give(made, level, None)
    return made
