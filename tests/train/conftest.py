"""Shared by the tests of the training scripts."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Puts the signal handlers back that a test replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
