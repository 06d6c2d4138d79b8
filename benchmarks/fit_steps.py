"""A step of a fit, and of the recipes of diffusers' `textual_inversion.py` and `train_dreambooth_lora.py`, to be timed.

The recipes are the scripts' steps, not the scripts themselves, with their default options but for the pictures a step
(`--train_batch_size`), of which there are as many as is asked for: float32, no prior preservation; every step encodes
the picture with the VAE and the prompt with the text encoder; textual inversion trains the whole embedding table with
AdamW and puts back all rows but the new one; DreamBooth trains LoRA of rank 4 in the attention's q, k, v and out.
Reading pictures from disk is left out. acfun's step is that of `acfun.fit` with default options: two rows, a face and
the style.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base import Base, Conditions, encode_ids, predict, tokenize_all
from acfun.base.image_embeds import encode_style_image
from acfun.cfun import find_attention_blocks, place
from acfun.cfun.lora import ATTENTION_LORA, PROJECTIONS
from acfun.cfun.sites import find_children
from acfun.config import FitConfig
from acfun.fit import FitLoop
from acfun.fit_prepare import prepare
from acfun.fit_setup import ROOMY, build_model, set_up
from acfun.images import load_image, pil_to_tensor

PROMPT = "a painting of a person in sks style"

Step = Callable[[], None]


@contextmanager
def fit_with_acfun(base: Base) -> Iterator[Step]:
    """Steps of the fit itself, its pair replaced by noise: painting it takes long, and steps do not depend on it."""
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "picture.png")
        Image.effect_noise((base.resolution, base.resolution), 60).convert("RGB").save(path)
        config = FitConfig(style_path=path, face_paths=(path,), framing="whole", max_steps=10**6)
        data = prepare(replace(config, pair_weight=0.0), base, generator)
        embeds = encode_style_image(base, pil_to_tensor(load_image(path)))
    model = build_model(config, base, embeds, generator)
    data = replace(data, pair_latents=torch.randn_like(data.face_latents))
    loop = FitLoop(config, base, data, model, Accelerator(device_placement=False), generator)
    model.train()
    try:
        with set_up(base, ROOMY, base.device):
            yield lambda: _ignore(loop.take_step())
    finally:
        model.eject()


@contextmanager
def invert_text(base: Base, rows: int, optimizers: dict[str, Any]) -> Iterator[Step]:
    """Steps of textual inversion's recipe, `rows` pictures each; the optimizer is kept from segment to segment."""
    tables = [text_encoder.get_input_embeddings().requires_grad_() for text_encoder in base.text_encoders]
    weights = [table.weight for table in tables]
    originals = [weight.detach().clone() for weight in weights]
    if "words" not in optimizers:
        optimizers["words"] = torch.optim.AdamW(weights, lr=1e-4)
    new_row = len(base.tokenizer) - 1

    def step() -> None:
        optimizer = optimizers["words"]
        compute_recipe_loss(base, rows).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                is_old = torch.arange(len(weight)) != new_row
                weight[is_old] = original[is_old]

    try:
        yield step
    finally:
        for table in tables:
            table.requires_grad_(False)


@contextmanager
def tune_attention(base: Base, rows: int) -> Iterator[Step]:
    """Steps of the recipe of DreamBooth with LoRA, `rows` pictures each."""
    update = place(base.unet, ATTENTION_LORA, find_children(find_attention_blocks(base.unet), PROJECTIONS), 4)
    parameters = [parameter for _, parameter in update.named_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4)

    def step() -> None:
        compute_recipe_loss(base, rows).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    try:
        yield step
    finally:
        update.eject()


def compute_recipe_loss(base: Base, rows: int) -> Tensor:
    """The denoising loss of so many pictures as the scripts compute it, everything encoded anew."""
    scheduler, device = base.scheduler, base.device
    pixel_values = torch.rand(rows, 3, base.resolution, base.resolution, device=device) * 2 - 1
    latents = base.vae.encode(pixel_values).latent_dist.sample() * base.vae.config.scaling_factor
    noise = torch.randn_like(latents)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (rows,), device=device)
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    conditions: Conditions = encode_ids(base, tokenize_all(base.tokenizers, [PROMPT] * rows).to(device))
    model_pred = predict(base.unet, noisy_latents, timesteps, conditions)
    return F.mse_loss(model_pred.float(), noise.float())


def _ignore(result: object) -> None:
    """Drop what a step returns, and with it the graph."""
