"""`DataParallel`, without accelerators: the module itself under another name."""

from __future__ import annotations

from typing import Any

from distgrad.nn.module import Module

__all__ = ["DataParallel"]


class DataParallel(Module):
    """Calls `module`, as torch's does where there are no accelerators. What computes in parallel here is workers.

    The module is found under `module`, so the keys of the state dict begin with "module.".
    """

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0):
        super().__init__()
        self.module, self.device_ids = module, []  # type: ignore[var-annotated]

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        return self.module(*inputs, **kwargs)
