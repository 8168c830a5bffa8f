"""Joining a cluster: an error within 15 seconds if that cannot be, which says what to look at."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import ray
import ray.exceptions as rx
from ray._private import services
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from distgrad.errors import ConnectError

from .settings import QUIET, environment, own_sigterm

PROBE = 10.0  # seconds for the cluster to answer


def join(target: str | tuple[str, int]) -> None:
    """Make this process a driver of the cluster, or raise `ConnectError`."""
    if isinstance(target, str):
        address = _found_here()
    else:
        address = _text(target)
    settings = {}
    if not os.environ.get("RAY_AUTH_MODE") and _has_token():
        settings["RAY_AUTH_MODE"] = "token"  # Ray's own rule for "auto", and from 2.61 on for every address
    with environment(settings), own_sigterm():
        try:
            _within(PROBE, lambda: _probe(address))
            ray.init(address=address, **QUIET)
        except TimeoutError:
            why = f"something accepts connections there, but did not answer as Ray within {PROBE:g} s"
        except rx.AuthenticationError:
            mode = os.environ.get("RAY_AUTH_MODE") or "not set"
            why = f"it refused this process's token: RAY_AUTH_MODE is {mode} here; set its mode and token here too"
        except (rx.RayError, RuntimeError, OSError) as error:
            why = str(error)
        else:
            return
        ray.shutdown()
    raise ConnectError(
        f"no Ray cluster could be joined at {address}: {why}. Check that it runs (`ray status` on its head), that "
        "this is its head's address with the port of `ray start --port`, and that no firewall is between"
    )


def canonical(target: tuple[str, int]) -> str:
    """The address as Ray writes it: a name that means this machine becomes its number in the network."""
    return services.canonicalize_bootstrap_address(_text(target)) or ""


def _text(target: tuple[str, int]) -> str:
    host, port = target
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _found_here() -> str:
    """The address of the cluster that this machine is a node of."""
    try:
        address = services.canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError):
        address = None
    if address is None:
        raise ConnectError(
            'address "auto": no Ray runs on this machine. Start one with `ray start --head`, or make this machine a '
            "node of a cluster with `ray start --address=host:port`"
        )
    return address


def _probe(address: str) -> None:
    """Raise if `ray.init(address)` would fail, which takes it minutes for some reasons."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE / 2).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers ({error.strerror or error})") from None
    client = GcsClient(address=services.canonicalize_bootstrap_address(address))
    try:
        services.get_node_to_connect_for_driver(client, timeout_seconds=3)
    except RuntimeError:
        raise ConnectionError(
            "it answers, but this machine is not one of its nodes: run `ray start --address=...` here, or submit the "
            "program with `ray job submit`"
        ) from None


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").exists()


def _within(seconds: float, function: Callable[[], None]) -> None:
    """Call `function` in another thread; TimeoutError if it takes longer, and it is left behind."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            function()
            outcome.put(None)
        except BaseException as error:
            outcome.put(error)

    threading.Thread(target=run, name="distgrad-probe", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
