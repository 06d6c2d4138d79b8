"""Styles, LoRAs and pictures for tests of the pipelines."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from acfun.base import Base
from acfun.cfun import CFunOptions
from acfun.style import Style
from tests.tiny import make_tiny_base
from tests.tools import make_fitted


def make_style(base: Base, *, variant: str = "std_affine", num_vectors: int = 1) -> Style:
    """A style of random strength of a variant of CFun."""
    return make_fitted(base, cfun=CFunOptions(variant=variant, rank=4), num_vectors=num_vectors)


def paint(pipe: Any, prompt: Any = "a man", *, seed: int = 0, **arguments: Any) -> Tensor:
    """Three steps from a fixed seed: (B,3,32,32) in [0,1]."""
    common = {"num_inference_steps": 3, "output_type": "pt", "generator": torch.Generator().manual_seed(seed)}
    images: Tensor = pipe(prompt, **(common | arguments)).images
    return images


def snapshot(pipe: Any) -> dict[str, Tensor]:
    modules = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    return {f"{key}.{name}": t.clone() for key, module in modules.items() for name, t in module.state_dict().items()}


def write_lora(directory: Path) -> None:
    """A LoRA on the tiny UNet's attention, in the file that diffusers writes."""
    unet = make_tiny_base().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.5, generator=generator)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(directory, unet_lora_layers=layers)
