"""Products have the same bits whatever number of threads BLAS may take, and the user's products keep theirs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as torch
from distgrad.primitives import TABLE, blas
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.transport import Transport
from distgrad.worker.worker import Worker

COUNTS = (1, 2, 3)
FOUND = [blas._threads(library) for library in blas.libraries()]
FORMS = ["mk,kn->mn", "km,kn->mn", "mk,nk->mn", "mk,k->m", "k,kn->n", "k,k->", "bmk,bkn->bmn", "mk,kn->nm"]

BITS = """
import hashlib
import numpy as np
import distgrad as torch

def bits():
    draw, told = np.random.default_rng(5), hashlib.sha256()
    for dtype in (np.float32, np.float64):
        a, b = (torch.from_numpy(draw.random((300, 301)).astype(dtype)) for _ in range(2))
        v, x = (torch.from_numpy(draw.random(shape).astype(dtype)) for shape in (301, (20_000, 12)))
        a.requires_grad_()
        results = [a @ b.T, a @ v, v @ b.T, v @ v, x.T @ x, x.sum(1), x @ v[:12]]
        results += torch.autograd.grad((results[0] ** 2).sum() + (results[1] ** 2).sum(), a)
        for result in results:
            told.update(result.detach().numpy().tobytes())
    return told.hexdigest()
"""
PROGRAM = """
if {inproc}:
    torch.init("inproc", workers=2, inline_bytes=0, shard_bytes=1 << 18)
print(bits())
"""


def digest(inproc: bool, threads: int) -> str:
    """The bits of a program that is told of so many BLAS threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", BITS + PROGRAM.format(inproc=inproc)],
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for the products of whoever does not say otherwise."""
    before = blas._put(FOUND, [count] * len(FOUND))
    try:
        yield
    finally:
        assert set(allowed()) <= {count}
        blas._put(FOUND, before)


def allowed() -> list[int]:
    return [library.get() for library in FOUND]


needs_threads = pytest.mark.skipif(not FOUND, reason="no BLAS whose threads can be set")


@pytest.mark.sweep
@pytest.mark.parametrize("inproc", [False, True])
def test_programs_have_the_same_bits_with_any_number_of_threads(inproc: bool) -> None:
    assert len({digest(inproc, n) for n in (1, 2, 4)}) == 1


def test_ray_workers_have_the_bits_of_workers_in_the_process(ray_workers: Transport) -> None:
    scope: dict[str, Any] = {}
    exec(BITS, scope)
    told = set()
    for transport in (InProcess(2, Worker), ray_workers):
        door.attach(transport, inline_bytes=0, shard_bytes=1 << 18)
        with threads(3):
            told.add(scope["bits"]())
        door.detach()
    assert len(told) == 1


@needs_threads
def test_numpy_alone_would_differ() -> None:
    """So the tests here can fail: NumPy's product has other bits with two threads."""
    draw = np.random.default_rng(1)
    told = set()
    a, b = (draw.random((20_001, 31)).astype(np.float32) for _ in range(2))
    for n in COUNTS:
        with threads(n):
            told.add((a.T @ b).tobytes())
    assert len(told) > 1


@st.composite
def products(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray]:
    """Subscripts and operands of any strides."""
    form = draw(st.sampled_from(FORMS))
    long = draw(st.sampled_from("mkn"))
    sizes = {
        c: draw(st.integers(1, 3 if c == "b" else 3_000 if c == long and len(form) < 9 else 90))
        for c in "bmkn"
    }
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    operands = []
    for word in form.partition("->")[0].split(","):
        shape = [sizes[c] for c in word]
        order = draw(st.permutations(range(len(shape))))
        step = draw(st.sampled_from([1, 1, 1, 2, -1]))
        array = numbers.standard_normal([shape[d] * abs(step) for d in order])
        array = array.astype(draw(st.sampled_from([np.float32, np.float64])))
        operands.append(array[(slice(None, None, step),) * len(shape)].transpose(np.argsort(order)))
    a, b = operands
    return form, a, b.astype(a.dtype) if a.dtype != b.dtype else b


@needs_threads
@settings(max_examples=int(os.environ.get("BLAS_EXAMPLES", "100")))
@given(products())
def test_random_products(product: tuple[str, np.ndarray, np.ndarray]) -> None:
    form, a, b = product
    told = set()
    for n in COUNTS:
        with threads(n):
            told.add(hashlib.sha256(TABLE["contract"].kernel(a, b, subscripts=form).tobytes()).digest())
    assert len(told) == 1


@needs_threads
@settings(max_examples=int(os.environ.get("BLAS_EXAMPLES", "100")) // 10)
@given(products(), st.integers(1, 4), st.integers(10, 16))
def test_random_products_of_cut_tensors(
    product: tuple[str, np.ndarray, np.ndarray], workers: int, log_bytes: int
) -> None:
    form, a, b = product
    told = set()
    for n in COUNTS:
        with threads(n), torch.init("inproc", workers=workers, inline_bytes=0, shard_bytes=1 << log_bytes):
            told.add(
                torch.einsum(form, torch.from_numpy(a.copy()), torch.from_numpy(b.copy())).numpy().tobytes()
            )
    assert len(told) == 1


@pytest.fixture(autouse=True)
def no_session() -> None:
    torch.shutdown()


@needs_threads
def test_the_users_products_keep_their_threads() -> None:
    a = torch.rand(300, 300)
    with threads(3):
        a @ a
        assert set(allowed()) == {3}
        with pytest.raises(RuntimeError):
            a @ torch.rand(2, 2)
        assert set(allowed()) == {3}


@needs_threads
def test_several_threads_of_a_program_at_once() -> None:
    a = np.random.default_rng(2).random((400, 401)).astype(np.float32)
    told, wrong = set(), []

    def multiply() -> None:
        for _ in range(40):
            told.add(blas.matmul(a.T, a).tobytes())

    with threads(2):
        running = [threading.Thread(target=multiply) for _ in range(3)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        wrong = [n for n in allowed() if n != 2]
    assert len(told) == 1
    assert wrong == []
    assert blas.ONE_THREAD._inside == 0


@needs_threads
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_child_that_was_forked_inside_a_product() -> None:
    with threads(2), blas.ONE_THREAD:
        child = os.fork()
        if child == 0:
            right = set(allowed()) == {2} and blas.matmul(np.ones((90, 90)), np.ones((90, 90)))[0, 0] == 90
            os._exit(0 if right and set(allowed()) == {2} else 1)
    assert os.waitpid(child, 0)[1] == 0
