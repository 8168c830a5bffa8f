"""`save` and `load`: what goes round, what other libraries read, and that no file can do harm."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
from collections import Counter, OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as safe

import distgrad
from distgrad import nn


def same(a: Any, b: Any) -> bool:
    if isinstance(a, distgrad.Tensor):
        return type(a) is type(b) and a.requires_grad == b.requires_grad and bool(distgrad.equal(a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def structure(torch: ModuleType) -> Any:
    return {
        "epoch": 3,
        "lr": float("inf"),
        "done": True,
        "none": None,
        "text": "µ\n",
        "bytes": b"\x00\xff",
        "dtype": torch.float64,
        "size": torch.Size([2, 3]),
        "state": {0: {"step": torch.tensor(4.0), "avg": torch.arange(6).reshape(2, 3)}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "params": [0, 1]}],
        "odd": {(1, "a"): {2}, 2.5: Counter({3: 1}), None: OrderedDict(b=1, a=2)},
        "flags": torch.tensor([True, False]),
        "halves": torch.tensor([0.5, float("nan")], dtype=torch.float64)[:1],
        "w": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "leaf": torch.ones(1, requires_grad=True),
        "empty": torch.zeros(0, 4),
        "view": torch.arange(6).reshape(2, 3).t()[1:],
    }


def test_structures_go_round(torch: ModuleType, tmp_path: Path) -> None:
    saved = structure(torch)
    torch.save(saved, tmp_path / "a.pt")
    assert same(torch.load(tmp_path / "a.pt"), saved)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    file = io.BytesIO()
    torch.save(saved, file)
    assert file.getvalue() == (tmp_path / "a.pt").read_bytes()
    assert same(torch.load(io.BytesIO(file.getvalue()), weights_only=True), saved)
    for one in (torch.ones(2), [torch.ones(1)], 3, {}):
        torch.save(one, tmp_path / "b")
        assert same(torch.load(tmp_path / "b", map_location="cpu"), one)


def test_a_state_dict_is_a_plain_file_of_tensors(torch: ModuleType, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torch.save(net.state_dict(), tmp_path / "net.safetensors")
    found = safe.load_file(tmp_path / "net.safetensors")
    assert sorted(found) == sorted(net.state_dict())
    for key, tensor in net.state_dict().items():
        np.testing.assert_array_equal(found[key], tensor.numpy())
    twin = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = torch.load(tmp_path / "net.safetensors")
    assert state._metadata == net.state_dict()._metadata
    twin.load_state_dict(state)
    x = torch.randn(5, 3)
    assert torch.equal(twin(x), net(x))


def test_an_optimizer_goes_on_where_it_was(torch: ModuleType, tmp_path: Path) -> None:
    def begin() -> Any:
        w = nn.Parameter(torch.ones(3))
        return w, torch.optim.Adam([w], lr=0.1)

    def step(w: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        (w**2).sum().backward()
        optimizer.step()

    w, optimizer = begin()
    step(w, optimizer)
    torch.save({"w": w, "optimizer": optimizer.state_dict()}, tmp_path / "a")
    other, again = begin()
    saved = torch.load(tmp_path / "a")
    again.load_state_dict(saved["optimizer"])
    other.data = saved["w"].data
    for pair in ((w, optimizer), (other, again)):
        step(*pair)
    assert torch.equal(w, other)
    assert "optimizer.state.0.exp_avg" in safe.load_file(tmp_path / "a")


def test_nested_tensors_stand_under_their_paths(torch: ModuleType, tmp_path: Path) -> None:
    saved = {"optimizer": {"state": {0: {"avg": torch.ones(2)}}}, "optimizer.state.0.avg": torch.zeros(1)}
    torch.save(saved, tmp_path / "a")
    assert sorted(safe.load_file(tmp_path / "a")) == ["optimizer.state.0.avg", "optimizer.state.0.avg~1"]
    assert same(torch.load(tmp_path / "a"), saved)
    torch.save({"__metadata__": torch.ones(1)}, tmp_path / "b")
    assert torch.load(tmp_path / "b")["__metadata__"].tolist() == [1]


def test_files_of_other_libraries(torch: ModuleType, tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([True, False])}
    safe.save_file(arrays, tmp_path / "x", metadata={"format": "np"})
    found = torch.load(tmp_path / "x")
    assert sorted(found) == ["a", "b"]
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key].numpy(), array)
    safe.save_file({"h": np.ones(2, np.float16)}, tmp_path / "half")
    with pytest.raises(TypeError, match=r"elements of type F16 \('h'\)"):
        torch.load(tmp_path / "half")


def test_large_tensors_are_written_and_read_by_the_workers(start: Any, tmp_path: Path) -> None:
    transport = start(workers=3, shard_bytes=1 << 10)
    saved = {"w": distgrad.randn(64, 64), "n": distgrad.arange(1000)}
    distgrad.save(saved, tmp_path / "a")
    transport.calls.clear()
    found = distgrad.load(tmp_path / "a", mmap=True)
    assert transport.calls == []
    assert found["w"].sharding.count > 1
    assert same(found, saved)
    at_once = distgrad.load(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert same(at_once, saved)


def test_a_file_may_be_saved_over_what_was_loaded_from_it(start: Any, tmp_path: Path) -> None:
    start(workers=2, shard_bytes=1 << 8)
    distgrad.save({"x": distgrad.arange(1000)}, tmp_path / "a")
    state = distgrad.load(tmp_path / "a", mmap=True)
    distgrad.save({"x": state["x"] + 1}, tmp_path / "a")
    assert distgrad.load(tmp_path / "a")["x"].tolist() == list(range(1, 1001))
    assert state["x"].tolist() == list(range(1000))


class Trap:
    """A pickle of it runs a function."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "ran", True)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (nn.Linear(1, 1), "cannot save Linear without pickling: save the module's state_dict"),
        ({"a": {"b": Trap()}}, "cannot save Trap at 'a.b' without pickling"),
        ([np.ones(2)], "cannot save ndarray at '0' without pickling: make it a tensor"),
        (lambda: 0, "cannot save function without pickling"),
    ],
)
def test_what_is_not_saved(item: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=text):
        distgrad.save(item, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_other_refusals(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="levels deep, or holds itself"):
        distgrad.save(circle, tmp_path / "a")
    with pytest.raises(RuntimeError, match=r"Parent directory .* does not exist."):
        distgrad.save({}, tmp_path / "none" / "a")
    with pytest.raises(AttributeError, match="'write' attribute"):
        distgrad.save({}, 3)
    with pytest.raises(FileNotFoundError):
        distgrad.load(tmp_path / "none")
    with pytest.raises(NotImplementedError, match="pickle_module"):
        distgrad.load(tmp_path / "none", pickle_module=pickle)
    with pytest.raises(NotImplementedError, match="map_location"):
        distgrad.load(tmp_path / "none", map_location=lambda storage, place: storage)


def test_pickles_are_never_run(tmp_path: Path) -> None:
    for start in (b"", b"PK\x03\x04"):
        (tmp_path / "a").write_bytes(start + pickle.dumps({"a": Trap()}))
        with pytest.raises(ValueError, match="is a pickle"):
            distgrad.load(tmp_path / "a", weights_only=False)
    assert not Trap.ran


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(tag: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> Any:
    return {"dtype": tag, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "no object": [],
    "not text": b"\xff\xfe",
    "too deep": b"[" * 100_000,
    "twice": b'{"a":1,"a":1}',
    "no entry": {"a": 3},
    "a wrong shape": {"a": entry(shape=(2,))},
    "a negative size": {"a": entry(shape=(-1, -1))},
    "bools for sizes": {"a": entry(shape=(True,))},
    "a huge size": {"a": entry(shape=(2**70,))},
    "offsets turned round": {"a": entry(offsets=(4, 0))},
    "beyond the end": {"a": entry(offsets=(4, 8))},
    "overlapping": {"a": entry(), "b": entry()},
    "more data": {},
    "a tag that is none": {"a": entry(tag=[1])},
    "numbers in the metadata": {"__metadata__": {"a": 1}, "a": entry()},
    "many dimensions": {"a": entry(shape=(1,) * 100)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_headers(case: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a", HOSTILE[case], bytes(4))
    with pytest.raises(ValueError, match="damaged header"):
        distgrad.load(path)
    with pytest.raises(ValueError, match="damaged header"):
        distgrad.load(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "{}",
        '{"tensor":"b"}',
        '{"exec":"1"}',
        '{"dict":[[{"dict":[]},1]]}',
        '{"dict":3}',
        '{"set":[[]]}',
        '{"bytes":"?"}',
        '{"device":"nowhere"}',
        '{"tensor":["a"]}',
        "[" * 50_000,
    ],
)
def test_damaged_structures(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a", {"__metadata__": {"distgrad": text}, "a": entry()}, bytes(4))
    with pytest.raises(ValueError, match="damaged structure"):
        distgrad.load(path)


def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    distgrad.save({"a": distgrad.ones(3), "b": [1.5, None]}, tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"cut short|damaged header"):
            distgrad.load(tmp_path / "b")


def test_changed_bytes_give_tensors_or_a_clear_error(tmp_path: Path) -> None:
    distgrad.save({"a": distgrad.ones(3), "b": (1.5, {"c": None})}, tmp_path / "a")
    whole, random = (tmp_path / "a").read_bytes(), np.random.default_rng(0)
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= random.integers(1, 256)
        with contextlib.suppress(ValueError, TypeError):
            refused -= 1
            distgrad.load(io.BytesIO(bytes(changed)))
            refused += 1
    assert -len(whole) < refused < 0
