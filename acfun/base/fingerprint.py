"""A base's fingerprint: the same for the same weights in whatever file format, another for other weights."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MAX_VALUES = 65_536
UNET_KEYS = ("in_channels", "out_channels", "cross_attention_dim", "block_out_channels", "attention_head_dim")
TEXT_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
)


def compute_fingerprint(*modules: nn.Module, configs: Mapping[str, Any], max_values: int = MAX_VALUES) -> str:
    """sha256 (64 hex digits) of the configs and of the weights of UNet and text encoders, in this order.

    Weights are compared as float16, so that fp16 and fp32 files of one model agree; compute it before any
    other conversion. Of a tensor with more than `max_values` values an evenly spread sample of that many is
    read, first and last included. Names are left out: libraries rename parameters between versions.
    """
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True).encode())
    for module in modules:
        for tensor_digest in sorted(_digest(parameter, max_values) for parameter in module.parameters()):
            digest.update(tensor_digest)
    return digest.hexdigest()


def _digest(parameter: Tensor, max_values: int) -> bytes:
    values = parameter.detach().flatten()
    if len(values) > max_values:
        values = values[torch.linspace(0, len(values) - 1, max_values, dtype=torch.float64).long()]
    content = values.to("cpu", torch.float16).numpy().tobytes()
    return hashlib.sha256(str(tuple(parameter.shape)).encode() + content).digest()
