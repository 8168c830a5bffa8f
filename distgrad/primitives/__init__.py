"""The table of kernels with their shape and shard rules. Importing this package fills `TABLE`."""

from distgrad.primitives import (
    contract,
    decompositions,
    elementwise,
    indexing,
    layout,
    reductions,
    regroup,
    rowwise,
    slices,
    sources,
    sparse,
    special,
    squares,
    updates,
)
from distgrad.primitives.base import MERGES, TABLE, Attrs, Aval, Labels, Layout, Place, Primitive

__all__ = [
    "MERGES",
    "TABLE",
    "Attrs",
    "Aval",
    "Labels",
    "Layout",
    "Place",
    "Primitive",
    "contract",
    "decompositions",
    "elementwise",
    "indexing",
    "layout",
    "reductions",
    "regroup",
    "rowwise",
    "slices",
    "sources",
    "sparse",
    "special",
    "squares",
    "updates",
]
