"""`torch.jit`: programs run as they are, and what they do to tensors is compiled when it is sent to the workers."""

from __future__ import annotations

from typing import Any

__all__ = ["script", "trace"]


def _refused(name: str) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f"distgrad has no torch.jit.{name}: leave it out, plans are compiled from the program as it runs"
        )

    refuse.__name__, refuse.__doc__ = name, "Refused: the program itself does the same."
    return refuse


script, trace = _refused("script"), _refused("trace")
