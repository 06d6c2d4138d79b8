"""Choosing a device by name."""

import pytest
import torch

from acfun.devices import select_device
from acfun.errors import ConfigError


def test_names_choose_devices() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type in {"cuda", "mps", "cpu"}


@pytest.mark.parametrize("name", ["gpu", "meta", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}'"):
        select_device(name)
