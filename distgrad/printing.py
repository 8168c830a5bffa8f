"""The printed form of tensors, character for character as torch 2.13 prints them.

Everything here works on NumPy arrays. A tensor that is too large to print whole is printed by its corners:
`edge_indices` says which indices of each dimension appear, the caller fetches those alone, and `format_array`
puts the text together from that small array and the true shape.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PREFIX = "tensor("
ELLIPSIS = "..."
DEFAULT_FLOAT = "float32"
UNNAMED_DTYPES = (DEFAULT_FLOAT, "int64", "bool")


@dataclass
class PrintOptions:
    """How tensors are printed; the fields are the arguments of `set_printoptions`."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


PROFILES: dict[str, dict[str, Any]] = {
    "default": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80},
    "short": {"precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 80},
    "full": {"precision": 4, "threshold": math.inf, "edgeitems": 3, "linewidth": 80},
}

_options = PrintOptions()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are printed, for the whole process.

    Args:
        precision: digits after the point.
        threshold: number of elements above which only the corners are printed.
        edgeitems: how many elements the corners keep at each end of a dimension.
        linewidth: columns before a row is broken.
        profile: "default", "short" or "full" set the four above; an argument given beside it wins.
        sci_mode: True or False force or forbid scientific notation; None decides from the values. As in
            torch, every call sets this one: leaving it out returns to None.
    """
    changes = dict(PROFILES.get(profile, {})) if profile is not None else {}
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    changes.update((name, value) for name, value in given.items() if value is not None)
    changes["sci_mode"] = sci_mode
    for name, value in changes.items():
        setattr(_options, name, value)


def get_printoptions() -> dict[str, Any]:
    """The options in force, as keyword arguments for `set_printoptions`."""
    return asdict(_options)


@contextmanager
def printoptions(**changes: Any) -> Iterator[None]:
    """Set options as `set_printoptions` does and put the old ones back at the end of the block."""
    before = get_printoptions()
    set_printoptions(**changes)
    try:
        yield
    finally:
        set_printoptions(**before)


def edge_indices(shape: Sequence[int]) -> list[list[int]] | None:
    """The indices of each dimension that appear when a tensor of this shape is printed.

    None means that the whole tensor is printed. The lists suit `numpy.ix_`, and the array they select is what
    `format_array` wants beside the true shape. Costs nothing for any size of tensor.
    """
    if math.prod(shape) <= _options.threshold:
        return None
    return [_kept(size) for size in shape]


def format_array(
    array: np.ndarray, *, suffixes: Sequence[str] = (), shape: Sequence[int] | None = None
) -> str:
    """What torch 2.13 gives for `repr` of a tensor with these values.

    Args:
        array: the values: the whole tensor, or the corners that `edge_indices(shape)` selects.
        suffixes: what follows the values, such as "requires_grad=True" or "grad_fn=<AddBackward0>". The size
            of an empty tensor and a dtype that needs naming are added before them.
        shape: the true shape, where `array` holds the corners alone.

    Raises:
        TypeError: if the array's dtype is none of bool, integer and floating point.
        ValueError: if the array is neither the whole tensor nor its corners.
    """
    if array.dtype.kind not in "biuf":
        raise TypeError(f"cannot print an array of dtype {array.dtype}")
    shape = array.shape if shape is None else tuple(shape)
    edges = edge_indices(shape)
    if edges is not None:
        array = _corners(array, shape, edges)
    elif array.shape != shape:
        raise ValueError(f"expected a tensor of shape {shape}, but got shape {array.shape}")

    body = "[]"
    if 0 not in shape:
        texts, width = _aligned(array)
        body = _nested(texts, shape, width, abridged=edges is not None)
    return _with_suffixes(PREFIX + body, [*_own_suffixes(shape, array.dtype.name), *suffixes])


def _kept(size: int) -> list[int]:
    """The indices of a dimension that are printed: all of a short one, both ends of a long one."""
    edge = _options.edgeitems
    if size <= 2 * edge:
        return list(range(size))
    return [*range(edge), *range(size - edge, size)]


def _corners(array: np.ndarray, shape: tuple[int, ...], edges: list[list[int]]) -> np.ndarray:
    """The corner array, from itself or from the whole tensor."""
    compact = tuple(len(indices) for indices in edges)
    if array.shape == compact:
        return array
    if array.shape == shape:
        return array[np.ix_(*edges)]
    raise ValueError(
        f"expected the corners {compact} of a tensor of shape {shape}, but got shape {array.shape}"
    )


def _aligned(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Every value as text, in an object array of the same shape, and the width they were filled up to."""
    values = array.ravel()
    if array.dtype.kind == "f":
        texts, counted = _float_texts(values)
    else:
        texts = [str(value) for value in values.tolist()]
        counted = texts
    width = max(map(len, counted), default=1)
    aligned = np.empty(values.shape, dtype=object)
    aligned[:] = [text.rjust(width) for text in texts]
    return aligned.reshape(array.shape), width


def _float_texts(values: np.ndarray) -> tuple[list[str], list[str]]:
    """The text of each value, and those texts that count for the width of the column.

    One form serves for all: scientific, or whole numbers with a bare point if no value has a fraction, or
    `precision` digits. Zeros, infinities and nan have no say in the form or the width, so they can stick out.
    """
    counts = np.isfinite(values) & (values != 0)
    telling = values[counts]
    whole = bool(np.all(telling == np.ceil(telling)))
    if telling.size and _scientific(telling):
        texts = [f"{value:.{_options.precision}e}" for value in values.tolist()]
    elif whole:
        texts = [f"{value:.0f}." if math.isfinite(value) else str(value) for value in values.tolist()]
    else:
        texts = [f"{value:.{_options.precision}f}" for value in values.tolist()]
    return texts, [texts[i] for i in np.flatnonzero(counts)]


def _scientific(values: np.ndarray) -> bool:
    """Whether these values, finite and not zero, are written with exponents."""
    if _options.sci_mode is not None:
        return _options.sci_mode
    magnitudes = np.abs(values).astype(np.float64)
    smallest, largest = float(magnitudes.min()), float(magnitudes.max())
    return largest > 1e8 or smallest < 1e-4 or largest / smallest > 1000.0


def _nested(texts: np.ndarray, shape: tuple[int, ...], width: int, *, abridged: bool, depth: int = 0) -> str:
    """The values in their brackets; `shape` is the true one and tells where an ellipsis stands."""
    if not shape:
        return str(texts.item())
    edge = _options.edgeitems
    indent = len(PREFIX) + depth
    shortened = abridged and shape[0] > 2 * edge
    if len(shape) == 1:
        parts = texts.tolist()
        if shortened:
            parts[edge:edge] = [" " + ELLIPSIS if edge else ELLIPSIS]
        return "[" + _rows(parts, indent, width) + "]"
    parts = [_nested(part, shape[1:], width, abridged=abridged, depth=depth + 1) for part in texts]
    if shortened:
        parts[edge:edge] = [ELLIPSIS]
    between = "," + "\n" * (len(shape) - 1) + " " * (indent + 1)
    return "[" + between.join(parts) + "]"


def _rows(items: list[str], indent: int, width: int) -> str:
    """The items of one innermost row, broken at the line's width."""
    per_line = max(1, (_options.linewidth - indent) // (width + len(", ")))
    lines = [", ".join(items[start : start + per_line]) for start in range(0, len(items), per_line)]
    return (",\n" + " " * (indent + 1)).join(lines)


def _own_suffixes(shape: tuple[int, ...], dtype: str) -> list[str]:
    """The size where the values do not show it, and the dtype where they do not tell it."""
    empty = 0 in shape
    size_hidden = len(shape) != 1 if empty else not _options.edgeitems
    dtype_told = dtype == DEFAULT_FLOAT if empty else dtype in UNNAMED_DTYPES
    suffixes = [f"size={shape}"] if size_hidden else []
    return suffixes if dtype_told else [*suffixes, f"dtype=torch.{dtype}"]


def _with_suffixes(text: str, suffixes: Sequence[str]) -> str:
    """The text and its suffixes, each on the last line if it has room there, else on a line of its own."""
    pieces = [text]
    # Two columns more than the last line has: torch counts so, and breaks the line where this count says.
    used = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if used + len(suffix) + 2 > _options.linewidth:
            pieces.append(",\n" + " " * len(PREFIX) + suffix)
            used = len(PREFIX) + len(suffix)
        else:
            pieces.append(", " + suffix)
            used += len(suffix) + 2
    return "".join(pieces) + ")"
