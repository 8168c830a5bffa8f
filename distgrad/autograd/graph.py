"""What is saved for backward: hooks on it, as `torch.autograd.graph`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad import saving, session
from distgrad.tensor import Tensor

__all__ = ["disable_saved_tensors_hooks", "save_on_cpu", "saved_tensors_hooks"]


class saved_tensors_hooks:
    """In this block what ops save for backward goes through hooks; of blocks in blocks the innermost holds.

    Args:
        pack_hook: called with each tensor that is saved; what it returns is kept in its place. It must not change it.
        unpack_hook: called with that when backward needs the tensor; gives it back.

    What an unpacked tensor was when it was saved is for the hooks to know: changes in place are not noticed.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]):
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def __enter__(self) -> None:
        saving.push(saving.Pair(self.pack_hook, self.unpack_hook))

    def __exit__(self, *exc: object) -> None:
        saving.pop()


class save_on_cpu(saved_tensors_hooks):
    """In this block what ops save for backward is held by the driver, not by the workers.

    It is fetched when it is saved, which waits for it, and sent again when backward needs it, cut as it was. This
    makes room on workers whose memory is short where the driver's is not.

    Args:
        pin_memory, device_type: accepted and without effect, as in torch where there is no accelerator.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda"):
        super().__init__(_to_driver, _from_driver)


def _to_driver(tensor: Tensor) -> tuple[np.ndarray, Any]:
    return session.fetch(tensor._value), tensor.sharding


def _from_driver(packed: tuple[np.ndarray, Any]) -> Tensor:
    array, cuts = packed
    value = session.constant(array)
    return Tensor(value if value.sharding == cuts else session.emit("reshard", value, cuts=cuts))


@contextlib.contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """In this block nobody may set hooks: who tries gets a RuntimeError with this message."""
    before = saving.hooks.refusal
    saving.refuse(error_message)
    try:
        yield
    finally:
        saving.refuse(before)
