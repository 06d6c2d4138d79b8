"""Exports read back by plain diffusers: the same pictures without acfun."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from acfun.afun import AFunOptions
from acfun.base import Base, load_base
from acfun.cfun import LORA_VARIANTS, CFunOptions
from acfun.export import EMBEDDING_NAME, LORA_NAME, SAMPLED_PROMPTS, export_style
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from acfun.portrait import StyleImage
from acfun.style import Style
from acfun.style_model import build_style_model
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, RESOLUTION, make_style_embeds, save_tiny_checkpoint

PROMPT = "a man in <style> style"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "base")
    return tmp_path / "base"


def make_style(base: Base, *, variant: str = "lora", afun: Any = None, num_vectors: int = 1) -> Style:
    model = build_style_model(
        base,
        make_style_embeds(),
        afun=afun,
        cfun=CFunOptions(variant=variant, rank=4),
        num_vectors=num_vectors,
        initializer_word="a",
        generator=torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    picture = torch.rand((1, 3, RESOLUTION, RESOLUTION), generator=generator) * 2 - 1
    style = Style.from_model(model, base, image=StyleImage.from_picture(picture, RESOLUTION, None))
    model.eject()
    return style


def sample(pipe: Any, prompt: str = PROMPT) -> torch.Tensor:
    start = torch.randn(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    latents: torch.Tensor = pipe(
        prompt, latents=start, num_inference_steps=4, guidance_scale=1.0, output_type="latent"
    ).images
    return latents


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("variant", LORA_VARIANTS)
def test_plain_diffusers_gives_the_same_latents(checkpoint: Path, tmp_path: Path, layout: Any, variant: str) -> None:
    base = load_base(checkpoint)
    style = make_style(base, variant=variant)
    ours = FaceStylizationPipeline.from_pretrained(checkpoint)
    unstyled = sample(ours, "a man")
    ours.load_style(style)
    expected = sample(ours)
    exported = export_style(style, base, tmp_path / "export", layout)
    assert exported.lora == tmp_path / "export" / LORA_NAME
    assert exported.embedding == tmp_path / "export" / EMBEDDING_NAME
    assert exported.kept == pytest.approx(1.0, abs=1e-4)
    plain = StableDiffusionPipeline.from_pretrained(checkpoint)
    plain.load_lora_weights(tmp_path / "export", weight_name=LORA_NAME)
    plain.load_textual_inversion(exported.embedding, token="<style>")
    assert (sample(plain) - expected).abs().max() <= 1e-5
    assert (expected - unstyled).abs().max() > 1e-2


def test_rows_are_predicted_one_after_the_other(checkpoint: Path, tmp_path: Path) -> None:
    base, counts = load_base(checkpoint), []
    base.unet.register_forward_pre_hook(lambda module, arguments: counts.append(len(arguments[0])))
    export_style(make_style(base), base, tmp_path / "export")
    assert max(counts) <= 2 * len(SAMPLED_PROMPTS)


def test_a_word_of_several_vectors_is_one_file(checkpoint: Path, tmp_path: Path) -> None:
    base = load_base(checkpoint)
    style = make_style(base, num_vectors=3)
    exported = export_style(style, base, tmp_path / "export")
    assert exported.embedding is not None
    assert {name: tuple(tensor.shape) for name, tensor in load_file(exported.embedding).items()} == {"<style>": (3, 16)}


@pytest.mark.parametrize("variant", ["std_affine", "lora"])
def test_what_has_no_counterpart_is_distilled(checkpoint: Path, tmp_path: Path, variant: str) -> None:
    base = load_base(checkpoint)
    style = make_style(base, variant=variant, afun=AFunOptions(num_layers=1, num_heads=2, head_dim=8))
    left_out, distilled = (
        export_style(style, base, tmp_path / f"{steps}", distill_steps=steps).kept for steps in (0, 60)
    )
    assert left_out < distilled < 1
    plain = StableDiffusionPipeline.from_pretrained(checkpoint)
    plain.load_lora_weights(tmp_path / "60", weight_name=LORA_NAME)
    plain.load_textual_inversion(tmp_path / "60" / EMBEDDING_NAME)
    assert sample(plain).isfinite().all()
    unchanged = load_base(checkpoint)
    assert all(
        torch.equal(one, other)
        for one, other in zip(base.unet.state_dict().values(), unchanged.unet.state_dict().values(), strict=True)
    )
