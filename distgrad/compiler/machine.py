"""Machine code for nests: what was compiled is kept in memory, and in a folder of the user's for the next process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distgrad.caching import Cache
from distgrad.compiler.emit import Code
from distgrad.compiler.emit_short import ShortCode
from distgrad.compiler.emit_stencil import StencilCode
from distgrad.compiler.nest import Nest, Way
from distgrad.compiler.stencil import Stencil
from distgrad.compiler.writer import NAME

KEPT = 64 << 20  # bytes, about, of functions with what LLVM holds for them
FILES = 64 << 20  # bytes of files, of which the oldest go
DIGEST = hashlib.sha256().digest_size

_functions: Cache[str, Any] = Cache(KEPT, lambda text, _: 20_000 + 2 * len(text))


@functools.cache
def engine() -> Any:
    """The module that needs LLVM: imported by the first nest, since that takes 0.2 s and not everybody has it."""
    return importlib.import_module("distgrad.compiler.engine")


def machine_code(nest: Nest | Stencil, way: Way) -> Any:
    """A function of the address of the arguments (see `emit`, `emit_short` and `emit_stencil`)."""
    known = nest.codes.get(way)
    if known is None:
        known = nest.codes[way] = function(text_of(nest, way))
    return known


def text_of(nest: Nest | Stencil, way: Way) -> str:
    """The text of that function."""
    if isinstance(nest, Stencil):
        return StencilCode(nest, way.lanes, way.ragged).text()
    return (ShortCode(nest, way) if way.short else Code(nest, way.lanes, way.ragged)).text()


def function(text: str) -> Any:
    """The function that a text defines, of the address of its arguments."""
    known = _functions.get(text) or _functions.again(text)
    return known or _functions.keep(text, engine().load(_object(text), NAME))


def _object(text: str) -> bytes:
    """The object file for `text`: from the folder, or compiled now. A file that is damaged is written anew."""
    key = hashlib.sha256("\n".join([*engine().identity(), text]).encode()).hexdigest()
    place = folder()
    path = None if place is None else place / key
    if path is not None:
        with contextlib.suppress(OSError):
            kept = path.read_bytes()
            if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]:
                return kept[DIGEST:]
    made: bytes = engine().translate(text)
    if path is not None:
        with contextlib.suppress(OSError):  # a full disk, or another owner: it is compiled again next time
            _write(path, hashlib.sha256(made).digest() + made)
    return made


def folder() -> Path | None:
    """Where object files are kept: DISTGRAD_CACHE, or a folder in the user's cache. None: nobody else may write there.

    Code that others could have written is not run.
    """
    named = os.environ.get("DISTGRAD_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    path = Path(named) if named else home / "distgrad"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.stat()
    except (OSError, RuntimeError):  # no home
        return None
    alone = not hasattr(os, "getuid") or (
        state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    return path if alone else None


def _write(path: Path, content: bytes) -> None:
    """Visible under its name only once it is whole, however many processes write it."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _make_room(path.parent)


_written = 0


def _make_room(place: Path) -> None:
    """From time to time remove the oldest files, until those that are left take half of `FILES`."""
    global _written
    _written += 1
    if _written % 256 != 1:
        return
    files = sorted(_files(place))
    left = sum(size for _, size, _ in files)
    if left > FILES:
        for _, size, path in files:
            path.unlink(missing_ok=True)
            left -= size
            if left <= FILES // 2:
                return


def _files(place: Path) -> Iterator[tuple[float, int, Path]]:
    for path in place.iterdir():
        with contextlib.suppress(OSError):  # another process has removed it
            state = path.stat()
            yield state.st_mtime, state.st_size, path
