"""from_npy and save: what comes back, what is refused, and that a save that fails leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from distgrad.errors import WorkerError
from distgrad.ops import files

DTYPES = ("bool", "int32", "int64", "float32", "float64")
SHAPES = ((), (1,), (7,), (0,), (5, 3), (0, 4), (4, 0), (3, 2, 5), (1, 9, 1))


def made(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Numbers with nan, infinities and both zeros among them, where there is room."""
    array = np.random.default_rng(len(shape)).normal(0, 9, shape)
    special = [np.nan, np.inf, -np.inf, -0.0] if dtype.startswith("float") else []
    array.reshape(-1)[: len(special)] = special[: array.size]
    return np.asarray(array, dtype)


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(torch: ModuleType, tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    path, again, array = tmp_path / "x.npy", tmp_path / "y", made(shape, dtype)
    np.save(path, array)
    x = torch.from_npy(path)
    assert (x.dtype, tuple(x.shape), x.requires_grad) == (getattr(torch, dtype), shape, False)
    assert_same_bits(x.numpy(), array)
    assert x.save(again) is None
    assert again.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y"]


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)], ids=str)
def test_fortran_order(torch: ModuleType, tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, array = tmp_path / "x.npy", made(shape)
    np.save(path, np.asfortranarray(array))
    x = torch.from_npy(path, sharding={0: 3, 1: [1, 1]})
    assert_same_bits(x.numpy(), array)
    x.save(path)
    assert_same_bits(np.load(path), array)


@pytest.mark.parametrize("cuts", [3, [0, 1, 1, 7], {1: 2}, {0: 2, 1: [4]}], ids=str)
def test_any_cuts(torch: ModuleType, tmp_path: Path, cuts: Any) -> None:
    path, again, array = tmp_path / "x.npy", tmp_path / "y.npy", made((7, 5), "float64")
    np.save(path, array)
    x = torch.from_npy(path, sharding=cuts)
    assert_same_bits(x.numpy(), array)
    x.save(again)
    assert_same_bits(np.load(again), array)


def test_views_and_results_are_saved(torch: ModuleType, tmp_path: Path) -> None:
    array = made((6, 5), "float64")
    x = torch.tensor(array, requires_grad=True)
    for name, y, want in [
        ("t", x.t(), array.T),
        ("row", x[2:5, ::2], array[2:5, ::2]),
        ("sum", x + x, array + array),
    ]:
        y.save(tmp_path / name)
        assert_same_bits(np.load(tmp_path / name), np.ascontiguousarray(want))


def test_a_tensor_from_a_file_is_a_leaf_like_others(torch: ModuleType, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))
    x = torch.from_npy(tmp_path / "x.npy", requires_grad=True)
    (x * x).sum().backward()
    assert x.is_leaf
    assert x.grad.tolist() == (2 * np.arange(12.0).reshape(4, 3)).tolist()
    np.save(tmp_path / "i.npy", np.arange(3))
    with pytest.raises(
        RuntimeError, match="Only Tensors of floating point and complex dtype can require gradients"
    ):
        torch.from_npy(tmp_path / "i.npy", requires_grad=True)


def test_saving_over_a_file_that_is_still_to_be_read(torch: ModuleType, tmp_path: Path) -> None:
    path, array = tmp_path / "x.npy", made((40, 5), "float64")
    np.save(path, array)
    mapped = np.load(path, mmap_mode="r")
    x, other = torch.from_npy(path), torch.from_npy(path, sharding=7)
    (x * 2).save(path)
    assert_same_bits(np.load(path), array * 2)
    assert_same_bits(x.numpy(), array)
    assert_same_bits(other.numpy(), array)
    assert_same_bits(np.array(mapped), array)
    x.save(path)
    assert_same_bits(np.load(path), array)


def test_a_link_stays_a_link_and_a_mode_stays(torch: ModuleType, tmp_path: Path) -> None:
    real, link = tmp_path / "real.npy", tmp_path / "link.npy"
    np.save(real, made((2,)))
    real.chmod(0o640)
    link.symlink_to(real)
    torch.ones(3).save(link)
    assert link.is_symlink()
    assert torch.from_npy(link).tolist() == np.load(real).tolist() == [1, 1, 1]
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_path_follows_the_directory_at_the_call(
    torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.ones(30, 3).save("x.npy")
    x = torch.from_npy("x.npy")
    monkeypatch.chdir("/")
    assert float(x.sum()) == 90


def test_what_is_refused(torch: ModuleType, tmp_path: Path) -> None:
    def refused(error: type[Exception], text: str, content: bytes | np.ndarray) -> None:
        path = tmp_path / "bad.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)
        with pytest.raises(error, match=text):
            torch.from_npy(path)

    np.save(tmp_path / "good.npy", made((5, 3)))
    np.savez(tmp_path / "many.npz", made((2,)))
    good = (tmp_path / "good.npy").read_bytes()
    refused(ValueError, "bad.npy' is no .npy file", b"")
    refused(ValueError, "is no .npy file", b"1,2,3\n" * 9)
    refused(ValueError, r"is an archive of arrays \(.npz\)", (tmp_path / "many.npz").read_bytes())
    refused(ValueError, "is cut short: it has 187 bytes, and its header promises 188", good[:-1])
    refused(ValueError, "has a damaged header", good[:40])
    refused(ValueError, "has a damaged header", good[:7])
    refused(ValueError, "has a damaged header", good.replace(b"'descr'", b"'decsr'"))
    refused(ValueError, "has a damaged header.*version 9.0 is not supported", b"\x93NUMPY\x09\x00" + good[8:])
    refused(TypeError, r"elements of type object \(Python objects, pickled\)", np.array([1, "a"], object))
    refused(TypeError, "elements of type float16", np.zeros(3, np.float16))
    refused(TypeError, "elements of type complex128", np.zeros(3, complex))
    refused(TypeError, r"elements of type >f8 \(of another byte order\)", np.zeros(3, ">f8"))
    refused(TypeError, "supported types are bool, int32, int64, float32 and float64", np.zeros(3, "i4,f4"))
    with pytest.raises(FileNotFoundError):
        torch.from_npy(tmp_path / "none.npy")
    with pytest.raises(IsADirectoryError):
        torch.from_npy(tmp_path)
    with pytest.raises(TypeError):
        torch.from_npy(3)


def test_a_header_of_version_two(torch: ModuleType, tmp_path: Path) -> None:
    array = made((4, 3))
    with open(tmp_path / "x.npy", "wb") as file:
        npy.write_array(file, array, (2, 0))
    assert_same_bits(torch.from_npy(tmp_path / "x.npy").numpy(), array)


def test_a_save_that_cannot_start(torch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        torch.ones(3).save(tmp_path / "none" / "x.npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        torch.ones(3).save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_save_that_fails_leaves_what_was_there(torch: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, made((50, 4)))
    np.save(target, made((3,)))
    before = target.read_bytes()
    x = torch.from_npy(source)
    source.unlink()
    if x._value.array is not None:
        return  # it was read at once, in the driver
    with pytest.raises(WorkerError, match=r"from_npy.*test_files.py"):
        x.save(target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["y.npy"]
    torch.ones(3).save(target)  # the session goes on
    assert np.load(target).tolist() == [1, 1, 1]


def test_missing_bytes_are_noticed(
    torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = files.session.fetch
    monkeypatch.setattr(files.session, "fetch", lambda value: fetch(value) - 4)
    with pytest.raises(OSError, match=r"x.npy' was not saved: 8 bytes were written, not 12"):
        torch.ones(3).save(tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []
