"""The tests' own guard against the network."""

import socket

import pytest


def test_name_lookups_are_refused() -> None:
    with pytest.raises(OSError, match=r"tried to reach 'example\.org'"):
        socket.create_connection(("example.org", 443), timeout=1)


def test_connections_are_refused() -> None:
    with socket.socket() as client, pytest.raises(OSError, match=r"tried to reach '192\.0\.2\.1'"):
        client.connect(("192.0.2.1", 443))


def test_connections_within_the_machine_are_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"
