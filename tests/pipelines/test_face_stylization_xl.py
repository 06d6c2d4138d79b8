"""The SDXL pipeline on a tiny base: it paints as diffusers' own does, and styles go in and out without a trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.callbacks import SDXLCFGCutoffCallback
from diffusers.utils import convert_state_dict_to_diffusers, dynamic_modules_utils
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from acfun.base import Base, encode_ids, encode_prompt, load_base, tokenize_all
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.errors import BaseFamilyMismatchError
from acfun.style import Style
from acfun.style_model import build_style_model
from pipelines import face_stylization_xl
from pipelines.face_stylization import FaceStylizationPipeline
from pipelines.face_stylization_xl import FaceStylizationXLPipeline
from tests.tiny import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    POOLED_WIDTH,
    RESOLUTION,
    SECOND_WIDTH,
    WIDTH,
    build_diffusers_pipeline,
    make_style_embeds,
    make_tiny_base,
    save_tiny_checkpoint,
)
from tests.tools import make_fitted, make_ip_adapter


def make_xl_base(**options: Any) -> Base:
    return make_tiny_base(family="sdxl", prediction_type="epsilon", **options)


@pytest.fixture
def base() -> Base:
    return make_xl_base()


@pytest.fixture
def pipe(base: Base) -> FaceStylizationXLPipeline:
    pipe: FaceStylizationXLPipeline = FaceStylizationXLPipeline.from_base(base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_start() -> Tensor:
    shape = (1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def paint(pipe: Any, prompt: str | None = "a man", **arguments: Any) -> Tensor:
    """Three steps from fixed noise: latents (1,4,8,8)."""
    common = {"num_inference_steps": 3, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    images: Tensor = pipe(prompt, **(common | arguments)).images
    return images


def test_prompts_are_encoded_as_by_diffusers(base: Base) -> None:
    plain = build_diffusers_pipeline(base)
    # The end token of the second text encoder is read even where its config names another, as diffusers does.
    prompts, negatives = ["a man", "an old woman"], ["ugly", "blue"]
    expected = plain.encode_prompt(prompts, device=base.device, negative_prompt=negatives)
    found = encode_prompt(base, prompts, negatives)
    for conditions, embeds, pooled in ((found.positive, *expected[::2]), (found.negative, *expected[1::2])):
        assert conditions.prompt_embeds.shape == (2, 77, WIDTH + SECOND_WIDTH)
        torch.testing.assert_close(conditions.prompt_embeds, embeds)
        torch.testing.assert_close(conditions.add_text_embeds, pooled)
        assert conditions.add_time_ids is not None
        assert conditions.add_time_ids.tolist() == [[RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION]] * 2
    empty = encode_prompt(base, "a man").negative
    assert empty.add_text_embeds is not None
    assert not empty.prompt_embeds.any()
    assert not empty.add_text_embeds.any()


def test_the_vae_that_overflows_in_half_precision_stays_float32(
    pipe: FaceStylizationXLPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "checkpoint")
    loaded = FaceStylizationXLPipeline.from_pretrained(tmp_path / "checkpoint", dtype=torch.float16)
    with pytest.raises(ValueError, match="strength"):
        paint(loaded, face=torch.zeros(1, 3, RESOLUTION, RESOLUTION), strength=2.0)
    assert loaded.vae.dtype == torch.float16  # a call that is refused changes nothing
    assert paint(loaded).isfinite().all()
    for halved in (pipe.to(torch.float16), loaded):
        assert (halved.vae.dtype, halved.unet.dtype) == (torch.float32, torch.float16)


def test_the_bare_pipeline_is_that_of_diffusers(pipe: FaceStylizationXLPipeline, base: Base) -> None:
    plain = build_diffusers_pipeline(base)
    plain.set_progress_bar_config(disable=True)
    sizes: list[dict[str, Any]] = [{}, {"height": RESOLUTION, "width": 2 * RESOLUTION}]
    for size in sizes:
        latents = torch.cat([draw_start()] * (2 if size else 1), dim=3)
        arguments = {"latents": latents, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
        expected = plain("a man", **arguments, **size).images
        torch.testing.assert_close(pipe("a man", **arguments, **size).images, expected, atol=1e-5, rtol=1e-4)


def test_a_style_goes_in_and_out_bit_exactly(pipe: FaceStylizationXLPipeline, base: Base) -> None:
    face = torch.rand(1, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0)) * 2 - 1
    modules = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    state = {(part, name): t.clone() for part, one in modules.items() for name, t in one.state_dict().items()}
    style = make_fitted(base)
    before = paint(pipe, face=face), paint(pipe, "a man in a style", guidance_scale=2.0)
    pipe.load_style(style)
    assert not torch.allclose(paint(pipe, face=face), before[0], atol=1e-4)
    assert torch.equal(paint(pipe, guidance_scale=2.0, style_scale=0.0), before[1])
    pipe.unload_style()
    after = {(part, name): t for part, one in modules.items() for name, t in one.state_dict().items()}
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(paint(pipe, face=face), before[0])


@pytest.mark.parametrize("part", ["token.offset", "token_2.offset"])
def test_the_pseudo_word_stands_in_both_text_encoders(pipe: FaceStylizationXLPipeline, base: Base, part: str) -> None:
    style = make_fitted(base)
    assert style.tensors["token.offset"].shape == (1, WIDTH)
    assert style.tensors["token_2.offset"].shape == (1, SECOND_WIDTH)
    pipe.load_style(style)
    first = paint(pipe)
    pipe.load_style(Style(style.tensors | {part: -style.tensors[part]}, style.metadata))
    assert not torch.equal(paint(pipe), first)


def test_the_pooled_vector_is_read_at_the_end_of_the_text(base: Base) -> None:
    """A pseudo-word has a larger id than the end token, which old configs make an encoder look for."""
    expected = encode_ids(base, tokenize_all(base.tokenizers, "a man in a style")).add_text_embeds
    model = build_style_model(
        base, make_style_embeds(), afun=None, cfun=None, initializer_word="a", generator=torch.Generator()
    )
    found = model.encode_prompt(model.tokenize("a man in <style> style")).add_text_embeds
    model.eject()
    assert found is not None
    assert found.shape == (1, POOLED_WIDTH)
    torch.testing.assert_close(found, expected)


def test_callbacks_see_and_change_the_added_conditions(pipe: FaceStylizationXLPipeline) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def note(own: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.update({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {"add_text_embeds": torch.zeros_like(tensors["add_text_embeds"])}

    names = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]
    changed = paint(pipe, guidance_scale=2.0, callback_on_step_end=note, callback_on_step_end_tensor_inputs=names)
    assert seen["add_text_embeds"] == (2, POOLED_WIDTH)
    assert seen["add_time_ids"] == (2, 6)
    assert not torch.equal(changed, paint(pipe, guidance_scale=2.0))
    cutoff = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    assert paint(pipe, guidance_scale=5.0, callback_on_step_end=cutoff).isfinite().all()


def test_each_base_has_its_pipeline(base: Base) -> None:
    with pytest.raises(BaseFamilyMismatchError, match="use FaceStylizationXLPipeline or acfun"):
        FaceStylizationPipeline.from_base(base)
    with pytest.raises(BaseFamilyMismatchError, match="use FaceStylizationPipeline"):
        FaceStylizationXLPipeline.from_base(make_tiny_base())


def test_custom_pipeline_loads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_tiny_checkpoint(tmp_path / "checkpoint", family="sdxl", prediction_type="epsilon")
    pipe = DiffusionPipeline.from_pretrained(
        tmp_path / "checkpoint", custom_pipeline=face_stylization_xl.__file__, trust_remote_code=True
    )
    assert type(pipe).__name__ == "FaceStylizationXLPipeline"
    loaded = load_base(tmp_path / "checkpoint")
    assert pipe.base.fingerprint == loaded.fingerprint
    style = make_fitted(loaded)
    pipe.load_style(style)
    styled = paint(pipe)
    pipe.unload_style()
    assert not torch.equal(paint(pipe), styled)
    pipe.save_pretrained(tmp_path / "saved")
    assert load_base(tmp_path / "saved").fingerprint == loaded.fingerprint


def test_from_pipe_shares_modules(pipe: FaceStylizationXLPipeline, base: Base) -> None:
    plain = StableDiffusionXLPipeline.from_pipe(pipe)
    ours = FaceStylizationXLPipeline.from_pipe(plain)
    assert ours.text_encoder_2 is pipe.text_encoder_2
    assert ours.base.family == "sdxl"
    pipe.load_style(make_fitted(base))
    with pytest.raises(RuntimeError, match="from_pipe"):
        FaceStylizationXLPipeline.from_pipe(pipe)


def test_a_lora_of_diffusers_works_beside_a_style(pipe: FaceStylizationXLPipeline, base: Base, tmp_path: Path) -> None:
    style, plain = make_fitted(base), paint(pipe)
    unet = make_xl_base().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.5, generator=generator)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe.load_style(style)
    styled = paint(pipe)
    with pytest.raises(RuntimeError, match="load_lora_weights"):
        pipe.load_lora_weights(tmp_path)
    pipe.unload_style()
    pipe.load_lora_weights(tmp_path)
    pipe.load_style(style)
    assert not torch.allclose(paint(pipe), styled, atol=1e-3)
    pipe.unload_style()
    pipe.unload_lora_weights()
    torch.testing.assert_close(paint(pipe), plain)


def test_a_textual_inversion_is_read_by_both_text_encoders(
    pipe: FaceStylizationXLPipeline, base: Base, tmp_path: Path
) -> None:
    style, generator = make_fitted(base), torch.Generator().manual_seed(0)
    plain = paint(pipe, "a <new> man")
    for width, (encoder, tokenizer) in zip(
        (WIDTH, SECOND_WIDTH), (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")), strict=True
    ):
        save_file({"<new>": torch.randn(1, width, generator=generator)}, tmp_path / "new.safetensors")
        parts = {"text_encoder": getattr(pipe, encoder), "tokenizer": getattr(pipe, tokenizer)}
        pipe.load_textual_inversion(tmp_path / "new.safetensors", **parts)
    assert not torch.allclose(paint(pipe, "a <new> man"), plain, atol=1e-3)
    pipe.load_style(style)
    assert not torch.equal(paint(pipe, "a <new> man"), paint(pipe, "a man"))


def test_an_ip_adapter_works_beside_a_style(pipe: FaceStylizationXLPipeline, base: Base) -> None:
    style = make_fitted(base)
    pipe.load_ip_adapter(make_ip_adapter(pipe.unet), subfolder="", weight_name="")
    pipe.load_style(style)
    prompts = [Image.new("RGB", (32, 32), colour) for colour in ("red", "black")]
    face = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    for arguments in ({"guidance_scale": 1.0}, {"face": face, "guidance_scale": 3.0}):
        red, black = (paint(pipe, ip_adapter_image=prompt, **arguments) for prompt in prompts)
        assert not torch.equal(red, black)


def test_a_style_acts_in_a_controlnet_pipeline_of_diffusers(pipe: FaceStylizationXLPipeline, base: Base) -> None:
    style, controlnet = (
        make_fitted(base),
        ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 8)),
    )
    pipe.load_style(style)
    embeds = pipe.embed_prompt("a man")
    assert embeds["negative_pooled_prompt_embeds"].shape == embeds["pooled_prompt_embeds"].shape == (1, POOLED_WIDTH)
    arguments: dict[str, Any] = {"guidance_scale": 2.0, "latents": draw_start()}
    control = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    controlled = StableDiffusionXLControlNetPipeline.from_pipe(pipe, controlnet=controlnet)
    controlled.set_progress_bar_config(disable=True)
    # A fresh ControlNet changes nothing.
    found = paint(controlled, None, image=control, **arguments, **embeds)
    torch.testing.assert_close(found, paint(pipe, **arguments), atol=1e-4, rtol=1e-3)


def test_a_vae_that_needs_it_stays_in_float32(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "sdxl", family="sdxl")
    base = load_base(tmp_path / "sdxl", dtype=torch.float16)
    assert (base.unet.dtype, base.text_encoder.dtype, base.vae.dtype) == (torch.float16, torch.float16, torch.float32)
    assert load_base(tmp_path / "sdxl", dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    image = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    assert decode_latents(base.vae, encode_latents(base.vae, image)).dtype == torch.float32
