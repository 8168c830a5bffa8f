"""Tensors in `.npy` files: `from_npy` and `Tensor.save`. Of a large file the driver handles only the header."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import shutil
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from distgrad import session
from distgrad.dtype import NAMES, OF_NUMPY
from distgrad.ops.base import Tensor, attach
from distgrad.ops.helpers import hint
from distgrad.ops.making import finished
from distgrad.sharding import sharding_of

__all__ = ["from_npy"]

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
Path = str | os.PathLike[str]


class Header(NamedTuple):
    """What stands before the elements."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int  # of the first element, in bytes


def from_npy(path: Path, *, sharding: Any = None, requires_grad: bool = False) -> Tensor:
    """The array in a `.npy` file, as `np.save` writes them; a large one is read by the workers, each its own part.

    It is read when it is first needed, and must stay there unchanged until then. On a cluster `path` must be on a file
    system that all nodes share, at the same place. `sharding` gives the cuts; without it a tensor of this shape has its
    usual ones. Raises what `open` does, ValueError for a file that is damaged or of another kind, and TypeError for
    elements of other types than bool, int32, int64, float32 and float64 in this machine's byte order.
    """
    path = os.path.realpath(os.fspath(path))
    with open(path, "rb") as file:
        header = _read_header(file, path)
    cuts = None if sharding is None else hint(sharding_of(header.shape, sharding), header.dtype)
    session.current_op.name = "from_npy"
    value = session.emit(
        "read_npy",
        shape=header.shape,
        path=path,
        offset=header.offset,
        dtype=NAMES[header.dtype],
        fortran=header.fortran,
        cuts=cuts,
    )
    return finished(value, requires_grad)


def _read_header(file: BinaryIO, path: str) -> Header:
    start = file.read(len(npy.MAGIC_PREFIX))
    if start != npy.MAGIC_PREFIX:
        kind = (
            "an archive of arrays (.npz): take them out with np.load"
            if start[:2] == b"PK"
            else "no .npy file"
        )
        raise ValueError(f"{path!r} is {kind}")
    file.seek(0)
    try:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"format version {version[0]}.{version[1]} is not supported")
        shape, fortran, dtype = HEADERS[version](file)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{path!r} has a damaged header: {error}") from None
    if dtype not in OF_NUMPY:
        raise TypeError(
            f"{path!r} holds elements of type {_described(dtype)}. The supported types are bool, int32, int64, float32 "
            "and float64 in this machine's byte order: convert it with np.load(path).astype(...)"
        )
    header = Header(tuple(shape), OF_NUMPY[dtype].numpy, fortran, file.tell())
    wanted, there = header.offset + math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size
    if there < wanted:
        raise ValueError(f"{path!r} is cut short: it has {there:,} bytes, and its header promises {wanted:,}")
    return header


def _described(dtype: np.dtype) -> str:
    if dtype.hasobject:
        return f"{dtype} (Python objects, pickled)"
    return str(dtype) if dtype.isnative else f"{dtype.str} (of another byte order)"


def save(self: Tensor, path: Path) -> None:
    """Write the elements to a `.npy` file, which `from_npy` and `np.load` read back bit for bit.

    The driver writes the header, the workers their own parts. All goes to another name beside `path` and is renamed at
    the end, so a save that fails leaves what was there before; and a tensor may be saved to the file that it, or
    another, is read from. On a cluster `path` must be on a file system that all nodes share.
    """
    path = os.path.realpath(os.fspath(path))
    value = self._value
    temporary = f"{path}.{secrets.token_hex(4)}.part"
    try:
        offset = _make_file(temporary, value.shape, value.dtype)
        session.current_op.name = "save"
        written = session.emit("write_npy", value, path=temporary, offset=offset, shape=value.shape)
        count, wanted = int(session.fetch(written)), value.result.aval.nbytes
        if count != wanted:
            raise OSError(f"{path!r} was not saved: {count:,} bytes were written, not {wanted:,}")
        session.settle()  # tensors that are still to be read from `path` are read now
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make_file(path: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """A file with a header and room for the elements; where these begin. Raises OSError if the disk is too full."""
    with open(path, "xb") as file:
        npy.write_array_header_1_0(
            file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        offset = file.tell()
        size = math.prod(shape) * dtype.itemsize
        file.truncate(offset + size)
        file.flush()
        if size and hasattr(os, "posix_fallocate"):  # a mapped write to a full disk would kill the worker
            try:
                os.posix_fallocate(file.fileno(), offset, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot tell
                    raise
    return offset


attach(save=save)
