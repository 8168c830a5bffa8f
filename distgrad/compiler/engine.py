"""Machine code from LLVM's intermediate code, for the processor at hand."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import count
from typing import Any

import llvmlite.binding as llvm

Function = Any  # a ctypes function of one address


def _features() -> str:
    """What this processor can do; where LLVM cannot tell, what all of its kind can."""
    try:
        features: str = llvm.get_host_cpu_features().flatten()
    except RuntimeError:
        return ""
    return features


@cache
def _machine(cpu: str | None = None, features: str | None = None) -> Any:
    """LLVM's description of a processor: the one at hand, or another kind of the same family."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name() if cpu is None else cpu,
        features=_features() if features is None else features,
        opt=2,
        jit=True,
    )


@cache
def _jit() -> Any:
    return llvm.create_lljit_compiler(_machine())


_numbers = count()
FORMAT = "1"  # of what `emit` writes: another one makes other bits


@cache
def identity() -> tuple[str, ...]:
    """What an object file depends on beside its text."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return (
        FORMAT,
        version,
        llvm.get_default_triple(),
        llvm.get_host_cpu_name(),
        _features(),
    )


def translate(text: str, cpu: str | None = None, features: str | None = None) -> bytes:
    """An object file of what `text` defines."""
    module = llvm.parse_assembly(text)
    module.verify()
    made: bytes = _machine(cpu, features).emit_object(module)
    return made


def load(code: bytes, name: str) -> Function:
    """The function `name` of an object file; its code is there as long as somebody holds it."""
    library = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(name)
    tracker = library.link(_jit(), f"loop{next(_numbers)}")
    made: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(tracker[name])
    made.library = tracker
    return made
