"""`vmap`: a function of one sample, applied to a batch of them at once.

Ops see single samples; what they are made of is batched below them, by the rules of the primitives (see
`session/batching.py`). So a function is run once, whatever the size of the batch, and sharded batches stay sharded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from distgrad import vmaps
from distgrad.func.tree import Tree, flatten, mapped, spread, unflatten
from distgrad.ops.batching import enter_level, left
from distgrad.ops.joining import cat
from distgrad.ops.random import get_rng_state, set_rng_state
from distgrad.session import batching
from distgrad.tensor import Tensor

Function = Callable[..., Any]


def vmap(
    func: Function,
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Function:
    """A function that applies `func` to each sample of a batch, as `torch.vmap`.

    Args:
        func: takes tensors, or nested tuples, lists and dicts of them, and gives such.
        in_dims: which dimension of each argument is the batch; None: the argument is the same for all samples. A
            number for all of them, or a tuple in the structure of the arguments.
        out_dims: where the batch is to be in the results.
        randomness: "error" refuses random numbers, "different" draws other ones for each sample, "same" the same.
        chunk_size: so many samples at a time, to need less memory; None: all at once.

    Raises:
        ValueError: dimensions that do not go with arguments or results, batches of several sizes.
        RuntimeError: what depends on the elements of a sample, such as a branch or `item()`.
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(
            f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _check_out_dims(func, out_dims)
        size, dims, leaves, tree = _inputs(func, in_dims, args)
        if chunk_size is None:
            return run(func, size, dims, leaves, tree, out_dims, randomness, kwargs)
        return _by_chunks(func, chunk_size, size, dims, leaves, tree, out_dims, randomness, kwargs)

    return wrapped


def run(
    func: Function,
    size: int,
    dims: Sequence[int | None],
    leaves: Sequence[Any],
    tree: Tree,
    out_dims: Any,
    randomness: str,
    kwargs: dict[str, Any],
) -> Any:
    """Apply `func` to all samples at a new level."""
    with vmaps.running(size, randomness) as level:
        inside = [
            leaf if dim is None else enter_level(leaf, dim, level.number, size)
            for leaf, dim in zip(leaves, dims, strict=True)
        ]
        outputs = func(*unflatten(inside, tree), **kwargs)
        return _outputs(func, outputs, out_dims, level)


def _by_chunks(func: Function, step: int, size: int, dims: Any, leaves: Any, *rest: Any) -> Any:
    tree, out_dims, randomness, kwargs = rest
    state = get_rng_state() if randomness == "same" else None
    found: list[list[Any]] = []
    made = tree
    for start in range(0, size, step):
        if state is not None:
            set_rng_state(state)
        n = min(step, size - start)
        some = [
            leaf if dim is None else leaf.narrow(dim, start, n)
            for leaf, dim in zip(leaves, dims, strict=True)
        ]
        outputs, made = flatten(run(func, n, dims, some, tree, out_dims, randomness, kwargs))
        found.append(outputs)
    where = spread(out_dims, made)
    assert where is not None
    return unflatten(
        [cat(parts, dim) for parts, dim in zip(zip(*found, strict=True), where, strict=True)], made
    )


# What goes in.
def _inputs(
    func: Function, in_dims: Any, args: tuple[Any, ...]
) -> tuple[int, list[int | None], list[Any], Tree]:
    """The size of the batch, and for each leaf of the arguments where it has it; torch's errors."""
    name = _name(func)
    if not isinstance(in_dims, (int, tuple)):
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): expected `in_dims` to be int or a (potentially nested) "
            f"tuple matching the structure of inputs, got: {type(in_dims)}."
        )
    if not args:
        raise ValueError(
            f"vmap({name})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are trying to vmap over a "
            "function with no inputs. The latter is unsupported."
        )
    leaves, tree = flatten(args)
    dims = spread(in_dims, tree)
    if dims is None:
        raise ValueError(
            f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): in_dims is not compatible with the structure of "
            f"`inputs`. in_dims has structure {flatten(in_dims)[1]} but inputs has structure {tree}."
        )
    dims = [_in_dim(name, in_dims, leaf, dim) for leaf, dim in zip(leaves, dims, strict=True)]
    sizes = [leaf.shape[dim] for leaf, dim in zip(leaves, dims, strict=True) if dim is not None]
    if not sizes:
        raise ValueError("vmap: Expected at least one Tensor to vmap over")
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    return sizes[0], dims, leaves, tree


def _in_dim(name: str, in_dims: Any, leaf: Any, dim: Any) -> int | None:
    where = f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): "
    if dim is None:
        return None
    if not isinstance(dim, int):
        raise ValueError(
            f"{where}Got in_dim={dim} for an input but in_dim must be either an integer dimension or None."
        )
    if not isinstance(leaf, Tensor):
        raise ValueError(
            f"{where}Got in_dim={dim} for an input but the input is of type {type(leaf)}. We cannot vmap over "
            "non-Tensor arguments, please use None as the respective in_dim"
        )
    n = leaf.dim()
    if not -n <= dim < n:
        raise ValueError(
            f"{where}Got in_dim={dim} for some input, but that input is a Tensor of dimensionality {n} so expected "
            f"in_dim to satisfy -{n} <= in_dim < {n}."
        )
    return dim % n


# What comes out.
def _outputs(func: Function, outputs: Any, out_dims: Any, level: vmaps.Level) -> Any:
    """The results with their batch where `out_dims` says; torch's errors."""
    leaves, tree = flatten(outputs)
    if not isinstance(outputs, Tensor):
        dims = spread(out_dims, tree)
    elif isinstance(out_dims, tuple) and len(out_dims) == 1:
        dims = list(out_dims)
    else:
        dims = [out_dims] if out_dims is None or isinstance(out_dims, int) else None
    if dims is None:
        _incompatible(func, out_dims, tree)
    name = _name(func)
    return unflatten(
        [_out(name, leaf, dim, level) for leaf, dim in zip(leaves, dims, strict=True)],
        tree,
    )


def _incompatible(func: Function, out_dims: Any, tree: Tree) -> NoReturn:
    raise ValueError(
        f"vmap({_name(func)}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with the structure of "
        f"`outputs`. out_dims has structure {flatten(out_dims)[1]} but outputs has structure {tree}."
    )


def _out(name: str, leaf: Any, dim: int | None, level: vmaps.Level) -> Any:
    if dim is None:
        if isinstance(leaf, Tensor) and batching.is_batched(leaf._value):
            raise ValueError(
                f"vmap({name}, ...): `{name}` can not return a BatchedTensor when out_dim is None"
            )
        return leaf
    if not isinstance(leaf, Tensor):
        raise ValueError(
            f"vmap({name}, ...): `{name}` must only return Tensors, got type {type(leaf)}. Did you mean to set "
            "out_dims= to None for output?"
        )
    room = leaf.dim() + 1
    if not -room <= dim < room:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-room}, {room - 1}], but got {dim})"
        )
    return left(leaf, dim % room, level)


def _check_out_dims(func: Function, out_dims: Any) -> None:
    def check(dim: Any) -> None:
        if dim is not None and not isinstance(dim, int):
            raise ValueError(
                f"vmap({_name(func)}, ..., out_dims={out_dims}): `out_dims` must be an int, None or a python "
                "collection of ints representing where in the outputs the vmapped dimension should appear."
            )

    mapped(check, out_dims)


def _name(func: Any) -> str:
    if hasattr(func, "__name__"):
        return func.__name__
    if isinstance(func, functools.partial):
        return f"functools.partial({_name(func.func)}, ...)"
    return repr(func)
