"""Images in another size: interpolation by the elements near a place, along one dimension after the other."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distgrad.nn.functional.adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from distgrad.nn.functional.vision import _floats
from distgrad.ops.base import Tensor
from distgrad.ops.vision import (
    _resampled,
)

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]


# Resampling: positions and weights of the elements that make up one element, along one dimension.
Taps = tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
MODES = "nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact"
SMOOTH = {"linear": 1, "bilinear": 2, "trilinear": 3}


def _taps(places: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Taps:
    return tuple(
        (tuple(p.astype(int).tolist()), tuple(w.astype(float).tolist()))
        for p, w in zip(places, weights, strict=True)
    )


def _nearest(n: int, t: int, step: float, exact: bool) -> Taps:
    i = np.arange(t, dtype=np.float32) + np.float32(0.5 * exact)
    return _taps([np.minimum(np.floor(i * np.float32(step)), n - 1)], [np.ones(t)])


def _step(n: int, t: int, scale: float | None, aligned: bool) -> float:
    """How far apart neighbours of the result are."""
    if aligned:
        return (n - 1) / (t - 1) if t > 1 else 0.0
    return 1 / scale if scale else n / t


def _linear(n: int, t: int, step: float, aligned: bool) -> Taps:
    at = np.arange(t) * step if aligned else np.maximum((np.arange(t) + 0.5) * step - 0.5, 0)
    low = np.minimum(np.floor(at), n - 1)
    return _taps([low, np.minimum(low + 1, n - 1)], [1 - (at - low), at - low])


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """The convolution kernel of cubic interpolation (Keys, 1981)."""

    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return weight


def _bicubic(n: int, t: int, step: float, aligned: bool) -> Taps:
    at = np.arange(t) * step if aligned else (np.arange(t) + 0.5) * step - 0.5
    low = np.floor(at)
    offsets = [low + j for j in (-1, 0, 1, 2)]
    return _taps([np.clip(o, 0, n - 1) for o in offsets], [_cubic(-0.75)(at - o) for o in offsets])


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, lambda x: np.maximum(1 - np.abs(x), 0)),
    "bicubic": (2, _cubic(-0.5)),
    "lanczos": (3, _lanczos),
}


def _smoothed(n: int, t: int, step: float, mode: str) -> Taps:
    """Filters as wide as the elements of the result are apart, so that nothing is left out; their weights sum to 1."""
    reach, weight = FILTERS[mode]
    wide = max(step, 1.0)
    centre = step * (np.arange(t) + 0.5)
    low = np.maximum((centre - reach * wide + 0.5).astype(int), 0)
    high = np.minimum((centre + reach * wide + 0.5).astype(int), n)
    offsets = [low + j for j in range(int((high - low).max()))]
    weights = [np.where(o < high, weight((o - centre + 0.5) / wide), 0) for o in offsets]
    total = sum(weights)
    return _taps([np.minimum(o, n - 1) for o in offsets], [w / total for w in weights])


def _sizes(
    input: Tensor, size: Any, scale_factor: Any, recompute: bool | None
) -> tuple[list[int], list[float | None]]:
    """The lengths of the result, and the scales where these and not the lengths say how far apart elements are."""
    lengths = list(input.shape[2:])
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    given = scale_factor if size is None else size
    several = list(given) if isinstance(given, (tuple, list)) else [given] * len(lengths)
    if len(several) != len(lengths):
        what, short, shown = (
            ("output", "o", f"output size of {given}")
            if size is not None
            else ("scale_factor", "s", f"scale_factor of shape {given}")
        )
        last = "output size in" if size is not None else "scale_factor in"
        raise ValueError(
            f"Input and {what} must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {lengths} and {shown}. Please provide input tensor in (N, C, d1, d2, ...,dK) format and {last} "
            f"({short}1, {short}2, ...,{short}K) format."
        )
    if size is not None:
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        for n in several:
            if not hasattr(n, "__index__"):
                raise TypeError(
                    "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, int, int], but got "
                    f"size with types {[type(x) for x in several]}"
                )
        return [operator.index(n) for n in several], [None] * len(lengths)
    made = [math.floor(n * float(s)) for n, s in zip(lengths, several, strict=True)]
    return made, [None if recompute else float(s) for s in several]


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """(N, C, ...) at another resolution, given as `size` or as `scale_factor`, for one to three spatial dimensions.

    Modes: "nearest" and "nearest-exact", "linear" (3D input), "bilinear" and "bicubic" (4D), "trilinear" (5D), "area"
    (means of windows). With `align_corners` the outermost elements keep their places. With `antialias` filters widen
    as the image shrinks ("bilinear", "bicubic", "lanczos").
    """
    if mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
                "trilinear"
            )
    else:
        align_corners = bool(align_corners)
    recompute = bool(recompute_scale_factor) or (mode == "area" and size is None)
    sizes, scales = _sizes(input, size, scale_factor, recompute)
    n = input.dim() - 2
    if antialias and not (mode in FILTERS and n == 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as input"
        )
    _check_mode(input, mode, bool(align_corners), antialias)
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[n - 1](input, sizes)
    _check_images(input, sizes, mode)
    taps = tuple(
        _along(length, t, scale, mode, bool(align_corners), antialias)
        for length, t, scale in zip(input.shape[2:], sizes, scales, strict=True)
    )
    word = {"nearest-exact": "NearestExact"}.get(mode, mode.capitalize())
    node = f"Upsample{word}{n}D{'Aa' * antialias}Backward0"
    return _resampled(input, tuple(range(2, n + 2)), taps, node)


def _along(n: int, t: int, scale: float | None, mode: str, aligned: bool, antialias: bool) -> Taps:
    step = _step(n, t, scale, aligned)
    if antialias:
        return _smoothed(n, t, step, mode)
    if mode in SMOOTH:
        return _linear(n, t, step, aligned)
    return (
        _bicubic(n, t, step, aligned) if mode == "bicubic" else _nearest(n, t, step, mode == "nearest-exact")
    )


def _check_mode(input: Tensor, mode: str, aligned: bool, antialias: bool) -> None:
    n = input.dim() - 2
    if n in (1, 2, 3):
        if mode in ("nearest", "nearest-exact", "area") or SMOOTH.get(mode) == n:
            return
        if mode in SMOOTH:
            raise NotImplementedError(f"Got {n + 2}D input, but {mode} mode needs {SMOOTH[mode] + 2}D input")
        if n == 2 and mode == "bicubic":
            return
        if n == 2 and mode == "lanczos":
            if aligned:
                raise ValueError("Lanczos mode does not support align_corners=True")
            if not antialias:
                raise ValueError("Lanczos mode requires antialias=True")
            return
    raise NotImplementedError(
        f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {n + 2}D) for the modes: {MODES} (got {mode})"
    )


def _check_images(input: Tensor, sizes: list[int], mode: str) -> None:
    n = input.dim() - 2
    if 0 in input.shape[1:] and 0 not in input.shape[2:]:
        raise RuntimeError(
            f"Non-empty {n + 2}D data tensor expected but got a tensor with sizes {list(input.shape)}"
        )
    if min(*input.shape[2:], *sizes) <= 0:
        letters = "DHW"[-n:]
        given, made = (
            ", ".join(f"{c}: {m}" for c, m in zip(letters, what, strict=True))
            for what in (input.shape[2:], sizes)
        )
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input ({given}) and output ({made})"
        )
    _floats(f"upsample_{mode.replace('-', '_')}{n}d", input)


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
) -> Tensor:
    """`interpolate` by its old name."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode "nearest"."""
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor)


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode "bilinear" and aligned corners."""
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "bilinear", True)
