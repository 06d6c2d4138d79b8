"""Every verb on every family: small checkpoints of the real classes in the real folder layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from acfun.base import FAMILIES, Base, load_base
from acfun.cfun import CFunOptions
from acfun.export import LORA_NAME, export_style
from acfun.fit import fit_style
from acfun.lora_import import import_lora
from acfun.photo import stylize
from acfun.pipelines import build_pipeline
from acfun.style import Style
from acfun.style_model import build_style_model
from tests.fitting import make_config
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, RESOLUTION, save_tiny_checkpoint

# What a checkpoint of each family is recognised by, and how its UNet predicts.
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "mini": {},
    "sd1": {"family": "sd1", "width": 768, "prediction_type": "epsilon"},
    "sd2": {"width": 1024, "family": "sd2"},
    "sdxl": {"family": "sdxl", "prediction_type": "epsilon"},
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("families") / str(request.param)
    save_tiny_checkpoint(directory, **CHECKPOINTS[request.param])
    return directory


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> Base:
    return load_base(checkpoint)


@pytest.fixture(scope="module")
def styles(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Style, Style]:
    """Two styles of one initial state, through their files."""
    loaded = []
    for steps in (1, 2):
        folder = tmp_path_factory.mktemp("style")
        style = fit_style(make_config(folder, objective="pseudo_pair", max_steps=steps), base=base)
        style.save(folder / "style.safetensors")
        loaded.append(Style.load(folder / "style.safetensors"))
        assert all(torch.equal(loaded[-1].tensors[name], tensor) for name, tensor in style.tensors.items())
    return loaded[0], loaded[1]


def test_every_family_is_here() -> None:
    assert CHECKPOINTS.keys() == FAMILIES.keys()


def test_the_family_is_recognised(checkpoint: Path, base: Base) -> None:
    assert base.family == checkpoint.name
    assert base.scheduler.config["prediction_type"] == CHECKPOINTS[base.family].get("prediction_type", "v_prediction")


def test_stylize_and_generate(base: Base, styles: tuple[Style, Style]) -> None:
    pipe = build_pipeline(base)
    pipe.set_progress_bar_config(disable=True)
    photo = Image.effect_noise((48, 40), 60).convert("RGB")

    def paint(prompt: str | None = None) -> bytes:
        generator = torch.Generator().manual_seed(0)
        if prompt is not None:
            return bytes(pipe(prompt, num_inference_steps=2, generator=generator).images[0].tobytes())
        (picture,) = stylize(pipe, photo, [], "portraits", num_inference_steps=4, generator=generator)
        assert picture.size == (2 * RESOLUTION, 2 * RESOLUTION)
        return picture.tobytes()

    plain = paint("a man"), paint()
    pipe.load_style(styles[1])
    styled = paint("a man"), paint()
    assert styled[0] != plain[0]
    assert styled[1] != plain[1]
    pipe.unload_style()
    assert (paint("a man"), paint()) == plain


def test_blend_and_export(base: Base, checkpoint: Path, styles: tuple[Style, Style], tmp_path: Path) -> None:
    blend = Style.blend([(styles[0], 0.25), (styles[1], 0.75)])
    pipe = build_pipeline(base)
    pipe.load_style(blend)
    pipe.unload_style()
    exported = export_style(blend, base, tmp_path, distill_steps=2)
    assert exported.embedding is not None
    plain = load_diffusers(base, checkpoint)
    plain.load_lora_weights(tmp_path, weight_name=LORA_NAME)
    family, words = FAMILIES[base.family], load_file(exported.embedding)
    for (encoder, tokenizer), name in zip(family.text_parts, family.word_names or ("<style>",), strict=True):
        parts = {"text_encoder": getattr(plain, encoder), "tokenizer": getattr(plain, tokenizer)}
        plain.load_textual_inversion({"<style>": words[name]}, **parts)
    assert sample(plain, "a man in <style> style").isfinite().all()


def test_an_export_does_the_same_in_diffusers_and_comes_back(base: Base, checkpoint: Path, tmp_path: Path) -> None:
    """With nothing to distil: a LoRA alone, on layers of every kind."""
    model = build_style_model(
        base,
        torch.zeros(1, 1, 1),
        afun=None,
        cfun=CFunOptions(variant="layer_lora", rank=2),
        placeholder=None,
        generator=torch.Generator().manual_seed(0),
    )
    for parameter in model.trainable_parameters():
        parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    style = Style.from_model(model, base)
    model.eject()
    pipe = build_pipeline(base)
    bare = sample(pipe, "a man")
    pipe.load_style(style)
    expected = sample(pipe, "a man")
    pipe.unload_style()
    assert not torch.allclose(expected, bare, atol=1e-3)
    exported = export_style(style, base, tmp_path, "kohya")
    assert exported.kept == pytest.approx(1.0, abs=1e-4)
    assert exported.lora is not None
    plain = load_diffusers(base, checkpoint)
    plain.load_lora_weights(tmp_path, weight_name=LORA_NAME)
    torch.testing.assert_close(sample(plain, "a man"), expected, atol=1e-5, rtol=1e-4)
    imported = import_lora(exported.lora, base).style
    pipe.load_style(imported)
    torch.testing.assert_close(sample(pipe, "a man"), expected, atol=1e-5, rtol=1e-4)
    pipe.load_style(Style.blend([(imported, 0.5), (style, 0.5)]))
    torch.testing.assert_close(sample(pipe, "a man"), expected, atol=1e-5, rtol=1e-4)
    pipe.unload_style()
    torch.testing.assert_close(sample(pipe, "a man"), bare)


def load_diffusers(base: Base, checkpoint: Path) -> Any:
    """The pipeline of diffusers itself."""
    family = FAMILIES[base.family]
    return family.pipeline_class.from_pretrained(checkpoint, **family.pipeline_options)


def sample(pipe: Any, prompt: str) -> torch.Tensor:
    """Two steps from fixed noise, without guidance: latents (1,4,8,8)."""
    shape = (1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    latents: torch.Tensor = pipe(
        prompt, latents=start, num_inference_steps=2, guidance_scale=1.0, output_type="latent"
    ).images
    return latents
