"""`save` and `load` of state dicts and other structures of tensors, in the safetensors format.

Nothing is pickled, so nothing that is loaded can run code. The tensors stand in the file under the path that leads to
them ("model.0.weight"), those of a plain dict under its keys: any library that knows the format reads them. How the
structure looks around them is told as JSON in the file's metadata.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from distgrad import session
from distgrad.dtype import NAMES, Size, check_device, dtype_of
from distgrad.dtype import device as Device
from distgrad.dtype import dtype as Dtype
from distgrad.graph import Value
from distgrad.nn.module import Module
from distgrad.nn.parameter import Parameter
from distgrad.ops.files import write_file, write_stream
from distgrad.ops.safetensors import METADATA, Entry, header, read_header
from distgrad.tensor import Tensor

__all__ = ["load", "save"]

STRUCTURE = "distgrad"  # the text in the metadata
DEEPEST = 200


# Structures as JSON. What JSON has is itself; all else is an object with one entry, the name of its kind.
class _Encoder:
    """Turns a structure into JSON and gathers its tensors by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Value] = {}

    def encode(self, item: Any, path: str = "", depth: int = 0) -> Any:
        """The JSON for `item`, which is found by `path`."""
        if depth > DEEPEST:
            raise ValueError(f"save(): what is saved is more than {DEEPEST} levels deep, or holds itself")
        kind = type(item)
        if item is None or kind in (bool, int, str):
            return item
        if kind is float:
            return item if math.isfinite(item) else {"float": str(item)}
        if isinstance(item, Tensor):
            return self._tensor(item, path)
        if kind is bytes:
            return {"bytes": base64.b64encode(item).decode()}
        if kind is Dtype:
            return {"dtype": NAMES[item.numpy]}
        if kind is Device:
            return {"device": str(item)}
        if kind is Size:
            return {"size": list(item)}
        inner: Callable[[Any, Any], Any] = lambda x, key: self.encode(  # noqa: E731
            x, f"{path}.{key}" if path else str(key), depth + 1
        )
        if kind is list:
            return [inner(x, i) for i, x in enumerate(item)]
        if kind in (tuple, set, frozenset):
            return {kind.__name__: [inner(x, i) for i, x in enumerate(item)]}
        if kind in (dict, OrderedDict, Counter, defaultdict):
            name = "dict" if kind is defaultdict else kind.__name__
            pairs = [[self._key(key), inner(x, key)] for key, x in item.items()]
            metadata = getattr(item, "_metadata", None)  # of a module's state dict
            if metadata is not None:
                return {name: pairs, "metadata": self.encode(metadata, path, depth + 1)}
            return {name: pairs}
        raise TypeError(_unsupported(item, path))

    def _key(self, key: Any) -> Any:
        if isinstance(key, Tensor):
            raise TypeError("save(): a tensor is the key of a dict")
        return self.encode(key)

    def _tensor(self, item: Tensor, path: str) -> Any:
        name, number = path or "tensor", 1
        while name in self.tensors or name == METADATA:
            name, number = f"{path}~{number}", number + 1
        self.tensors[name] = item.detach()._value
        described: dict[str, Any] = {"tensor": name}
        if isinstance(item, Parameter):
            described["parameter"] = True
        if item.requires_grad:
            described["requires_grad"] = True
        return described


def _unsupported(item: Any, path: str) -> str:
    where = f" at {path!r}" if path else ""
    if isinstance(item, Module):
        more = "save the module's state_dict()"
    elif isinstance(item, (np.ndarray, np.generic)):
        more = "make it a tensor or a number of Python's"
    else:
        more = (
            "it takes tensors, numbers, texts, bytes, None, dtypes, and lists, tuples, sets and dicts of them"
        )
    return f"save(): cannot save {type(item).__name__}{where} without pickling: {more}"


CONTAINERS: dict[str, Callable[[Iterable[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": Size,
}
MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
}
ATOMS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "dtype": dtype_of,
    "device": Device,
}


def _decode(item: Any, tensors: dict[str, Tensor]) -> Any:
    """The structure for its JSON. Raises an error of any kind where that is none."""
    if item is None or type(item) in (bool, int, float, str):
        return item
    if type(item) is list:
        return [_decode(x, tensors) for x in item]
    kind, inside = next(iter(item.items()))
    if kind == "tensor":
        return _typed(tensors[inside], item)
    if kind in ATOMS and type(inside) is str:
        return ATOMS[kind](inside)
    if kind in CONTAINERS:
        return CONTAINERS[kind](_decode(x, tensors) for x in inside)
    pairs = [(_decode(key, tensors), _decode(x, tensors)) for key, x in inside]
    made = MAPPINGS[kind](pairs)
    if kind == "OrderedDict" and "metadata" in item:
        made._metadata = _decode(item["metadata"], tensors)
    return made


def _typed(tensor: Tensor, described: dict[str, Any]) -> Tensor:
    wanted = described.get("requires_grad") is True
    if described.get("parameter") is True:
        return Parameter(tensor, wanted)
    return tensor.requires_grad_() if wanted else tensor


# What users call.
def save(obj: Any, f: Any, pickle_module: Any = None, pickle_protocol: Any = None, **options: Any) -> None:
    """Write a structure of tensors to a path, or to a file that is open for writing bytes.

    `obj` is a tensor, or lists, tuples, sets and dicts of tensors, numbers, texts, bytes, None and dtypes: a state
    dict of a module, of an optimizer, or several under names. The workers write their own parts; a save that fails
    leaves what was there before (see `Tensor.save`). To an open file the driver writes, which fetches one tensor after
    the other. Raises TypeError for what would have to be pickled, modules among it.
    """
    if pickle_module is not None or pickle_protocol is not None:
        raise NotImplementedError(
            "save(): nothing is pickled, so there is no pickle_module and no pickle_protocol"
        )
    options.pop("_use_new_zipfile_serialization", None)
    options.pop("_disable_byteorder_record", None)
    if options:
        raise TypeError(f"save() got an unexpected keyword argument '{next(iter(options))}'")
    encoder = _Encoder()
    structure = json.dumps(encoder.encode(obj), separators=(",", ":"), allow_nan=False)
    start, order = header(encoder.tensors, {STRUCTURE: structure})
    values = [encoder.tensors[name] for name in order]
    if isinstance(f, (str, os.PathLike)):
        parent = os.path.dirname(os.path.abspath(os.fspath(f)))
        if not os.path.isdir(parent):
            raise RuntimeError(f"Parent directory {os.path.dirname(os.fspath(f))} does not exist.")
        write_file(f, start, values)
    elif hasattr(f, "write"):
        write_stream(f, start, values)
    else:
        raise AttributeError(
            f"expected 'f' to be string, path, or a file-like object with a 'write' attribute, not {f!r}"
        )


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:
    """What `save` has written to a path or an open file; of any other safetensors file a dict of its tensors.

    Of a large file at a path the driver reads only the header, and the workers their own parts: at once, or, with
    `mmap`, when they are first needed, and until then the file must stay as it is. Nothing in a file can run code,
    whatever `weights_only` says. Raises what `open` does, ValueError for a file that is damaged or of another kind, a
    pickle of torch's among them, and TypeError for elements of types that there are not.
    """
    if pickle_module is not None:
        raise NotImplementedError("load(): nothing is unpickled, so there is no pickle_module")
    _check_location(map_location)
    if isinstance(f, (str, os.PathLike)):
        tensors, metadata = _from_path(os.path.realpath(os.fspath(f)), repr(os.fspath(f)))
        if not mmap:
            session.settle()
        name = repr(os.fspath(f))
    else:
        if not hasattr(f, "read"):
            raise AttributeError(f"'{type(f).__name__}' object has no attribute 'read'")
        if mmap:
            raise ValueError("f must be a file path in order to use the mmap argument")
        name = "the file"
        tensors, metadata = _from_stream(f, name)
    if STRUCTURE not in metadata:
        return tensors
    try:
        return _decode(json.loads(metadata[STRUCTURE]), tensors)
    except Exception as error:
        raise ValueError(f"{name} has a damaged structure: {type(error).__name__}: {error}") from None


def _check_location(where: Any) -> None:
    if callable(where):
        raise NotImplementedError(
            "load(): map_location is a device here, or a dict of devices, and no function"
        )
    for place in where.values() if isinstance(where, dict) else [where]:
        check_device(place)


def _from_path(path: str, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with open(path, "rb") as file:
        entries, metadata = read_header(file, os.fstat(file.fileno()).st_size, name)
    with session.called("load"):
        return {key: _reader(path, entry) for key, entry in entries.items()}, metadata


def _reader(path: str, entry: Entry) -> Tensor:
    value = session.emit(
        "read_npy",
        shape=entry.shape,
        path=path,
        offset=entry.offset,
        dtype=NAMES[entry.dtype],
        fortran=False,
        cuts=None,
    )
    return Tensor(value)


def _from_stream(file: BinaryIO, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = memoryview(file.read())
    entries, metadata = read_header(_Bytes(data), len(data), name)  # type: ignore[arg-type]
    tensors = {}
    for key, (dtype, shape, offset) in entries.items():
        array = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
        if dtype.kind == "b":
            array = array.view(np.uint8) != 0
        tensors[key] = Tensor(session.snapshot(np.array(array)))
    return tensors, metadata


class _Bytes:
    """The beginning of a buffer, read as a file."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def read(self, n: int) -> bytes:
        """The next `n` bytes."""
        self.at += n
        return bytes(self.data[self.at - n : self.at])
