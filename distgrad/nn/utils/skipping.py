"""Modules without their initial values."""

from __future__ import annotations

import inspect
from typing import Any

from distgrad.nn.module import Module


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """A module of which the parameters' contents do not matter; to be given others at once.

    Here nothing is drawn before it is needed, so it is made as usual and its values are dropped.
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    return module_cls(*args, **kwargs).to_empty(device=kwargs.get("device", "cpu"))
