"""Identity adapter: tells a UNet who is to be seen, by an embedding of the face.

An IP-Adapter (Ye et al. 2023, https://arxiv.org/abs/2308.06721) of the kind known as FaceID: four tokens made of one
identity embedding, which every cross-attention of the UNet attends to beside the prompt. Files are in the published
layout, `image_proj.*` and `ip_adapter.*`, so that `load_ip_adapter` of diffusers reads them, and a pipeline of acfun
reads those of others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from acfun.base.sources import download
from acfun.errors import ConfigError
from acfun.face.align import face_crop
from acfun.face.finder import require_face
from acfun.images import pil_to_tensor
from acfun.paths import mini_dir

NUM_TOKENS = 4  # diffusers takes every adapter of this kind to have four
ADAPTER_FOLDER, ADAPTER_FILE = "identity_adapter", "ip_adapter.safetensors"
HIDDEN_MULTIPLE = 2  # width of the projection's hidden layer, in embeddings
_LAYERS = {"proj.0": "ff.net.0.proj", "proj.2": "ff.net.2", "norm": "norm"}
_PARTS = ("image_proj", "ip_adapter")
_REMEDY = "give an IP-Adapter FaceID that was trained on such a base"

Adapter = dict[str, dict[str, Tensor]]
"""`image_proj` and `ip_adapter`: names of the published layout → weights."""


def find_adapter(source: str | Path, weight_name: str | None = None) -> Path:
    """The file of an adapter.

    Args:
        source: "mini" for the embedded base's own, a file, a folder, or a hub id.
        weight_name: of the file in the folder or on the hub.

    Raises:
        ConfigError: there is no such file.
        BaseNotFoundError: it is on the hub, and cannot be downloaded.
    """
    if str(source) == "mini":
        return mini_dir() / ADAPTER_FOLDER / ADAPTER_FILE
    path = Path(source).expanduser()
    if weight_name is not None:
        is_here = path.is_dir()
        folder = path if is_here else download(str(source), (weight_name,), "give the adapter's file")
        path = folder / weight_name
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give an adapter's file, or a folder or a hub id and its weight_name")
    return path


def load_adapter(path: Path) -> Adapter:
    """Read an adapter's file, in safetensors or as torch saves it.

    Raises:
        ConfigError: it is none, or one of another kind.
    """
    try:
        if path.suffix == ".safetensors":
            flat = load_file(path)
            adapter = {
                part: {name.removeprefix(f"{part}."): flat[name] for name in flat if name.startswith(f"{part}.")}
                for part in _PARTS
            }
        else:
            adapter = dict(torch.load(path, map_location="cpu", weights_only=True))
        is_whole = all(adapter[part] for part in _PARTS)
    # Broken files surface as whatever the reader of that format raises.
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as an adapter ({error}): copy or download it again") from error
    names = adapter["image_proj"].keys() if is_whole else ()
    # FaceID Plus has these layers too, and a resampler of CLIP's view of the face.
    if not {f"{layer}.weight" for layer in _LAYERS} <= set(names) or any("resampler" in name for name in names):
        raise ConfigError(f"{path} is no IP-Adapter FaceID: load others by load_ip_adapter")
    return adapter


def check_adapter(adapter: Adapter, unet: Any, name: str) -> None:
    """Refuse an adapter that was trained on a UNet of another shape.

    Raises:
        ConfigError: it was.
    """
    width = unet.config.cross_attention_dim
    wanted = {key: tuple(layer.weight.shape) for key, layer in _list_projections(unet)}
    wanted |= {"norm.weight": (width,)}
    found = {key: tuple(weight.shape) for part in _PARTS for key, weight in adapter[part].items()}
    rows = found["proj.2.weight"][0]
    if rows != NUM_TOKENS * width or any(found.get(key) != shape for key, shape in wanted.items()):
        raise ConfigError(f"{name} does not fit the UNet, whose prompts are {width} wide: {_REMEDY}")


def has_lora(adapter: Adapter) -> bool:
    """Whether an adapter brings a LoRA for the attention, as published ones do."""
    return any("_lora." in key for key in adapter["ip_adapter"])


def start_adapter(unet: Any, embed_size: int) -> Adapter:
    """A fresh adapter for a UNet, which attends to its tokens as the UNet does to those of the prompt.

    Args:
        unet: `UNet2DConditionModel` without an adapter.
        embed_size: of identity embeddings; the projection's first weights are drawn from torch's global generator.
    """
    width, inner = unet.config.cross_attention_dim, HIDDEN_MULTIPLE * embed_size
    parts: dict[str, nn.Module] = {
        "proj.0": nn.Linear(embed_size, inner),
        "proj.2": nn.Linear(inner, NUM_TOKENS * width),
        "norm": nn.LayerNorm(width),
    }
    projection = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {
        "image_proj": projection,
        "ip_adapter": {key: _copy(layer.weight) for key, layer in _list_projections(unet)},
    }


def read_adapter(unet: Any) -> Adapter:
    """The one adapter that is loaded into a UNet, in float32."""
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    image_proj = {
        f"{outer}.{key}": _copy(projection[f"{inner}.{key}"])
        for outer, inner in _LAYERS.items()
        for key in ("weight", "bias")
    }
    return {"image_proj": image_proj, "ip_adapter": {key: _copy(layer.weight) for key, layer in _list_loaded(unet)}}


def flatten_adapter(adapter: Adapter, dtype: torch.dtype) -> dict[str, Tensor]:
    """An adapter as the tensors of one file."""
    return {
        f"{part}.{name}": value.to(dtype).contiguous()
        for part, values in adapter.items()
        for name, value in values.items()
    }


def get_embed_size(unet: Any) -> int | None:
    """Size of the embeddings that the FaceID adapter in a UNet takes; None where there is no such adapter alone."""
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
        ValueError: there is no photograph, or the tensor has another shape.
    """
    if isinstance(pictures, Tensor):
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"person has shape {tuple(pictures.shape)}: (B,3,H,W) in [-1,1] or pictures are needed")
        photos = list(pictures.float().split(1))
    else:
        photos = [pil_to_tensor(one) for one in ([pictures] if isinstance(pictures, Image.Image) else pictures)]
    if not photos:
        raise ValueError("person is empty: give at least one photograph")
    crops = torch.cat([face_crop(photo, require_face(photo).landmarks.to(photo)[None]) for photo in photos])
    embeds: Tensor = encoder(crops.to(next(encoder.parameters()).device))
    return embeds


def _list_projections(unet: Any) -> Iterator[tuple[str, Any]]:
    """Keys of an adapter's attention, and the UNet's own projections of the prompt that they stand beside."""
    for index, attention in enumerate(_list_cross_attentions(unet)):
        yield f"{2 * index + 1}.to_k_ip.weight", attention.to_k
        yield f"{2 * index + 1}.to_v_ip.weight", attention.to_v


def _list_loaded(unet: Any) -> Iterator[tuple[str, Any]]:
    """The same keys, and the projections of the one adapter that is loaded."""
    for index, attention in enumerate(_list_cross_attentions(unet)):
        yield f"{2 * index + 1}.to_k_ip.weight", attention.processor.to_k_ip[0]
        yield f"{2 * index + 1}.to_v_ip.weight", attention.processor.to_v_ip[0]


def _list_cross_attentions(unet: Any) -> list[Any]:
    names = (name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor"))
    return [unet.get_submodule(name) for name in names]


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().float().clone()
