"""A checkout is a package as it stands: installed as editable, sent along by Ray, or merely in sys.path."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import ray
from ray._private.runtime_env import packaging

ROOT = Path(__file__).parents[1]
SITES = {
    str(Path(package.__file__).parents[1]) for package in (numpy, ray, pytest)
}  # without their .pth files
PROGRAM = """
import sys
sys.path[:0] = {folders!r}
import distgrad, distgrad.cluster
print(distgrad.ones(2).tolist(), distgrad.cluster.start.__module__, distgrad.cluster.__file__)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of the project, in a folder of another name."""
    kept = {"distgrad", "cluster"}
    hidden = shutil.ignore_patterns("__pycache__")
    for name in kept:
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, symlinks=True, ignore=hidden)
    return tmp_path / "checkout"


def imported(folders: Sequence[Path], cwd: Path) -> str:
    """What a program says that finds distgrad in one of these folders, and packages as they are installed."""
    code = PROGRAM.format(folders=[*map(str, folders), *SITES])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def unpacked(folder: Path, to: Path, parent: bool) -> Path:
    """The folder as it arrives on a node, where Ray has packed and unpacked it."""
    archive = to.with_suffix(".zip")
    packaging.create_package(str(folder), archive, True, include_parent_dir=parent)
    with zipfile.ZipFile(archive) as file:
        file.extractall(to)
    return to


@pytest.mark.sweep
def test_a_checkout_in_sys_path_has_the_cluster(checkout: Path, tmp_path: Path) -> None:
    told = imported([checkout], tmp_path)
    assert told == f"[1.0, 1.0] distgrad.cluster.launch {checkout}/distgrad/cluster/__init__.py"


@pytest.mark.sweep
def test_ray_takes_the_cluster_along(checkout: Path, tmp_path: Path) -> None:
    """As a job's `working_dir`, and as `py_modules=[distgrad]`: that sends the folder of the package alone."""
    for at in (
        unpacked(checkout, tmp_path / "working_dir", parent=False),
        unpacked(checkout / "distgrad", tmp_path / "py_modules", parent=True),
    ):
        assert not (at / "distgrad" / "cluster").is_symlink()
        assert f"{at}/distgrad/cluster/__init__.py" in imported([at], tmp_path)


@pytest.mark.sweep
def test_a_folder_named_like_the_package_does_not_hide_it(checkout: Path, tmp_path: Path) -> None:
    """A checkout below the current folder; the installed one is a line in sys.path, so Python looks on."""
    (tmp_path / "work" / "distgrad" / "tests").mkdir(parents=True)
    assert str(checkout) in imported([tmp_path / "work", checkout], tmp_path / "work")


def test_an_editable_install_is_a_line_in_sys_path() -> None:
    """Setuptools makes a hook of it, which comes after all of sys.path, unless all packages lie below one folder."""
    assert 'package-dir = { "" = "." }' in (ROOT / "pyproject.toml").read_text()
    assert not (ROOT / "setup.py").exists()
