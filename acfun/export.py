"""Styles for other programs: a LoRA and a textual inversion, as diffusers or as kohya's family of programs reads them.

LoRA and pseudo-word say the same there as here, to the last digit that matters. Abstract fusion and the guide have no
counterpart: what is lost without the fusion is measured, the guide is left to acfun.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from acfun.base import Base
from acfun.base.vae_features import encode_latents
from acfun.conditioning import encode_prompts
from acfun.errors import StyleFileError
from acfun.paths import atomic_write
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from acfun.style import Style
from acfun.style_model import StyleModel

Layout = Literal["diffusers", "kohya"]
LORA_VARIANTS = ("lora", "attention_lora")
LORA_NAME, EMBEDDING_NAME = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
MEASURED_LEVELS = (0.2, 0.4, 0.6)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        lora: the LoRA's file, or None for a style without concrete fusion.
        embedding: the textual inversion's file, or None for a style without a pseudo-word.
        kept: 1 where predictions are those of the whole style, less as they come nearer to the base's; None where the
            style has no style image to measure on.
    """

    lora: Path | None
    embedding: Path | None
    kept: float | None


def export_style(style: Style, base: Base, directory: Path, layout: Layout = "diffusers") -> Exported:
    """Write a style's LoRA and pseudo-word into a folder.

    Read back by diffusers with `pipe.load_lora_weights(directory)` and `pipe.load_textual_inversion(embedding)`.

    Args:
        style: with LoRA as its concrete fusion.
        base: that the style was fitted on.
        directory: made if need be.
        layout: "diffusers", or "kohya" for A1111, ComfyUI and kohya's own scripts.

    Raises:
        StyleFileError: the concrete fusion is no LoRA.
        BaseFamilyMismatchError: another base.
    """
    cfun = style.architecture.cfun
    if cfun is not None and cfun.variant not in LORA_VARIANTS:
        raise StyleFileError(
            f"the style's concrete fusion is {cfun.variant}, which follows its input and is no LoRA: fit with "
            f"cfun = {LORA_VARIANTS[0]!r} to export it"
        )
    directory.mkdir(parents=True, exist_ok=True)
    model = style.apply_to(base)
    try:
        kept = measure_kept(style, base, model)
        words = None if model.token is None else model.token.embedding.vectors().detach().cpu().float()
        token = None if model.token is None else model.token.tokens[0]
    finally:
        model.eject()
    layers = {name[len("cfun.") :]: tensor for name, tensor in style.tensors.items() if name.startswith("cfun.")}
    lora = None
    if cfun is not None:
        lora = directory / LORA_NAME
        write = _write_diffusers if layout == "diffusers" else _write_kohya
        write(layers, cfun.rank, lora)
    embedding = None
    if words is not None and token is not None:
        embedding = directory / EMBEDDING_NAME
        content = {token: words} if layout == "diffusers" else {"emb_params": words}
        with atomic_write(embedding) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, temporary)
    return Exported(lora, embedding, kept)


@torch.no_grad()
def measure_kept(style: Style, base: Base, model: StyleModel) -> float | None:
    """How much of what a style changes in predictions is left without its abstract fusion: 1 is all.

    1 − ‖whole − exported‖ / ‖whole − base‖ over noised copies of the style image's head.
    """
    image = style.image
    if image is None:
        return None
    clean = encode_latents(base.vae, image.head.image.to(base.device))
    steps = [round(level * base.scheduler.config.num_train_timesteps) for level in MEASURED_LEVELS]
    timesteps = torch.tensor(steps, device=base.device)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((len(steps), *clean.shape[1:]), generator=generator).to(clean)
    noisy = base.scheduler.add_noise(clean.expand_as(noise), noise, timesteps)
    pipe = FaceStylizationPipeline.from_base(base)

    def predict(*, abstract: float, adapters: float) -> Tensor:
        model.set_scale(abstract=adapters, encoder=adapters, middle=adapters, decoder=adapters)
        if model.afun is not None:
            model.afun.set_scale(abstract)
        embeds = encode_prompts(pipe, model, ["a painting of a person"], None)["prompt_embeds"]
        model_pred: Tensor = model(noisy, timesteps, prompt_embeds=embeds.expand(len(noisy), -1, -1))
        return model_pred

    whole = predict(abstract=1.0, adapters=1.0)
    exported, bare = predict(abstract=0.0, adapters=1.0), predict(abstract=0.0, adapters=0.0)
    model.set_scale(abstract=1.0, encoder=1.0, middle=1.0, decoder=1.0)
    return 1 - float((whole - exported).norm() / (whole - bare).norm().clamp(min=1e-12))


def _write_diffusers(layers: dict[str, Tensor], rank: int, path: Path) -> None:
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted({name.rsplit(".", 2)[0] for name in layers}))
    with atomic_write(path) as temporary:
        StableDiffusionPipeline.save_lora_weights(
            temporary.parent,
            unet_lora_layers={name: tensor.float().contiguous() for name, tensor in layers.items()},
            weight_name=temporary.name,
            unet_lora_adapter_metadata=config.to_dict(),  # type: ignore[no-untyped-call]
        )


def _write_kohya(layers: dict[str, Tensor], rank: int, path: Path) -> None:
    sides = {"lora_A": "lora_down", "lora_B": "lora_up"}
    content = {}
    for name, tensor in layers.items():
        module, side, _ = name.rsplit(".", 2)
        stem = f"lora_unet_{module.replace('.', '_')}"
        content[f"{stem}.{sides[side]}.weight"] = tensor.float().contiguous()
        content[f"{stem}.alpha"] = torch.tensor(float(rank))
    with atomic_write(path) as temporary:
        save_file(content, temporary, metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})
