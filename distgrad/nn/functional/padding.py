"""`pad` as a function."""

from __future__ import annotations

from distgrad.ops.padding import pad

__all__ = ["pad"]
