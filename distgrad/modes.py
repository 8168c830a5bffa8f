"""Settings that programs make at their beginning, and what they mean here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from distgrad.dtype import OF_NAME, dtype, set_default_dtype

_set = {"threads": 1, "deterministic": False, "warn_only": False, "precision": "highest"}


def set_num_threads(int: int) -> None:
    """Keep a number of threads for `get_num_threads`. Each process computes with one whatever it is, which is told:
    so results are the same bits. What computes in parallel is workers: `distgrad.init(workers=...)`.
    """
    if isinstance(int, bool) or not hasattr(int, "__index__"):
        raise RuntimeError(f"set_num_threads expects an int, but got {type(int).__name__}")
    if int < 1:
        raise RuntimeError("set_num_threads expects a positive integer")
    if int > 1 and _set["threads"] != int:
        text = "distgrad computes with one thread in each process; use distgrad.init(workers=...) for more processes"
        warnings.warn(text, stacklevel=2)
    _set["threads"] = int


def get_num_threads() -> int:
    """What `set_num_threads` was given; 1 before."""
    return _set["threads"]  # type: ignore[return-value]


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Keep the setting: with it or without, every result is the same bits at each run, on any number of workers."""
    _set["deterministic"], _set["warn_only"] = bool(mode), bool(warn_only)


def are_deterministic_algorithms_enabled() -> bool:
    """What `use_deterministic_algorithms` was given."""
    return bool(_set["deterministic"])


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """What `use_deterministic_algorithms` was given as `warn_only`."""
    return bool(_set["warn_only"])


def set_float32_matmul_precision(precision: str) -> None:
    """Keep the setting: products of float32 are always of the highest precision."""
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"{precision} is not one of 'highest', 'high', or 'medium'")
    _set["precision"] = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was given."""
    return str(_set["precision"])


def set_default_tensor_type(t: Any) -> None:
    """torch's old way to set the default dtype, by the name of a tensor type."""
    name = t if isinstance(t, str) else f"torch.{t.__name__}"
    found: dtype | None = next((d for d in OF_NAME.values() if d.tensor_type == name), None)
    if found is None:
        raise TypeError(f"invalid type name: {name!r}")
    set_default_dtype(found)


def compile(model: Any = None, **options: Any) -> Any:
    """The function or module itself. What it does to tensors is planned, fused and compiled anyway, and kept by
    structure: a step that runs again is sent as it is. `options` are those of torch's compiler, which is not there.
    """
    if model is None:
        keep: Callable[[Any], Any] = lambda model: model  # noqa: E731
        return keep
    return model
