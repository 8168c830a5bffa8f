"""Methods that torch has as functions too: those in place, and what a tensor tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.ops.base import Tensor

IN_PLACE = [
    "abs",
    "acos",
    "acosh",
    "addmv",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "asin",
    "asinh",
    "as_strided",
    "atan",
    "atanh",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "cos",
    "cosh",
    "deg2rad",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fill",
    "fix",
    "floor",
    "frac",
    "gcd",
    "i0",
    "index_put",
    "lcm",
    "ldexp",
    "log",
    "log10",
    "log1p",
    "log2",
    "logit",
    "nan_to_num",
    "neg",
    "negative",
    "rad2deg",
    "reciprocal",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
    "xlogy",
    "zero",
]
OTHERS = [
    "conj",
    "detach",
    "detach_",
    "get_device",
    "imag",
    "is_complex",
    "is_conj",
    "is_inference",
    "is_neg",
    "is_same_size",
    "is_signed",
    "real",
    "resolve_conj",
    "resolve_neg",
]


def _function(name: str) -> Callable[..., Any]:
    """The method as a function, which finds it when it is called: so whatever file attaches it."""

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Tensor):
            kind = type(input).__name__
            raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {kind}")
        member = getattr(input, name)
        return member(*args, **kwargs) if callable(member) and not isinstance(member, Tensor) else member

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`input.{name}`, as a function."
    return call


NAMES = [*(f"{name}_" for name in IN_PLACE), *OTHERS]
globals().update({name: _function(name) for name in NAMES})
__all__ = NAMES
