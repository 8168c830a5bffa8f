"""torch's names for the order in which elements lie in memory. Here it is C order, whatever a program asks for."""

from __future__ import annotations

from typing import Any


class memory_format:
    """A name that is given as `memory_format=`. It says how memory is laid out, and so changes no result."""

    __slots__ = ("name", "rank")

    def __init__(self, name: str, rank: int | None = None):
        self.name, self.rank = name, rank

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> str:
        return self.name


contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last", 4)
channels_last_3d = memory_format("channels_last_3d", 5)


def check_format(name: str, given: Any, rank: int | None = None) -> None:
    """torch's errors for what is no format, or not for tensors of so many dimensions."""
    if given is None:
        return
    if not isinstance(given, memory_format):
        kind = type(given).__name__
        raise TypeError(f"{name}(): argument 'memory_format' must be torch.memory_format, not {kind}")
    if None not in (rank, given.rank) and rank != given.rank:
        raise RuntimeError(f"required rank {given.rank} tensor to use {given.name} format")
