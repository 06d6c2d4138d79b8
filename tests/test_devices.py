"""Choosing a device by name."""

import pytest
import torch
from torch import nn

from acfun.devices import place, select_device
from acfun.errors import ConfigError
from acfun.process import MPS_FALLBACK


def test_names_choose_devices() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("auto").type in {"cuda", "mps", "cpu"}


def test_apples_gpu_is_taken_only_where_torch_may_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv(MPS_FALLBACK, raising=False)
    assert select_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=MPS_FALLBACK):
        select_device("mps")
    monkeypatch.setenv(MPS_FALLBACK, "1")
    assert select_device("auto").type == select_device("mps").type == "mps"


@pytest.mark.parametrize("name", ["gpu", "meta", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}'"):
        select_device(name)


def test_a_module_that_others_use_is_copied_to_another_device() -> None:
    module = nn.Linear(2, 2)
    assert place(module, torch.device("cpu")) is module
    elsewhere = place(module, torch.device("meta"))
    assert elsewhere.weight.device.type == "meta"
    assert module.weight.device.type == "cpu"


def test_modules_of_buffers_alone_and_of_nothing_are_placed_too() -> None:
    buffers = nn.BatchNorm1d(2, affine=False)
    assert place(buffers, torch.device("cpu")) is buffers
    elsewhere = place(buffers, torch.device("meta"))
    assert elsewhere.running_mean is not None
    assert elsewhere.running_mean.device.type == "meta"
    nothing = nn.Identity()
    assert place(nothing, torch.device("meta")) is nothing
