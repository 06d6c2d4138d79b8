"""Identity adapter: tells a UNet who is to be seen, by an embedding of the face.

An IP-Adapter (Ye et al. 2023, https://arxiv.org/abs/2308.06721) of the kind known as FaceID: four tokens made of one
identity embedding, which every cross-attention of the UNet attends to beside the prompt. Files are in the published
layout, `image_proj.*` and `ip_adapter.*`, so that `load_ip_adapter` of diffusers reads them, and a pipeline of acfun
reads those of others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from PIL import Image
from torch import Tensor, nn

from acfun.face.align import face_crop
from acfun.face.finder import find_face
from acfun.images import pil_to_tensor
from acfun.paths import mini_dir

NUM_TOKENS = 4  # diffusers knows no other number for this kind of adapter
ADAPTER_FOLDER, ADAPTER_FILE = "identity_adapter", "ip_adapter.safetensors"
HIDDEN_MULTIPLE = 2  # width of the projection's hidden layer, in embeddings
_LAYERS = {"proj.0": "ff.net.0.proj", "proj.2": "ff.net.2", "norm": "norm"}

Adapter = dict[str, dict[str, Tensor]]
"""`image_proj` and `ip_adapter`: names of the published layout → weights."""


def find_mini_adapter() -> Path:
    """The file of the embedded base's own adapter."""
    return mini_dir() / ADAPTER_FOLDER / ADAPTER_FILE


def start_adapter(unet: Any, embed_size: int) -> Adapter:
    """A fresh adapter for a UNet, which attends to its tokens as the UNet does to those of the prompt.

    Args:
        unet: `UNet2DConditionModel` without an adapter.
        embed_size: of identity embeddings.
    """
    width, inner = unet.config.cross_attention_dim, HIDDEN_MULTIPLE * embed_size
    layers = {"proj.0": nn.Linear(embed_size, inner), "proj.2": nn.Linear(inner, NUM_TOKENS * width)}
    parts: dict[str, nn.Module] = {**layers, "norm": nn.LayerNorm(width)}
    projection = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    attention: dict[str, Tensor] = {}
    for index, name in enumerate(_find_cross_attentions(unet)):
        module = unet.get_submodule(name)
        attention |= {
            f"{2 * index + 1}.to_{part}_ip.weight": _copy(getattr(module, f"to_{part}").weight) for part in "kv"
        }
    return {"image_proj": projection, "ip_adapter": attention}


def read_adapter(unet: Any) -> Adapter:
    """The one adapter that is loaded into a UNet, in float32."""
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    image_proj = {
        f"{outer}.{key}": _copy(projection[f"{inner}.{key}"])
        for outer, inner in _LAYERS.items()
        for key in ("weight", "bias")
    }
    attention: dict[str, Tensor] = {}
    for index, name in enumerate(_find_cross_attentions(unet)):
        processor = unet.get_submodule(name).processor
        attention |= {
            f"{2 * index + 1}.to_{part}_ip.weight": _copy(getattr(processor, f"to_{part}_ip")[0].weight)
            for part in "kv"
        }
    return {"image_proj": image_proj, "ip_adapter": attention}


def flatten_adapter(adapter: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    """An adapter as the tensors of one file."""
    return {
        f"{part}.{name}": value.to(dtype).contiguous()
        for part, values in adapter.items()
        for name, value in values.items()
    }


def get_embed_size(unet: Any) -> int | None:
    """Size of the embeddings that the identity adapter in a UNet takes; None where there is no such adapter alone."""
    layers: Sequence[Any] = getattr(unet.encoder_hid_proj, "image_projection_layers", ())
    if len(layers) != 1 or not isinstance(layers[0], IPAdapterFaceIDImageProjection):
        return None
    size: int = layers[0].ff.net[0].proj.in_features
    return size


@torch.no_grad()
def embed_people(pictures: Image.Image | Sequence[Image.Image] | Tensor, encoder: nn.Module) -> Tensor:
    """Identity embeddings (B,D) of the largest faces of B photographs, on the encoder's device.

    Args:
        pictures: of any size, or (B,3,H,W) in [-1,1].
        encoder: of `acfun.face.recognition`.

    Raises:
        NoFaceFoundError: a photograph shows no face.
    """
    if isinstance(pictures, Tensor):
        photos = list(pictures.split(1))
    else:
        photos = [pil_to_tensor(one) for one in ([pictures] if isinstance(pictures, Image.Image) else pictures)]
    crops = torch.cat([face_crop(photo, find_face(photo).landmarks.to(photo)[None]) for photo in photos])
    embeds: Tensor = encoder(crops.to(next(encoder.parameters()).device))
    return embeds


def _find_cross_attentions(unet: Any) -> list[str]:
    return [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().float().clone()
