"""`torch.cuda` where there is none: questions are answered with no, what needs a device is refused."""

from __future__ import annotations

from typing import Any

from distgrad import amp

__all__ = [
    "amp",
    "current_device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_device_properties",
    "is_available",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "memory_allocated",
    "set_device",
    "synchronize",
]


def is_available() -> bool:
    """False: tensors are in the memory of processors."""
    return False


def is_initialized() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def _refused(*_: Any, **__: Any) -> Any:
    """Refused: there is no such device."""
    raise AssertionError("Torch not compiled with CUDA enabled")


current_device = get_device_name = get_device_properties = synchronize = _refused


def set_device(device: Any) -> None:
    """Refused, but for a negative number."""
    if not isinstance(device, int) or device >= 0:
        _refused()


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing: there is no device to do it to."""


manual_seed = manual_seed_all = empty_cache = _nothing


def memory_allocated(device: Any = None) -> int:
    """0 bytes."""
    return 0


max_memory_allocated = memory_allocated
