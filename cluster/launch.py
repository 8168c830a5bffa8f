"""`start`: from an address to workers that run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
import ray.exceptions as rx
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distgrad.arguments import whole
from distgrad.errors import ConnectError, DistgradError
from distgrad.interrupts import safe_point

from . import actor as actor_module
from .connect import enter
from .settings import THREAD_VARIABLES
from .transport import RayTransport

WORKER = "distgrad.worker.worker:Worker"
GRAIN = 1000  # CPU shares are multiples of 1/GRAIN

ray.cloudpickle.register_pickle_by_value(actor_module)
_ACTOR = ray.remote(actor_module.DistgradWorker)


def start(
    address: str | None = None,
    *,
    workers: int | None = None,
    threads: int = 1,
    worker_options: dict[str, Any] | None = None,
    worker: Any = WORKER,
    object_store_memory: int | None = None,
    timeout: float = 60.0,
) -> RayTransport:
    """Start workers on Ray and wait until all are there.

    `address`: None starts a Ray on this machine, or joins the one that the variable RAY_ADDRESS names; "local" always
    starts one; "auto" joins the cluster that this machine is a node of; "host:port" joins the one whose head is
    there. A Ray that the program has initialised itself is used as it is, and is not shut down at the end.

    `workers` is by default one for each `threads` CPUs of the cluster, and may be more. Each product runs on one
    BLAS thread whatever `threads` says, so that bits do not depend on it. Workers are spread over the nodes in
    proportion to their CPUs, and numbered so that those of one node are neighbours. They use all CPUs while they
    work, but as Ray counts, those of a node take a quarter of its CPUs at most: Ray lets a task wait without end
    and without a word when every CPU is taken, and a program's own Ray tasks must find room beside the workers.

    `worker` is the class to make each worker of, or "module:name" of it: `worker(number, **worker_options)`.
    `object_store_memory` is in bytes and for a local Ray only. All must be there within `timeout` seconds.

    Raises TypeError or ValueError for arguments that make no sense, `ConnectError` if there is no Ray at the address
    (within 15 s) or the workers do not start, `DistgradError` if a worker's class cannot be made.
    """
    workers = None if workers is None else whole("workers", workers, 1)
    threads = whole("threads", threads, 1)
    safe_point()  # Ray is imported, and not started
    entered = enter(address, threads, object_store_memory)
    actors: list[Any] = []
    try:
        safe_point()
        nodes = _nodes()
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
        if not entered.inherited:
            options["runtime_env"] = {"env_vars": dict.fromkeys(THREAD_VARIABLES, str(threads))}
        plan = place([(node["NodeID"], node["Resources"].get("CPU", 0)) for node in nodes], workers, threads)
        for node, share in plan:
            where = NodeAffinitySchedulingStrategy(node, soft=True)
            actors.append(_ACTOR.options(num_cpus=share, scheduling_strategy=where, **options).remote())
        begun = [a.begin.remote(i, worker, worker_options or {}) for i, a in enumerate(actors)]
        _await(begun, plan, nodes, timeout)
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        places = [_begun(number, ref, plan[number][0], addresses) for number, ref in enumerate(begun)]
        return RayTransport(actors, places, entered.leave, entered.origin)
    except BaseException:
        for one in actors:
            ray.kill(one)
        entered.leave()
        raise


def _await(
    begun: list[Any], plan: list[tuple[str, float]], nodes: list[dict[str, Any]], timeout: float
) -> None:
    """Wait until all workers have answered; a Ctrl-C may come."""
    until = time.monotonic() + timeout
    missing = begun
    while missing:
        left = until - time.monotonic()
        if left <= 0:
            raise ConnectError(_shortage(len(missing), plan, nodes, timeout))
        missing = ray.wait(begun, num_returns=len(begun), timeout=min(left, 0.2))[1]
        safe_point()


def place(nodes: list[tuple[str, float]], workers: int | None, threads: int) -> list[tuple[str, float]]:
    """Node and CPU share of each worker, from each node's name and CPUs.

    Workers go to nodes in proportion to the CPUs (largest remainders first, then in order), so equal shares of the
    work take equal time.
    """
    nodes = [(name, cpus) for name, cpus in nodes if cpus > 0]
    if not nodes:
        raise ConnectError("the cluster has no CPUs for workers: no node was started with --num-cpus above 0")
    total = sum(cpus for _, cpus in nodes)
    if workers is None:
        counts = [max(1, int(cpus // threads)) for _, cpus in nodes]
    else:
        exact = [workers * cpus / total for _, cpus in nodes]
        counts = [int(e) for e in exact]
        by_remainder = sorted(range(len(nodes)), key=lambda i: counts[i] - exact[i])
        for i in by_remainder[: workers - sum(counts)]:
            counts[i] += 1
    plan = []
    for (name, cpus), count in zip(nodes, counts, strict=True):
        share = min(float(threads), cpus / 4 / max(count, 1))
        plan += [(name, max(1, int(share * GRAIN)) / GRAIN)] * count
    return plan


def _nodes() -> list[dict[str, Any]]:
    """The nodes that live, the driver's first."""
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return sorted(
        nodes, key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"], node["NodeID"])
    )


def _begun(number: int, ref: Any, planned: str, addresses: dict[str, str]) -> dict[str, Any]:
    """The place of a worker that has begun, or why it has not."""
    here = f"worker {number} on {addresses.get(planned, planned)}"
    try:
        answer = ray.get(ref, timeout=10)
    except rx.RayError as error:
        raise ConnectError(f"{here} did not start: {error}") from None
    if answer.get("missing"):
        raise ConnectError(
            f"{here} cannot import distgrad ({answer['error']}): install it on every node, or send it along with "
            'ray.init(address, runtime_env={"py_modules": [distgrad]}) before distgrad.init()'
        )
    if "error" in answer:
        raise DistgradError(f"{here} could not be made: {answer['error']}")
    if answer["numpy"] != np.__version__:
        raise ConnectError(
            f"{here} has NumPy {answer['numpy']}, the driver {np.__version__}: results can be the same bit for bit "
            "only with the same version on every node"
        )
    return {**answer, "ip": addresses.get(answer["node"], "")}


def _shortage(
    missing: int, plan: list[tuple[str, float]], nodes: list[dict[str, Any]], timeout: float
) -> str:
    wanted = sum(share for _, share in plan)
    total = sum(node["Resources"].get("CPU", 0) for node in nodes)
    free = ray.available_resources().get("CPU", 0.0)
    return (
        f"{missing} of {len(plan)} workers did not start within {timeout:g} s. Together they ask for {wanted:g} CPUs, "
        f"{max(share for _, share in plan):g} each; of the {total:g} on {len(nodes)} nodes {free:g} are free. Wait "
        "for other programs to end, or ask for fewer workers"
    )
