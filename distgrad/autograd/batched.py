"""Functions of the user's own inside of `vmap`: by their `vmap` method, or by running them on batched tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

from distgrad import vmaps
from distgrad.ops.batching import enter_level, left
from distgrad.session import batching
from distgrad.tensor import Tensor

MORE = "For more details, please see https://pytorch.org/docs/main/notes/extending.func.html"


class VmapInfo(NamedTuple):
    """What a `vmap` method is told."""

    batch_size: int
    randomness: str


def level_of(args: tuple[Any, ...]) -> vmaps.Level | None:
    """The highest running level at which one of these is batched."""
    found = {level for a in args if isinstance(a, Tensor) for level in batching.levels(a._avals)}
    for level in reversed(vmaps.active.levels):
        if (level.number, level.size) in found:
            return level
    return None


def checked(cls: Any, own: bool, sets_context: bool) -> None:
    """torch's errors for a function that cannot be batched; `own`: it has a `vmap` method."""
    if not sets_context:
        raise RuntimeError(
            "In order to use an autograd.Function with functorch transforms (vmap, grad, jvp, jacrev, ...), it must "
            f"override the setup_context staticmethod. {MORE}"
        )
    if own and cls.generate_vmap_rule:
        raise RuntimeError(
            f"You tried to vmap over {cls.__name__}, but it has both generate_vmap_rule=True and an overridden vmap "
            "staticmethod. Please set generate_vmap_rule=False or delete the overridden vmap staticmethod to avoid "
            f"ambiguity. {MORE}"
        )
    if not own and not cls.generate_vmap_rule:
        raise RuntimeError(
            f"You tried to vmap over {cls.__name__}, but it does not have vmap support. Please override and implement "
            f"the vmap staticmethod or set generate_vmap_rule=True. {MORE}"
        )


def by_own_rule(cls: Any, args: tuple[Any, ...], level: vmaps.Level) -> Any:
    """The results of the function's `vmap` method, which gets tensors with the batch in dimension 0."""
    flags = [isinstance(a, Tensor) and (level.number, level.size) in batching.levels(a._avals) for a in args]
    given = [left(a, 0, level) if flag else a for a, flag in zip(args, flags, strict=True)]
    vmaps.leave(level)
    try:
        made = cls.vmap(
            VmapInfo(level.size, level.randomness), tuple(0 if flag else None for flag in flags), *given
        )
    finally:
        vmaps.active.levels.append(level)
    if not isinstance(made, tuple) or len(made) != 2:
        raise RuntimeError(
            f"Expected the vmap staticmethod to have two returns, an output and out_dims with pytree structure "
            f"compatible with the output. Got a {type(made).__name__} instead"
        )
    outputs, dims = made
    if not isinstance(outputs, tuple):
        return _entered(outputs, dims, level)
    dims = dims if isinstance(dims, tuple) else (dims,) * len(outputs)
    return tuple(_entered(out, dim, level) for out, dim in zip(outputs, dims, strict=True))


def _entered(out: Any, dim: int | None, level: vmaps.Level) -> Any:
    if dim is None or not isinstance(out, Tensor):
        return out
    return enter_level(out, dim % out.dim(), level.number, level.size)
