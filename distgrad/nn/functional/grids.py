"""Images sampled at given places."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.ops.base import Tensor, call
from distgrad.ops.helpers import title
from distgrad.ops.vision import (
    known,
)

__all__ = ["affine_grid", "grid_sample"]


# Sampling at given places. Coordinates go from -1 to 1 from one end to the other.
def _check_grid(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(
            f"nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: '{mode}'"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or 'reflection', but got: "
            f"'{padding_mode}'"
        )
    both = f"input with sizes {list(input.shape)} and grid with sizes {list(grid.shape)}"
    if input.shape[0] != grid.shape[0]:
        raise RuntimeError(f"grid_sampler(): expected grid and input to have same batch size, but got {both}")
    if grid.shape[-1] != input.dim() - 2:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {input.dim() - 2} in last dimension, but got grid with sizes "
            f"{list(grid.shape)}"
        )
    if input.dim() not in (4, 5) or input.dim() != grid.dim():
        raise RuntimeError(
            f"grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got {both}"
        )
    for d in range(2, input.dim()):
        if not input.shape[d]:
            raise RuntimeError(
                "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
                f"{list(input.shape)} with dimension {d} being empty"
            )
    if input.dim() == 5 and mode == "bicubic":
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    if input.dtype != grid.dtype:
        kinds = (title(x._avals.dtype) for x in (input, grid))
        raise RuntimeError("expected scalar type {} but found {}".format(*kinds))


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """The values of images (N, C, H, W) at the places (x, y) of a grid (N, h, w, 2), -1 to 1: (N, C, h, w).

    The same with a dimension more: (N, C, D, H, W) at (x, y, z). Between pixels values are interpolated by `mode`, and
    outside they are "zeros", those of the "border", or mirrored ("reflection"). The ends are the middles of the
    outermost pixels with `align_corners`, else their outer edges.
    """
    _tell_default(align_corners)
    _check_grid(input, grid, mode, padding_mode)
    lengths = tuple(input.shape[2:])
    axes = [_pixels(grid[..., len(lengths) - 1 - d], n, bool(align_corners)) for d, n in enumerate(lengths)]
    if mode != "bicubic":
        axes = [
            _inside(at, n, padding_mode, bool(align_corners)) for at, n in zip(axes, lengths, strict=True)
        ]
    choices = [_neighbours(at, mode) for at in axes]
    flat = call("reshape", input, (*input.shape[:2], -1))
    total: Any = None
    for chosen in itertools.product(*choices):
        place: Any = 0
        weight: Any = None
        valid: Any = None
        for (at, share), n in zip(chosen, lengths, strict=True):
            if mode == "bicubic":
                at = _inside(at, n, padding_mode, bool(align_corners))
            here = (at >= 0) & (at <= n - 1)
            valid = here if valid is None else valid & here
            weight = share if weight is None else weight * share if share is not None else weight
            place = place * n + at.nan_to_num(0.0).clamp(0, n - 1).long()
        part = _read(flat, place, valid if padding_mode == "zeros" else None, weight)
        total = part if total is None else total + part
    return total.reshape(*input.shape[:2], *grid.shape[1:-1])


def _pixels(at: Tensor, n: int, aligned: bool) -> Tensor:
    """From -1 .. 1 to 0 .. n - 1."""
    return (at + 1) * ((n - 1) / 2) if aligned else ((at + 1) * n - 1) / 2


def _inside(at: Tensor, n: int, padding_mode: str, aligned: bool) -> Tensor:
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        at = _mirrored(at, 0.0, n - 1.0) if aligned else _mirrored(at, -0.5, n - 0.5)
    return at.clamp(0, n - 1)


def _mirrored(at: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    if span <= 0:
        return at * 0
    away = (at - low).abs()
    turns = (away / span).floor().detach()
    rest = away - turns * span
    return call("where", turns.remainder(2) == 0, rest + low, high - rest)


def _neighbours(at: Tensor, mode: str) -> list[tuple[Tensor, Tensor | None]]:
    """Pixels along one dimension that count, each with its weight."""
    if mode == "nearest":
        return [(at.detach().round(), None)]
    low = at.detach().floor()
    if mode == "bilinear":
        return [(low, low + 1 - at), (low + 1, at - low)]
    return [(low + j, _cubic_weight(at - (low + j), j)) for j in (-1, 0, 1, 2)]


def _cubic_weight(x: Tensor, j: int) -> Tensor:
    """`_cubic(-0.75)` of the distance to neighbour j, in ops."""
    a, x = -0.75, -x if j > 0 else x
    return ((a + 2) * x - (a + 3)) * x * x + 1 if j in (0, 1) else ((x - 5) * x + 8) * x * a - 4 * a


def _read(flat: Tensor, place: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """(N, C, places): the elements, 0 where they are not valid, times weights."""
    n, c = flat.shape[:2]
    index = place.reshape(n, 1, -1).expand(n, c, -1)
    found = call("gather", flat, -1, index)
    if valid is not None:
        found = call("where", valid.reshape(n, 1, -1), found, found.new_zeros(()))
    return found if weight is None else found * weight.reshape(n, 1, -1)


def _tell_default(align_corners: bool | None) -> None:
    """Warn of the default, as torch does."""
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please "
            "specify align_corners=True if the old behavior is desired. See the documentation of grid_sample for "
            "details.",
            stacklevel=3,
        )


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places (N, H, W, 2) that `theta` (N, 2, 3) maps the pixels of images of `size` to; (N, 3, 4) for volumes."""
    _tell_default(align_corners)
    if not theta.is_floating_point():
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    size = tuple(size)
    n = len(size) - 2
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. Got size "
            f"{size}."
        )
    if theta.dim() != 3 or tuple(theta.shape[1:]) != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {size}. Got {theta.shape}."
        )
    if min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {size}")
    points = []
    for length in size[2:]:
        ends = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
        points.append(ends if align_corners else ends * ((length - 1) / length))
    mesh = np.meshgrid(*points, indexing="ij")
    base = np.stack([*(m.ravel() for m in mesh[::-1]), np.ones(mesh[0].size)], -1)
    rows = known(base.astype(theta._avals.dtype)).unsqueeze(0).expand(size[0], -1, -1)
    return call("bmm", rows, theta.transpose(1, 2)).reshape(size[0], *size[2:], n)
