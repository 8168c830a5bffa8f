"""Joining a cluster: an error within 15 seconds if that cannot be, which says what to look at."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable

import ray
import ray.exceptions as rx
from ray._private import services
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]

from distgrad.errors import ConnectError
from distgrad.interrupts import safe_point

from .settings import QUIET, environment, own_sigterm

PROBE = 10.0  # seconds for the cluster to answer


def join(target: str | tuple[str, int]) -> None:
    """Make this process a driver of the cluster, or raise `ConnectError`."""
    if isinstance(target, str):
        address = _found_here()
    else:
        address = _text(target)
    try:
        mode = _mode(address)
        with environment({"RAY_AUTH_MODE": mode}), own_sigterm():
            if mode == "token":
                _within(PROBE / 2, lambda: _probe(address))
            ray.init(address=address, **QUIET)
        return
    except TimeoutError:
        why = f"something accepts connections there, but did not answer as Ray within {PROBE:g} s"
    except rx.AuthenticationError:
        why = (
            "it asks for a token that this process does not have: set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, and "
            "RAY_AUTH_MODE=token or nothing"
        )
    except (rx.RayError, RuntimeError, OSError) as error:
        why = str(error)
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


def _mode(address: str) -> str:
    """Whether the cluster asks for a token: "token" or "disabled", as `RAY_AUTH_MODE` has it.

    The cluster is asked, since neither guess is safe. Without a token where one is needed nothing works; with one where
    none is known the driver turns away the cluster's own calls, and its actors die before they begin.
    """
    wish = os.environ.get("RAY_AUTH_MODE", "").lower()
    try:
        with environment({"RAY_AUTH_MODE": "disabled"}):
            _within(PROBE, lambda: _probe(address))
    except rx.AuthenticationError:
        with environment({"RAY_AUTH_MODE": "token"}):  # Ray aborts the whole process if it has none to send
            if wish == "disabled" or not AuthenticationTokenLoader.instance().has_token(
                ignore_auth_mode=True
            ):
                raise
        return "token"
    if wish == "token":
        raise ConnectionError("RAY_AUTH_MODE is token here, but the cluster runs without tokens: unset it")
    return "disabled"


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
    until = time.monotonic() + seconds
    while True:
        try:
            error = outcome.get(timeout=0.1)
            break
        except queue.Empty:
            safe_point()
            if time.monotonic() > until:
                raise TimeoutError from None
    if error is not None:
        raise error
