"""What the user is told of the workers: where they come from, and whether they compute alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import distgrad as torch
from distgrad.cluster import actor, connect
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.machine import processor
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    torch.shutdown()
    yield
    torch.shutdown()


def mixed(kinds: list[str]) -> type[InProcess]:
    """Workers whose machines say that they are of these kinds."""

    class Mixed(InProcess):
        def __init__(self, workers: int, make: Any):
            super().__init__(workers, make)
            self.processors = kinds

    return Mixed


def test_processors_of_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    session = torch.init("inproc", workers=2)
    assert repr(session) == f"<distgrad.Session: 2 workers, {processor()}>"
    assert capsys.readouterr().err == ""
    torch.shutdown()
    assert repr(session) == "<distgrad.Session: closed>"


def test_processors_of_several_kinds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "InProcess", mixed(["A", processor(), "A"]))
    session = torch.init("inproc", workers=3)
    text = f"A (workers 0, 2); {processor()} (worker 1, driver)"
    assert capsys.readouterr().err == f"distgrad: processors of 2 kinds give other last bits: {text}\n"
    assert repr(session) == f"<distgrad.Session: 3 workers, {text}>"


def test_a_driver_of_another_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "InProcess", mixed(["A", "A"]))
    torch.init("inproc", workers=2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"A (workers 0, 1); {processor()} (driver)" in told


def test_ray_workers_tell_their_processor(ray_workers: Transport) -> None:
    assert ray_workers.processors == [processor()] * 2
    assert ray_workers.origin == "started a local Ray"


@pytest.mark.parametrize(
    "origin", ["started a local Ray", "joined the Ray cluster at 10.0.0.1:6379", "uses this program's Ray"]
)
def test_what_was_done_to_have_workers(
    origin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin() -> Any:
        transport = InProcess(2, Worker)
        transport.origin = origin
        return door.attach(transport)

    monkeypatch.setattr(door, "init", begin)
    assert (torch.ones(1 << 21) * 2).sum().item() == 1 << 22
    assert capsys.readouterr().err == f"distgrad: {origin} with 2 workers (see distgrad.init)\n"


def test_a_cluster_that_was_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job: the address comes from RAY_ADDRESS."""
    joined: list[Any] = []
    ours = type("Ours", (connect._Ours,), {"users": 0, "local": None})
    monkeypatch.setattr(connect, "_Ours", ours)
    monkeypatch.setattr(connect, "join", joined.append)
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connect.ray, "shutdown", lambda: None)
    context = type("Context", (), {"gcs_address": "192.0.2.7:6379"})
    monkeypatch.setattr(connect.ray, "get_runtime_context", context)
    monkeypatch.setenv("RAY_ADDRESS", "head.example.org:6379")
    entered = connect.enter(None, 1, None)
    assert joined == [("head.example.org", 6379)]
    assert entered.origin == "joined the Ray cluster at 192.0.2.7:6379"


def test_stderr_that_is_closed_or_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with open(tmp_path / "closed", "w") as closed:
        pass
    for stream in (None, closed):
        monkeypatch.setattr("sys.stderr", stream)
        door._tell("nobody hears this")


def test_a_folder_in_the_place_of_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """What a worker answers where `distgrad` is a folder that lies about, taken for a namespace package."""
    namespace = type("Namespace", (), {"__path__": [str(tmp_path)]})
    monkeypatch.setitem(actor.sys.modules, "distgrad", namespace)

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(actor.importlib, "import_module", absent)
    answer = actor.DistgradWorker().begin(0, "distgrad.worker.worker:Worker", {})
    assert answer["missing"]
    assert re.search(f"it finds the folder {re.escape(str(tmp_path))} instead", answer["error"])
