"""`torch.backends`: what programs ask of the libraries below torch, none of which is there, and switches they set.

Results here are always the same bits, so that the switches have nothing to change: they keep what they are set to.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

__all__ = ["cuda", "cudnn", "mkl", "mps", "openmp"]


def _no(*_: Any, **__: Any) -> bool:
    """False."""
    return False


cudnn = SimpleNamespace(
    is_available=_no,
    version=lambda: None,
    enabled=True,
    benchmark=False,
    deterministic=False,
    allow_tf32=True,
)
cuda = SimpleNamespace(
    is_built=_no, matmul=SimpleNamespace(allow_tf32=False, allow_fp16_reduced_precision_reduction=True)
)
mps = SimpleNamespace(is_available=_no, is_built=_no)
mkl = SimpleNamespace(is_available=_no)
openmp = SimpleNamespace(is_available=_no)
