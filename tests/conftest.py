"""For all tests: no network, one thread, the same random numbers each time."""

import ipaddress
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

NUM_THREADS = 1
MAX_WORKERS = 4  # of `-n auto`; each takes about a gigabyte


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker a core, a few at most."""
    return min(os.cpu_count() or 1, MAX_WORKERS)


@pytest.fixture(scope="session", autouse=True)
def limit_threads() -> None:
    """Torch on one thread: tiny models gain nothing from more, and threads that wait for each other lose much."""
    torch.set_num_threads(NUM_THREADS)


@pytest.fixture(autouse=True)
def seed() -> None:
    """The global random states; what draws from a generator of its own needs no help."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def block_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections and name lookups fail, except on this machine and in tests marked `network`."""
    if request.node.get_closest_marker("network"):
        yield
        return
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check_local(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check_local(self.family, address)
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check_local(socket.AF_INET, (host,))
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield


def _check_local(family: int, address: Any) -> None:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in {None, "", "localhost"}:
        return
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise OSError(f"this test tried to reach {host!r}; mark it `network` if it must")
