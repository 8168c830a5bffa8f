"""Tensors in `.npy` files: `from_npy` and `Tensor.save`. Of a large file the driver handles only the header."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from distgrad import session
from distgrad.cutting import sharding_of
from distgrad.dtype import NAMES, OF_NUMPY
from distgrad.errors import DistgradError
from distgrad.graph import Value
from distgrad.ops.base import Tensor, attach
from distgrad.ops.helpers import hint
from distgrad.ops.making import finished

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
    with session.called("from_npy"):
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
    another, is read from. On a cluster `path` must be on a file system that all nodes share. What is no regular file,
    a pipe or a device, is written by the driver, which fetches the elements for that.
    """
    value = self._value
    write_file(path, _header(value.shape, value.dtype), [value])


def write_file(path: Path, header: bytes, values: Sequence[Value]) -> None:
    """Write a header and, one behind the other, the elements of values; as `Tensor.save` says it."""
    given = os.fsdecode(path)
    try:
        if _is_replaced(given):
            _replace(os.path.realpath(given), header, values)
        else:
            with open(given, "wb") as file:
                write_stream(file, header, values)
    except (OSError, DistgradError) as error:
        raise _about(given, error) from None


def write_stream(file: BinaryIO, header: bytes, values: Sequence[Value]) -> None:
    """The same into something that is open. The driver fetches the elements for that, of one value after the other."""
    file.write(header)
    for value in values:
        array = np.ascontiguousarray(session.fetch(value))
        file.write(array.reshape(-1).view(np.uint8).data)


def _is_replaced(path: str) -> bool:
    """Whether the name is given to a new file; what is there and no regular file is written to, and stays."""
    if os.path.abspath(path).startswith(("/proc/", "/dev/fd/", "/dev/std")):  # files that are open already
        return False
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not path:
            raise
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return stat.S_ISREG(mode)


def _replace(path: str, header: bytes, values: Sequence[Value]) -> None:
    """Have the workers write a file, and give it the name `path`."""
    _remove_leftovers(path)
    temporary = f"{path}.{secrets.token_hex(4)}.part"
    wanted = sum(value.result.aval.nbytes for value in values)
    with _part(temporary, header, wanted), session.called("save"):
        offset, written = len(header), Value.known(np.zeros((), np.int64))
        for value in values:
            count = session.emit("write_npy", value, path=temporary, offset=offset, shape=value.shape)
            written = session.emit("add", written, count)
            offset += value.result.aval.nbytes
        found = int(session.fetch(written))
        if found != wanted:
            raise OSError(f"{found:,} bytes were written, not {wanted:,}")
        session.settle()  # tensors that are still to be read from `path` are read now
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)


def _about(path: str, error: OSError | DistgradError) -> Exception:
    """An error that names the path which the user gave, and keeps its type."""
    if isinstance(error, DistgradError):
        text = re.sub(r"[^'\"]*\.[0-9a-f]{8}\.part", path, str(error))
        return type(error)(f"{path!r} was not saved: {text}")
    if error.errno is None:
        return OSError(f"{path!r} was not saved: {error}")
    return type(error)(error.errno, error.strerror, path)


@contextlib.contextmanager
def _part(path: str, header: bytes, size: int) -> Iterator[None]:
    """A file with a header and room for `size` bytes behind it. Raises OSError if the disk is too full.

    It is locked while it is written, so another save can tell that, and removed unless it has another name by then.
    """
    with open(path, "xb") as file:
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(header)
            offset = file.tell()
            file.truncate(offset + size)
            file.flush()
            if size and hasattr(os, "posix_fallocate"):  # a mapped write to a full disk would kill the worker
                try:
                    os.posix_fallocate(file.fileno(), offset, size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot tell
                        raise
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    entries = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, entries)
    return file.getvalue()


def _remove_leftovers(path: str) -> None:
    """Remove what saves to `path` have left that were killed; the files of those that run are locked."""
    for left in glob.glob(f"{glob.escape(path)}.{'[0-9a-f]' * 8}.part"):
        with contextlib.suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(left)


attach(save=save)
