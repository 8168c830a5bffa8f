"""The peers' libraries, each set up once and fairly: two threads, two devices or two workers.

A library has the workload's `method` that is written for it, the environment of its process, and `wait`, which returns
when what a step began is done.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.workloads.base import Step, Workload

# Fresh pages are dear: here glibc keeps what is freed, and takes memory in huge pages. It suits every peer.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1"
    ":glibc.malloc.trim_threshold=1000000000000:glibc.malloc.top_pad=67108864"
}
COPIED = 128 << 20  # bytes that are read, and as many written, to measure the memory bus
ORDER = 4096  # of the matrices that are multiplied to measure BLAS


class LeftOutError(Exception):
    """What the library needs is not on this machine; the text says what."""


class Library:
    """Base: what runs a step needs nothing set up."""

    method: ClassVar[str]
    environment: ClassVar[dict[str, str]] = {}
    scale = 1.0  # of the measured times

    def __init__(self, workload: Workload):
        self.workload = workload

    def prepare(self) -> Step:
        """The step of the workload in this library."""
        return getattr(self.workload, self.method)(self)

    def wait(self, results: Any) -> Any:
        """The same results, computed."""
        return results

    def figures(self, step: Callable[[], Any]) -> dict[str, float]:
        """What else is to be told of one more step; a name ends in its unit."""
        return {}


class Distgrad(Library):
    """Two workers with one BLAS thread each."""

    method = "eager"
    options: ClassVar[dict[str, Any]] = {}

    def prepare(self) -> Step:
        import distgrad

        self.module = distgrad
        if self.workload.init is not None:
            distgrad.init(**{**self.workload.init, **self.options})
        return self.workload.eager(distgrad)

    def wait(self, results: Any) -> Any:
        if self.workload.init is not None:
            self.module.synchronize()
        return results

    def figures(self, step: Callable[[], Any]) -> dict[str, float]:
        """Of one steady step: page faults of the workers, who spends the time, and what was predicted."""
        if self.workload.init is None:
            return {}
        self.module.memory()
        before = self.module.memory()  # the second call faults as the third will
        idle = self.module.memory()
        step()
        after = self.module.memory()
        faults = sum(a["minor_faults"] - b["minor_faults"] for a, b in zip(after, idle, strict=True))
        faults -= sum(b["minor_faults"] - a["minor_faults"] for a, b in zip(before, idle, strict=True))
        with self.module.profile() as p:
            step()
        peak = max(p.peak_bytes, key=lambda pair: pair.measured)
        return {
            "workers' minor page faults": max(faults, 0),
            "driver, ms": p.driver_seconds * 1e3,
            "Ray, ms": p.submit_seconds * 1e3,
            "waiting, ms": p.wait_seconds * 1e3,
            "busiest worker, ms": max(p.worker_seconds) * 1e3,
            "a worker's peak as predicted, MB": peak.predicted / 1e6,
            "and measured, MB": peak.measured / 1e6,
            "moved as predicted, kB": p.moved_bytes.predicted / 1e3,
            "and as measured, kB": p.moved_bytes.measured / 1e3,
        }


class OneWorker(Distgrad):
    """To see what the second brings."""

    options: ClassVar[dict[str, Any]] = {"workers": 1}


class ManyShards(Distgrad):
    """As the workload says."""

    def prepare(self) -> Step:
        self.options = self.workload.many
        return super().prepare()


class Torch(Library):
    """Eager."""

    method = "eager"

    def prepare(self) -> Step:
        import torch

        torch.set_num_threads(self.workload.threads)
        return self.workload.eager(torch)


class TorchTuned(Torch):
    """The same with a better allocator, as torch's tuning guide advises."""

    environment: ClassVar[dict[str, str]] = KEEP_MEMORY


class TorchCompiled(TorchTuned):
    """The function of the loss under torch.compile, which compiles its gradient too."""

    def prepare(self) -> Step:
        import torch
        import torch._dynamo
        import torch._inductor.exc

        if self.workload.compiled is None:
            raise LeftOutError("torch.compile cannot differentiate twice")
        if not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise LeftOutError("torch.compile needs a C++ compiler")
        self.workload.compiled = torch.compile
        step = super().prepare()

        def told() -> list[Any]:
            try:
                return step()
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                raise LeftOutError(f"torch.compile fails: {str(error).strip().splitlines()[0]}") from error

        return told


class Jax(Library):
    """Under jit, rows over two CPU devices."""

    method = "jax"
    devices: ClassVar[int] = 2
    wrap_jit: Any = None

    def prepare(self) -> Step:
        import jax

        jax.config.update("jax_num_cpu_devices", self.devices)
        mesh = jax.sharding.Mesh(jax.devices(), ("rows",))
        self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
        self._whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self.np, self.nn, self.jit = jax.numpy, jax.nn, self.wrap_jit or jax.jit
        self.value_and_grad, self.vjp, self.jvp = jax.value_and_grad, jax.vjp, jax.jvp
        self.wait = jax.block_until_ready
        self.one_device = jax.device_put
        self._put = jax.device_put
        return super().prepare()

    def rows(self, array: np.ndarray) -> Any:
        """Cut along dimension 0."""
        return self._put(array, self._rows)

    def whole(self, array: np.ndarray) -> Any:
        """A copy for each device."""
        return self._put(array, self._whole)

    def cross_entropy(self, z: Any, y: Any) -> Any:
        """Mean over the rows."""
        picked = self.np.take_along_axis(z, y[:, None], 1)[:, 0]
        return (self.nn.logsumexp(z, 1) - picked).mean()


class JaxTuned(Jax):
    """On one device, whose threads share the work of an op: mostly quicker; and with memory kept."""

    devices: ClassVar[int] = 1
    environment: ClassVar[dict[str, str]] = KEEP_MEMORY


class JaxDonated(JaxTuned):
    """The same, and the results of a step are written over those of the last one, whose buffers are donated."""

    def prepare(self) -> Step:
        step = super().prepare
        import jax

        plain = jax.jit

        def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
            if (
                options or self.workload.init is None
            ):  # the workload donates what it updates; or it is too small
                return plain(function, **options)
            first = plain(function)
            later = plain(lambda last, *args: function(*args), donate_argnums=0, keep_unused=True)
            last: list[Any] = []

            def call(*args: Any) -> Any:
                last[:] = [later(last[0], *args) if last else first(*args)]
                return last[0]

            return call

        self.wrap_jit = jit
        return step()


class Numba(Library):
    """Loops that a specialist wrote by hand, value and gradient in one pass: what is to be had, and no peer."""

    method = "numba"
    environment: ClassVar[dict[str, str]] = KEEP_MEMORY

    def prepare(self) -> Step:
        if importlib.util.find_spec("numba") is None:
            raise LeftOutError("numba is not installed")
        self.loops = importlib.import_module("benchmarks.specialist")
        return super().prepare()

    def in_one_pass(
        self, loop: Callable[..., float], arrays: list[np.ndarray], wanted: list[np.ndarray]
    ) -> Step:
        """A loop that returns the loss and writes the gradient for each of `wanted`."""
        grads = [np.empty_like(x) for x in wanted]
        return lambda: [loop(*arrays, *grads), *grads]


class Dask(Library):
    """Two threads, one BLAS thread in each; data and results stay as blocks. Tuned, as NumPy is."""

    method = "dask"
    environment: ClassVar[dict[str, str]] = {**KEEP_MEMORY, "OPENBLAS_NUM_THREADS": "1"}

    def prepare(self) -> Step:
        import dask
        import dask.array

        dask.config.set(scheduler="threads", num_workers=2)
        self.np, self.persist, self._delayed = dask.array, dask.persist, dask.delayed
        return super().prepare()

    def rows(self, array: np.ndarray, blocks: int) -> Any:
        """Cut along dimension 0, in memory."""
        chunks = (-(-len(array) // blocks), *array.shape[1:])
        return self.np.from_array(array, chunks=chunks).persist()

    def sum_of_blocks(self, function: Callable[..., Any], arrays: Sequence[Any], *whole: np.ndarray) -> Any:
        """The sums, over the blocks of `arrays`, of what `function` returns; not computed yet."""
        blocks = zip(*(x.to_delayed().ravel() for x in arrays), strict=True)
        call = self._delayed(function, pure=False)
        return self._delayed(_sums, pure=False)([call(*block, *whole) for block in blocks])


def _sums(parts: list[list[Any]]) -> list[Any]:
    totals = list(parts[0])
    for part in parts[1:]:
        for k, value in enumerate(part):
            totals[k] += value
    return totals


class Autograd(Library):
    """HIPS autograd over NumPy, whose BLAS takes all cores. Tuned, as NumPy is.

    Written such that gradients stay float32: those of `mean`, `max` and `maximum` would be float64.
    """

    method = "autograd"
    environment: ClassVar[dict[str, str]] = KEEP_MEMORY

    def prepare(self) -> Step:
        import autograd
        import autograd.numpy
        from autograd.tracer import getval

        self.np, self.getval = autograd.numpy, getval
        self.grad, self.value_and_grad, self.make_vjp = (
            autograd.grad,
            autograd.value_and_grad,
            autograd.make_vjp,
        )
        return super().prepare()

    def cross_entropy(self, z: Any, y: Any) -> Any:
        """Mean over the rows."""
        z = z - self.getval(z).max(1, keepdims=True)
        picked = z[np.arange(len(y)), y]
        return self.np.sum(self.np.log(self.np.sum(self.np.exp(z), 1)) - picked) / len(y)

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return x * (x > 0)


class Limit(Library):
    """What the machine can do on all cores, buffers warm: NumPy's product, or a copy, or a look at all bytes."""

    method = "limit"

    def prepare(self) -> Step:
        flops, nbytes = self.workload.flops_needed(), self.workload.bytes_needed()
        if flops:
            a, b, c = (np.ones((ORDER, ORDER), np.float32) for _ in range(3))
            self.scale = flops / (2 * ORDER**3)
            return lambda: [np.matmul(a, b, out=c)]
        workers = os.cpu_count() or 1
        sources, targets = (np.array_split(np.ones(COPIED // 8, np.int64), workers) for _ in range(2))
        if self.workload.only_reads:
            self.scale = nbytes / COPIED
            calls = [(np.bitwise_or.reduce, (x,)) for x in sources]
        else:
            self.scale = nbytes / (2 * COPIED)
            calls = [(np.copyto, pair) for pair in zip(targets, sources, strict=True)]

        def step() -> list[Any]:
            threads = [threading.Thread(target=function, args=args) for function, args in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return []

        return step


LIBRARIES: dict[str, type[Library]] = {
    "distgrad": Distgrad,
    "torch": Torch,
    "torch tuned": TorchTuned,
    "torch compiled": TorchCompiled,
    "jax": Jax,
    "jax tuned": JaxTuned,
    "jax donated": JaxDonated,
    "dask": Dask,
    "autograd": Autograd,
    "numba": Numba,
    "one worker": OneWorker,
    "many shards": ManyShards,
    "limit": Limit,
}
AS_INSTALLED = ("torch", "jax")  # with no setting but for the number of threads; all other peers are tuned
STANDARD = (
    "distgrad",
    "torch",
    "torch tuned",
    "torch compiled",
    "jax",
    "jax tuned",
    "jax donated",
    "dask",
    "autograd",
)
BESIDE = ("numba", "one worker", "limit")  # not those that a goal is about, where they run beside peers


def peers_of(workload: Workload) -> tuple[str, ...]:
    """The names of those who run a workload, distgrad first and the limit last."""
    names = (*STANDARD, "numba")
    peers = workload.peers or tuple(p for p in names if getattr(workload, LIBRARIES[p].method, None))
    peers += ("one worker",) if workload.scaling_goal else ()
    limit = ("limit",) if workload.flops_needed() or workload.bytes_needed() else ()
    return (*peers, *limit)
