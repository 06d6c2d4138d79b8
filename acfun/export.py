"""Styles for other programs: a LoRA and a textual inversion, as diffusers or as kohya's family of programs reads them.

LoRA and pseudo-word say the same there as here, to the last digit that matters. Abstract fusion, and concrete fusion
that follows its input, have no counterpart: their effect is distilled into the LoRA and the pseudo-word, and what is
kept of it is measured. The guide of sampling is left to acfun.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from acfun.base import FAMILIES, Base, tokenize_all
from acfun.base.families import Family
from acfun.base.vae_features import encode_latents
from acfun.cfun import LORA_VARIANTS, CFunOptions
from acfun.conditioning import name_style
from acfun.paths import atomic_write
from acfun.pipelines import build_pipeline
from acfun.style import Style
from acfun.style_model import StyleModel, build_style_model

Layout = Literal["diffusers", "kohya"]
LORA_NAME, EMBEDDING_NAME = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
PROMPT = "a painting of a person"
SAMPLED_PROMPTS = ("a photo of a young woman", "a photo of an old man", "a photo of a man with a beard")
SAMPLED_STEPS = 16
LEVELS = (0.05, 0.8)
DISTILL_RANK, DISTILL_RATE, NUM_DISTILL_ROWS, NUM_TEST_ROWS = 16, 1e-3, 48, 8


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        lora: the LoRA's file, or None for a style without concrete fusion.
        embedding: the textual inversion's file, or None for a style without a pseudo-word.
        kept: of what the style changes in predictions: 1 where they are those of the whole style, less as they come
            nearer to the base's.
    """

    lora: Path | None
    embedding: Path | None
    kept: float


@dataclass(frozen=True)
class _Rows:
    """Noisy latents (N,C,h,w), their timesteps (N,), and what the base and the whole style predict for them."""

    noisy: Tensor
    timesteps: Tensor
    bare: Tensor
    whole: Tensor


def export_style(
    style: Style, base: Base, directory: Path, layout: Layout = "diffusers", *, distill_steps: int = 120
) -> Exported:
    """Write a style's LoRA and pseudo-word into a folder.

    Read back by diffusers with `pipe.load_lora_weights(directory)` and `pipe.load_textual_inversion(embedding)`; for
    two text encoders the latter is called for each, with the file's "clip_l" and "clip_g".

    Args:
        style: any; one with LoRA and without abstract fusion is written as it is.
        base: that the style was fitted on.
        directory: made if need be.
        layout: "diffusers", or "kohya" for A1111, ComfyUI and kohya's own scripts.
        distill_steps: of training where something has to be distilled; 0 leaves out what has no counterpart.

    Raises:
        BaseFamilyMismatchError: another base.
    """
    family = FAMILIES[base.family]
    rows = _compute_rows(style, base)
    plain = _leave_out(style, base)
    if distill_steps and plain is not style:
        plain = _distill(plain, base, rows, distill_steps)
    kept = _measure_kept(plain, base, rows)
    model = plain.apply_to(base)
    try:
        words = [token.embedding.vectors().detach().cpu().float().contiguous() for token in model.tokens]
    finally:
        model.eject()
    directory.mkdir(parents=True, exist_ok=True)
    layers = {name[len("cfun.") :]: tensor for name, tensor in plain.tensors.items() if name.startswith("cfun.")}
    cfun, lora, embedding = plain.architecture.cfun, None, None
    if cfun is not None:
        lora = directory / LORA_NAME
        if layout == "diffusers":
            _write_diffusers(layers, cfun.rank, lora, family)
        else:
            _write_kohya(layers, cfun.rank, lora, base)
    placeholder = plain.architecture.placeholder
    if placeholder is not None:
        embedding = directory / EMBEDDING_NAME
        names = family.word_names or (placeholder if layout == "diffusers" else "emb_params",)
        with atomic_write(embedding) as temporary:
            save_file(dict(zip(names, words, strict=True)), temporary)
    return Exported(lora, embedding, kept)


@torch.no_grad()
def _compute_rows(style: Style, base: Base) -> _Rows:
    """Noised copies of the style image's head and of faces that the base draws."""
    generator = torch.Generator().manual_seed(0)
    pipe = build_pipeline(base)
    pipe.set_progress_bar_config(disable=True)
    drawn: Tensor = pipe(
        SAMPLED_PROMPTS, num_inference_steps=SAMPLED_STEPS, generator=generator, output_type="latent"
    ).images
    clean, image = drawn, style.image
    if image is not None:
        head = image.shrink(base.resolution).head.image.to(base.device)
        clean = torch.cat([drawn, encode_latents(base.vae, head)])
    count = NUM_DISTILL_ROWS + NUM_TEST_ROWS
    clean = clean[torch.randint(len(clean), (count,), generator=generator)]
    steps = base.scheduler.config.num_train_timesteps
    low, high = (round(level * steps) for level in LEVELS)
    timesteps = torch.randint(low, high, (count,), generator=generator).to(base.device)
    noisy = base.scheduler.add_noise(clean, torch.randn(clean.shape, generator=generator).to(clean), timesteps)
    model = style.apply_to(base).eval()
    try:
        whole = _predict(model, noisy, timesteps)
        model.set_scale(abstract=0.0, encoder=0.0, middle=0.0, decoder=0.0)
        bare = _predict(model, noisy, timesteps)
    finally:
        model.eject()
    return _Rows(noisy, timesteps, bare, whole)


def _leave_out(style: Style, base: Base) -> Style:
    """The style without abstract fusion and, where its concrete fusion is none or no LoRA, with a fresh LoRA."""
    architecture = style.architecture
    cfun = architecture.cfun
    if architecture.afun is None and (cfun is None or cfun.variant in LORA_VARIANTS):
        return style
    is_lora = cfun is not None and cfun.variant in LORA_VARIANTS
    options = cfun if is_lora else CFunOptions(variant=LORA_VARIANTS[0], rank=DISTILL_RANK)
    model = build_style_model(
        base,
        style.tensors["style_embeds"],
        afun=None,
        cfun=options,
        placeholder=architecture.placeholder,
        initializer_word=architecture.initializer_word,
        num_vectors=architecture.num_vectors,
        generator=torch.Generator().manual_seed(0),
    )
    try:
        tensors = model.style_tensors()
        return replace(
            Style.from_model(model, base, image=style.image, config=style.config),
            tensors=tensors | {name: style.tensors[name] for name in tensors.keys() & style.tensors.keys()},
        )
    finally:
        model.eject()


def _distill(style: Style, base: Base, rows: _Rows, steps: int) -> Style:
    """Train LoRA and pseudo-word to predict what the whole style predicts."""
    model = style.apply_to(base)
    generator = torch.Generator().manual_seed(0)
    try:
        optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=DISTILL_RATE, weight_decay=0.0)
        for step in range(steps):
            index = int(torch.randint(NUM_DISTILL_ROWS, (), generator=generator))
            row = slice(index, index + 1)
            for group in optimizer.param_groups:
                group["lr"] = DISTILL_RATE * (1 - step / steps)
            loss = (_predict(model, rows.noisy[row], rows.timesteps[row]) - rows.whole[row]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return replace(style, tensors=style.tensors | model.style_tensors())
    finally:
        model.eject()


@torch.no_grad()
def _measure_kept(style: Style, base: Base, rows: _Rows) -> float:
    """1 − ‖whole − exported‖ / ‖whole − base‖ over rows that nothing was trained on."""
    test = slice(NUM_DISTILL_ROWS, None)
    model = style.apply_to(base).eval()
    try:
        exported = _predict(model, rows.noisy[test], rows.timesteps[test])
    finally:
        model.eject()
    lost, effect = (rows.whole[test] - part for part in (exported, rows.bare[test]))
    return 1 - float(lost.norm() / effect.norm().clamp(min=1e-12))


def _predict(model: StyleModel, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Predictions (N,C,h,w) under the style's prompt, one row after the other, as large bases need it."""
    input_ids = tokenize_all(model.tokenizers, name_style(model, PROMPT))
    rows = zip(noisy.split(1), timesteps.split(1), strict=True)
    return torch.cat([model(row, timestep, input_ids=input_ids) for row, timestep in rows])


def _write_diffusers(layers: dict[str, Tensor], rank: int, path: Path, family: Family) -> None:
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted({name.rsplit(".", 2)[0] for name in layers}))
    with atomic_write(path) as temporary:
        family.pipeline_class.save_lora_weights(
            temporary.parent,
            unet_lora_layers={name: tensor.float().contiguous() for name, tensor in layers.items()},
            weight_name=temporary.name,
            unet_lora_adapter_metadata=config.to_dict(),  # type: ignore[no-untyped-call]
        )


def _write_kohya(layers: dict[str, Tensor], rank: int, path: Path, base: Base) -> None:
    sides = {"lora_A": "lora_down", "lora_B": "lora_up"}
    family, layers_per_block = FAMILIES[base.family], base.unet.config.layers_per_block
    content = {}
    for name, tensor in layers.items():
        module, side, _ = name.rsplit(".", 2)
        stem = f"lora_unet_{family.name_for_kohya(module, layers_per_block).replace('.', '_')}"
        content[f"{stem}.{sides[side]}.weight"] = tensor.float().contiguous()
        content[f"{stem}.alpha"] = torch.tensor(float(rank))
    with atomic_write(path) as temporary:
        save_file(content, temporary, metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})
