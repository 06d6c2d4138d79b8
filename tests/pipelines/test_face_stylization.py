"""The pipeline on a tiny base: styles go in and out without a trace, and what diffusers loads still loads."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.utils import dynamic_modules_utils
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from acfun.base import Base, load_base
from acfun.cfun.affine import AffineBlock
from acfun.errors import BaseFamilyMismatchError, FaceModelError, StyleFileError
from acfun.portrait import Portrait, StyleImage, place_mean_face
from acfun.style import Style
from pipelines import face_stylization
from pipelines.face_stylization import FaceStylizationPipeline
from tests.fitting import build_identity_encoder
from tests.packs import write_recognition
from tests.pipelines.tools import make_style, paint, snapshot
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, RESOLUTION, WIDTH, make_tiny_base
from tests.tiny import save_tiny_checkpoint as save_checkpoint
from tests.tools import make_ip_adapter


def test_a_style_goes_in_and_out_bit_exactly(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    styles = [make_style(base, variant=variant) for variant in ("std_affine", "lora")]
    before, state = paint(pipe, face=face), snapshot(pipe)
    for style in styles:
        pipe.load_style(style)
        assert not torch.allclose(paint(pipe, face=face), before, atol=0.01)
    pipe.unload_style()
    pipe.unload_style()
    after = snapshot(pipe)
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(paint(pipe, face=face), before)


def test_style_scale_zero_is_the_base(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    """The pseudo-word then means the word that it started from."""
    expected = paint(pipe, "a man in a style", face=face, guidance_scale=2.0)
    pipe.load_style(make_style(base))
    for prompt in ("a man", "a man in <style> style"):
        assert torch.equal(paint(pipe, prompt, face=face, guidance_scale=2.0, style_scale=0.0), expected)
    full = paint(pipe, face=face, guidance_scale=2.0)
    assert not torch.allclose(full, expected, atol=0.01)
    assert torch.equal(paint(pipe, face=face, guidance_scale=2.0), full)


def test_each_scale_acts(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    pipe.load_style(make_style(base))
    results = [
        paint(pipe, face=face),
        paint(pipe, face=face, style_scale=0.5),
        paint(pipe, face=face, structure_scale=0.0),
        paint(pipe, face=face, color_scale=0.0),
    ]
    pairs = [(first, second) for index, first in enumerate(results) for second in results[:index]]
    assert not any(torch.equal(first, second) for first, second in pairs)


def test_every_vector_of_the_pseudo_word_is_read(pipe: FaceStylizationPipeline, base: Base) -> None:
    style = make_style(base, num_vectors=2)
    pipe.load_style(style)
    first = paint(pipe)
    changed = dict(style.tensors) | {"token.offset": style.tensors["token.offset"] * torch.tensor([[1.0], [-1.0]])}
    pipe.load_style(Style(changed, style.metadata))
    assert not torch.equal(paint(pipe), first)


def test_seeds_decide(pipe: FaceStylizationPipeline, face: Tensor) -> None:
    sampled: list[dict[str, Any]] = [{}, {"face": face, "invert_face": False}, {"face": face, "eta": 1.0}]
    for arguments in sampled:
        first = paint(pipe, **arguments)
        assert torch.equal(paint(pipe, **arguments), first)
        assert not torch.equal(paint(pipe, seed=1, **arguments), first)
    assert torch.equal(paint(pipe, face=face), paint(pipe, face=face, seed=1))  # inversion needs no noise


def test_a_batch_is_its_parts(pipe: FaceStylizationPipeline, face: Tensor) -> None:
    faces = torch.cat([face, -face])
    prompts = ["a man", "an old woman"]
    together = paint(pipe, prompts, face=faces, negative_prompt=["blue", "red"], guidance_scale=2.0)
    for index, (prompt, negative) in enumerate(zip(prompts, ("blue", "red"), strict=True)):
        part = faces[index : index + 1]
        alone = paint(pipe, prompt, face=part, negative_prompt=negative, guidance_scale=2.0)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=0)
    twice = paint(pipe, prompts, face=face, num_images_per_prompt=2)
    assert twice.shape[0] == 4
    torch.testing.assert_close(twice[0], twice[1])
    assert not torch.allclose(twice[1], twice[2], atol=1e-3)


def test_faces_may_be_pictures_of_any_size(pipe: FaceStylizationPipeline) -> None:
    picture = Image.new("RGB", (48, 40), "teal")
    one = pipe(face=picture, num_inference_steps=2).images
    two = pipe(face=[picture, picture], num_inference_steps=2).images
    assert [image.size for image in (*one, *two)] == [(40, RESOLUTION)] * 3
    assert pipe(face=picture, num_inference_steps=2, width=RESOLUTION).images[0].size == (RESOLUTION, RESOLUTION)
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        pipe(face=torch.zeros(3, 32, 32))


def test_latents_go_in_and_out(pipe: FaceStylizationPipeline) -> None:
    start = torch.randn(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    latents = paint(pipe, latents=start, output_type="latent")
    assert latents.shape == start.shape
    assert torch.equal(paint(pipe, latents=start, output_type="latent", seed=1), latents)
    assert torch.equal(paint(pipe, output_type="latent"), latents)  # the same seed draws the same start


def test_arguments_without_meaning_are_refused(pipe: FaceStylizationPipeline, face: Tensor) -> None:
    latents = torch.zeros(1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("exclude each other", {"face": face, "latents": latents}),
        (r"\(1, 2, 2\)", {"face": face, "face_landmarks": torch.zeros(1, 2, 2)}),
        (r"face_regions .*\(B,6,32,32\)", {"face": face, "face_regions": torch.zeros(1, 6, 16, 16)}),
        ("strength", {"face": face, "strength": 0.0}),
        ("3 prompts", {"prompt": ["a"] * 3, "face": torch.cat([face, face])}),
        ("2 negative prompts", {"negative_prompt": ["a", "b"]}),
        ("timestep", {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["timestep"]}),
        ("height is 33", {"face": face, "height": 33}),
        ("width is 0", {"width": 0}),
        ("num_images_per_prompt is 0", {"num_images_per_prompt": 0}),
        ("0 prompts", {"prompt": []}),
        ("leaves none", {"num_inference_steps": -2}),
        ("guidance_scale is 0.5: 1 switches it off", {"guidance_scale": 0.5}),
        ("enlargement is 0", {"enlargement": 0}),
    ]
    scales = ("style_scale", "structure_scale", "color_scale", "imagery_scale", "identity_scale", "backdrop_scale")
    refused += [(f"{name} is -1: 0 does without", {name: -1}) for name in (*scales, "num_guide_steps")]
    refused += [("style_scale is nan", {"style_scale": math.nan})]
    for message, arguments in refused:
        with pytest.raises(ValueError, match=message):
            pipe(**({"num_inference_steps": 2} | arguments))


def test_an_empty_prompt_is_not_the_default_one(pipe: FaceStylizationPipeline) -> None:
    assert torch.equal(paint(pipe, None), paint(pipe, face_stylization.DEFAULT_PROMPT))
    assert not torch.equal(paint(pipe, ""), paint(pipe, None))


@pytest.mark.parametrize("sides", [(36, 32), (44, 36)])
def test_sides_are_multiples_of_the_vaes_factor_alone(
    pipe: FaceStylizationPipeline, base: Base, face: Tensor, sides: tuple[int, int]
) -> None:
    """The UNet halves latents, and makes odd ones whole again."""
    pipe.load_style(add_picture(make_style(base), draw_red()))
    size = dict(zip(("height", "width"), sides, strict=True))
    landmarks = place_mean_face(RESOLUTION)[None]
    faces: list[dict[str, Any]] = [{}, {"face": face, "face_landmarks": landmarks}]
    for arguments in faces:
        assert paint(pipe, **arguments, **size).shape == (1, 3, *sides)


def test_callbacks_see_and_change_what_diffusers_lets_them(pipe: FaceStylizationPipeline) -> None:
    calls: list[tuple[int, int, dict[str, tuple[int, ...]]]] = []

    def note(own: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert own is pipe
        assert own.num_timesteps == 3
        calls.append((index, int(timestep), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        return {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    arguments: dict[str, Any] = {"guidance_scale": 2.0, "callback_on_step_end_tensor_inputs": names}
    plain = paint(pipe, callback_on_step_end=note, **arguments)
    assert [index for index, _, _ in calls] == [0, 1, 2]
    assert [timestep for _, timestep, _ in calls] == pipe.scheduler.timesteps.tolist()
    assert calls[0][2]["prompt_embeds"] == (2, 77, WIDTH)
    assert calls[0][2]["negative_prompt_embeds"] == (1, 77, WIDTH)
    assert torch.equal(paint(pipe, guidance_scale=2.0), plain)

    def silence(own: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])} if index == 0 else tensors

    assert not torch.equal(paint(pipe, callback_on_step_end=silence, **arguments), plain)

    def erase(own: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not paint(pipe, callback_on_step_end=erase, output_type="latent").any()


def test_callbacks_can_stop_and_end_guidance(pipe: FaceStylizationPipeline) -> None:
    indices: list[int] = []

    def stop(own: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        indices.append(index)
        own._interrupt = index == 1
        return tensors

    paint(pipe, callback_on_step_end=stop)
    assert indices == [0, 1]
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    cut = paint(pipe, guidance_scale=5.0, callback_on_step_end=cutoff)
    assert not torch.equal(cut, paint(pipe, guidance_scale=5.0))


def draw_red() -> Tensor:
    noise = torch.randn(1, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))
    return torch.tensor([0.9, -0.7, -0.8]).view(1, 3, 1, 1) + 0.1 * noise


def add_picture(style: Style, picture: Tensor) -> Style:
    """The style with a style image, which guides sampling."""
    image = StyleImage.from_picture(picture.clamp(-1, 1), RESOLUTION, None)
    return replace(style, tensors=style.tensors | {f"image.{k}": t for k, t in image.to_tensors().items()})


def test_another_identity_encoder_guides_to_another_picture(
    pipe: FaceStylizationPipeline, base: Base, face: Tensor, tmp_path: Path
) -> None:
    build_identity_encoder().save_pretrained(tmp_path / "ours")
    pipe.load_style(add_picture(make_style(base), draw_red()))
    arguments: dict[str, Any] = {"face": face, "face_landmarks": place_mean_face(RESOLUTION)[None]}
    own = paint(pipe, **arguments)
    with pytest.raises(FaceModelError, match="no such folder"):
        pipe.use_identity_encoder(tmp_path / "nowhere")
    assert torch.equal(paint(pipe, **arguments), own)
    pipe.use_identity_encoder(tmp_path / "ours")
    other = paint(pipe, **arguments)
    assert not torch.equal(other, own)
    pipe.use_identity_encoder("mini")
    assert torch.equal(paint(pipe, **arguments), own)


def test_regions_that_are_known_are_not_looked_for(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    pipe.load_style(add_picture(make_style(base), draw_red()))
    landmarks = place_mean_face(RESOLUTION)[None]
    found = Portrait(face, landmarks).regions
    assert found is not None
    arguments: dict[str, Any] = {"face": torch.cat([face, face]), "prompt": ["a person"] * 2}
    own = paint(pipe, face_landmarks=landmarks, **arguments)
    assert torch.equal(paint(pipe, face_landmarks=landmarks, face_regions=found, **arguments), own)
    assert not torch.equal(paint(pipe, face_landmarks=landmarks, face_regions=found.flip(1), **arguments), own)
    with pytest.raises(ValueError, match="face_regions has 3 rows for 2 faces"):
        paint(pipe, face_landmarks=landmarks, face_regions=found.expand(3, -1, -1, -1), **arguments)


def test_a_pack_guides_too(pipe: FaceStylizationPipeline, base: Base, face: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pipe.load_style(add_picture(make_style(base), draw_red()))
    arguments: dict[str, Any] = {"face": face, "face_landmarks": place_mean_face(RESOLUTION)[None]}
    own = paint(pipe, **arguments)
    pipe.use_identity_encoder(write_recognition(tmp_path / "w600k_r50.onnx"))
    assert not torch.equal(paint(pipe, **arguments), own)


def test_a_style_image_is_painted_with_and_a_guide_changes_the_picture(
    pipe: FaceStylizationPipeline, base: Base, face: Tensor, tmp_path: Path
) -> None:
    plain = make_style(base)
    pipe.load_style(plain)
    arguments: dict[str, Any] = {"face": face, "face_landmarks": place_mean_face(RESOLUTION)[None]}
    assert torch.equal(paint(pipe, **arguments), paint(pipe, num_guide_steps=0, **arguments))  # no picture, no guide
    red = draw_red()
    pipe.load_style(add_picture(plain, red))
    person, unguided, guided = (
        paint(pipe, **dials, **arguments) for dials in ({"imagery_scale": 0.0}, {"num_guide_steps": 0}, {})
    )
    away, near, held = ((images * 2 - 1 - red).square().mean() for images in (person, unguided, guided))
    assert near < 0.1 * away
    assert held < 0.1 * away
    assert not torch.equal(unguided, guided)
    for wrong in ({"imagery_scale": -1.0}, {"num_guide_steps": -1}):
        with pytest.raises(ValueError, match="0 does without"):
            paint(pipe, **wrong, **arguments)
    two = paint(pipe, num_images_per_prompt=2, **arguments)
    assert two.shape[0] == 2
    kept, given_way = (paint(pipe, backdrop_scale=scale, **arguments) for scale in (0.0, 100.0))
    assert not torch.equal(kept, given_way)
    for imagery_scale in (1.0, 0.0):
        larger = paint(pipe, enlargement=2, imagery_scale=imagery_scale, **arguments)
        assert larger.shape == (1, 3, 2 * RESOLUTION, 2 * RESOLUTION)
    with pytest.raises(ValueError, match="enlargement is 0"):
        paint(pipe, enlargement=0, **arguments)
    pipe.unload_style()


def test_a_style_for_another_base_changes_nothing(pipe: FaceStylizationPipeline, base: Base) -> None:
    pipe.load_style(make_style(base))
    expected = paint(pipe)
    with pytest.raises(BaseFamilyMismatchError):
        pipe.load_style(make_style(make_tiny_base(seed=1)))
    assert torch.equal(paint(pipe), expected)


def test_a_damaged_style_leaves_the_former_one_in(pipe: FaceStylizationPipeline, base: Base) -> None:
    style = make_style(base)
    pipe.load_style(style)
    expected = paint(pipe)
    damaged = replace(style, tensors={name: part for name, part in style.tensors.items() if name != "style_embeds"})
    with pytest.raises(StyleFileError, match="damaged"):
        pipe.load_style(damaged)
    assert pipe.style is style
    assert torch.equal(paint(pipe), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_move_that_fails_keeps_the_style(pipe: FaceStylizationPipeline, base: Base) -> None:
    style = make_style(base)
    pipe.load_style(style)
    expected = paint(pipe)
    with pytest.raises((AssertionError, RuntimeError)):
        pipe.to("cuda")
    assert pipe.style is style
    assert torch.equal(paint(pipe), expected)


def test_a_pipeline_is_not_offloaded(pipe: FaceStylizationPipeline) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"model_cpu": (), "sequential_cpu": (), "group": (torch.device("cpu"),)}
    for kind, given in arguments.items():
        with pytest.raises(RuntimeError, match=r"pipe\.to"):
            getattr(pipe, f"enable_{kind}_offload")(*given)


def test_a_style_is_recognised_after_rounding_and_a_rounded_checkpoint_is_explained(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint")
    style = make_style(load_base(tmp_path / "checkpoint"))
    pipe = FaceStylizationPipeline.from_pretrained(tmp_path / "checkpoint").to(torch.bfloat16)
    pipe.load_style(style)
    assert pipe.style is style
    rounded = FaceStylizationPipeline.from_pretrained(tmp_path / "checkpoint", dtype=torch.bfloat16)
    with pytest.raises(BaseFamilyMismatchError, match="load them in float32"):
        rounded.load_style(style)


def test_a_checkpoint_is_the_same_base_for_pipeline_and_load_base(tmp_path: Path, base: Base) -> None:
    save_checkpoint(tmp_path / "checkpoint")
    pipe = FaceStylizationPipeline.from_pretrained(tmp_path / "checkpoint")
    assert pipe.base.fingerprint == load_base(tmp_path / "checkpoint").fingerprint
    assert pipe.base.resolution == RESOLUTION
    style = make_style(load_base(tmp_path / "checkpoint"))
    style.save(tmp_path / "style.safetensors")
    pipe.load_style(tmp_path / "style.safetensors")
    with pytest.raises(RuntimeError, match="unload_style"):
        pipe.save_pretrained(tmp_path / "saved")
    pipe.unload_style()
    pipe.save_pretrained(tmp_path / "saved")
    assert load_base(tmp_path / "saved").fingerprint == pipe.base.fingerprint


def test_from_pipe_shares_modules_and_fingerprint(pipe: FaceStylizationPipeline, base: Base) -> None:
    style = make_style(base)
    other = FaceStylizationPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet
    assert other.base.fingerprint == base.fingerprint
    other.load_style(style)
    with pytest.raises(RuntimeError, match="from_pipe"):
        FaceStylizationPipeline.from_pipe(other)
    other.unload_style()
    plain = StableDiffusionPipeline.from_pipe(pipe)
    assert FaceStylizationPipeline.from_pipe(plain).base.family == "mini"


def test_a_style_moves_with_the_pipeline(pipe: FaceStylizationPipeline, base: Base) -> None:
    pipe.load_style(make_style(base))
    expected = paint(pipe)
    moved = pipe.to(torch.bfloat16)
    assert moved is pipe
    assert pipe.unet.dtype == torch.bfloat16
    assert {
        p.dtype for module in pipe.unet.modules() if isinstance(module, AffineBlock) for p in module.affine.parameters()
    } == {torch.float32}
    found = paint(pipe)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    pipe.unload_style()
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.bfloat16}
    assert not torch.allclose(paint(pipe), expected, atol=0.02)


def test_custom_pipeline_loads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_checkpoint(tmp_path / "checkpoint")
    pipe = DiffusionPipeline.from_pretrained(
        tmp_path / "checkpoint", custom_pipeline=face_stylization.__file__, trust_remote_code=True
    )
    assert type(pipe).__name__ == "FaceStylizationPipeline"
    base = load_base(tmp_path / "checkpoint")
    pipe.load_style(make_style(base))
    assert paint(pipe).shape == (1, 3, RESOLUTION, RESOLUTION)


def test_a_textual_inversion_is_read_in_prompts(pipe: FaceStylizationPipeline, base: Base, tmp_path: Path) -> None:
    style = make_style(base)
    word = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"<new>": word}, tmp_path / "new.safetensors")
    plain = paint(pipe, "a <new> man")
    pipe.load_textual_inversion(tmp_path / "new.safetensors")
    inverted = paint(pipe, "a <new> man")
    assert not torch.allclose(inverted, plain, atol=1e-3)
    save_file({"<first>": word[0]}, tmp_path / "first.safetensors")
    pipe.load_textual_inversion(tmp_path / "first.safetensors")
    assert not torch.equal(paint(pipe, "a <first> man"), inverted)  # the second vector was read too
    pipe.load_style(style)
    assert not torch.equal(paint(pipe, "a <new> man"), paint(pipe, "a man"))
    with pytest.raises(RuntimeError, match="load_textual_inversion"):
        pipe.load_textual_inversion(tmp_path / "new.safetensors")


def test_an_ip_adapter_works_beside_a_style(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    style = make_style(base)
    pipe.load_ip_adapter(make_ip_adapter(pipe.unet), subfolder="", weight_name="")
    pipe.load_style(style)
    prompts = [Image.new("RGB", (32, 32), colour) for colour in ("red", "black")]
    for arguments in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0}, {"face": face, "guidance_scale": 3.0}):
        red, black = (paint(pipe, ip_adapter_image=prompt, **arguments) for prompt in prompts)
        assert not torch.equal(red, black)


def test_a_style_acts_in_a_controlnet_pipeline_of_diffusers(pipe: FaceStylizationPipeline, base: Base) -> None:
    style, controlnet = (
        make_style(base),
        ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 8)),
    )
    torch.nn.init.normal_(controlnet.controlnet_mid_block.weight)
    control = torch.rand(1, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))
    results = []
    for loaded in (None, style):
        if loaded is not None:
            pipe.load_style(loaded)
        embeds: dict[str, Any] = pipe.embed_prompt("a man", "blue")
        plain = paint(pipe, guidance_scale=2.0, negative_prompt="blue")
        ours = paint(StableDiffusionPipeline.from_pipe(pipe), None, guidance_scale=2.0, **embeds)
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=0)  # without a ControlNet it paints as here
        controlled = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=controlnet)
        results += [plain, paint(controlled, None, image=control, guidance_scale=2.0, **embeds)]
    pairs = [(first, second) for index, first in enumerate(results) for second in results[:index]]
    assert not any(torch.allclose(first, second, atol=1e-3) for first, second in pairs)


@pytest.mark.parametrize("variant", ["std_affine", "lora"])
def test_a_bfloat16_base_serves_a_controlnet_pipeline_too(variant: str) -> None:
    """diffusers casts what two pipelines share, and a style that is in it; one loaded afterwards stays float32."""
    base = make_tiny_base(dtype=torch.bfloat16)
    pipe, style = FaceStylizationPipeline.from_base(base), make_style(base, variant=variant)
    controlnet = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 8))
    control = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    results = []
    for styles in ((), (style, style)):
        for loaded in styles[:1]:
            pipe.load_style(loaded)
        options = {"controlnet": controlnet, "dtype": pipe.unet.dtype}
        controlled = StableDiffusionControlNetPipeline.from_pipe(pipe, **options)
        assert pipe.unet.dtype == torch.bfloat16
        for loaded in (None, *styles[1:]):
            if loaded is not None:
                pipe.load_style(loaded)
                assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16, torch.float32}
            embeds = pipe.embed_prompt("a man")
            results.append(paint(controlled, None, image=control, guidance_scale=2.0, **embeds))
    plain, cast, precise = results
    assert not torch.allclose(cast, plain, atol=0.02)
    torch.testing.assert_close(cast, precise, atol=0.05, rtol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may run here")
def test_without_xformers_attention_goes_on(pipe: FaceStylizationPipeline) -> None:
    before = paint(pipe)
    with pytest.warns(UserWarning, match="xformers cannot be used"):
        pipe.enable_xformers_memory_efficient_attention()
    assert torch.equal(paint(pipe), before)
