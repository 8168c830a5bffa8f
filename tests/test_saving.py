"""What `save` may replace, what it leaves behind, and what it says when it fails."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import WorkerError
from distgrad.session import door
from distgrad.worker.transport import Transport

EXPECTED = np.arange(1000, dtype=np.float32) * 2


@pytest.fixture(params=["driver", "inproc"])
def x(request: pytest.FixtureRequest) -> Iterator[torch.Tensor]:
    torch.shutdown()
    torch.init("inproc", **({"inline_bytes": 0, "shard_bytes": 256} if request.param == "inproc" else {}))
    yield torch.arange(1000, dtype=torch.float32) * 2
    torch.shutdown()


def through(path: Path, x: torch.Tensor) -> np.ndarray:
    """What a reader of the pipe at `path` gets."""
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.append(path.read_bytes()))
    reader.start()
    x.save(path)
    reader.join(60)
    return np.load(io.BytesIO(told[0]))


def test_a_pipe_stays_and_is_written_to(x: torch.Tensor, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert np.array_equal(through(pipe, x), EXPECTED)
    (tmp_path / "link").symlink_to(pipe)
    assert np.array_equal(through(tmp_path / "link", x[::2] * 1), EXPECTED[::2])
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_device_stays(x: torch.Tensor, tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices cannot be made here")
    x.save(device)
    torch.ones(()).save(str(device))
    torch.ones(0, 3, dtype=torch.bool).save(device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_is_open_already(name: str) -> None:
    if not os.path.exists(name):
        pytest.skip(f"no {name} here")
    program = f"import distgrad as torch; (torch.arange(1000, dtype=torch.float32) * 2).save({name!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=True)
    assert np.array_equal(np.load(io.BytesIO(done.stdout)), EXPECTED)


def test_a_link_is_followed_and_permissions_stay(x: torch.Tensor, tmp_path: Path) -> None:
    file, link = tmp_path / "file.npy", tmp_path / "link.npy"
    file.write_bytes(b"before")
    file.chmod(0o640)
    link.symlink_to(file)
    x.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert np.array_equal(np.load(file), EXPECTED)


def test_a_path_as_bytes(x: torch.Tensor, tmp_path: Path) -> None:
    x.save(os.fsencode(tmp_path / "x.npy"))  # type: ignore[arg-type]
    assert np.array_equal(np.load(tmp_path / "x.npy"), EXPECTED)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", FileNotFoundError),
        (".", IsADirectoryError),
        ("no/such.npy", FileNotFoundError),
        ("f/x", NotADirectoryError),
    ],
)
def test_the_path_that_was_given_is_named(
    name: str, kind: type[OSError], x: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        x.save(name)
    assert caught.value.filename == name
    assert str(caught.value).endswith(f": {name!r}")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `x.npy.xxxxxxxx.part` vanish before the workers write: a folder that their node does not have."""
    real = door.emit

    def emit(name: str, *inputs: object, **attrs: object) -> object:
        if name == "write_npy":
            attrs["path"] = str(attrs["path"]).replace("here", "there")
        return real(name, *inputs, **attrs)  # type: ignore[arg-type]

    monkeypatch.setattr("distgrad.session.emit", emit)


def test_what_failed_on_a_worker_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.shutdown()
    failing(monkeypatch)
    (tmp_path / "here").mkdir()
    with torch.init("inproc", inline_bytes=0, shard_bytes=256):
        x = torch.arange(1000.0)
        with pytest.raises(FileNotFoundError) as caught:
            x.save(tmp_path / "here" / "x.npy")
    told = str(caught.value)
    assert isinstance(caught.value, WorkerError)
    assert told.startswith(f"'{tmp_path}/here/x.npy' was not saved: ")
    assert f"on worker 0 (process {os.getpid()} on 127.0.0.1)" in told
    assert ".part" not in told
    assert list((tmp_path / "here").iterdir()) == []


def test_what_failed_on_a_ray_worker_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_workers: Transport
) -> None:
    failing(monkeypatch)
    (tmp_path / "here").mkdir()
    door.attach(ray_workers, inline_bytes=0, shard_bytes=256, timeout=120)
    try:
        place = ray_workers.nodes()[0]
        with pytest.raises(OSError, match=rf"on worker 0 \(process {place['pid']} on {place['ip']}\)"):
            torch.arange(1000.0).save(tmp_path / "here" / "x.npy")
    finally:
        door.detach()


def test_what_cannot_be_read_on_a_worker_names_it(tmp_path: Path) -> None:
    torch.shutdown()
    np.save(tmp_path / "x.npy", EXPECTED)
    with torch.init("inproc", inline_bytes=0, shard_bytes=256):
        x = torch.from_npy(tmp_path / "x.npy")
        (tmp_path / "x.npy").unlink()
        with pytest.raises(FileNotFoundError, match=r"x\.npy.* on worker 0 \(process \d+ on 127"):
            x.sum().item()


def test_a_save_that_was_killed_leaves_nothing_behind_the_next(x: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "x[1].npy"
    program = f"""
import os, signal
import distgrad as torch
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
torch.ones(100_000).save({str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    other = tmp_path / "other.npy.01234567.part"
    other.write_bytes(b"of another file")
    x.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, path.name]
    assert np.array_equal(np.load(path), EXPECTED)


def test_a_save_that_runs_is_let_alone(x: torch.Tensor, tmp_path: Path) -> None:
    with open(tmp_path / "x.npy.0123abcd.part", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        x.save(tmp_path / "x.npy")
        assert len(list(tmp_path.iterdir())) == 2
    x.save(tmp_path / "x.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
