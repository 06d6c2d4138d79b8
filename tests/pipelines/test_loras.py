"""LoRAs of diffusers beside a style: what diffusers does to them it does to them alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from acfun.base import Base, load_base
from pipelines.face_stylization import FaceStylizationPipeline
from tests.pipelines.tools import make_style, paint, snapshot, write_lora
from tests.tiny import make_tiny_base, save_tiny_checkpoint

NAME = "hers"


def test_a_lora_of_diffusers_works_beside_a_style(pipe: FaceStylizationPipeline, base: Base, tmp_path: Path) -> None:
    style, plain = make_style(base), paint(pipe)
    styled = FaceStylizationPipeline.from_base(make_tiny_base())
    styled.load_style(style)
    write_lora(tmp_path)
    pipe.load_lora_weights(tmp_path)
    assert not torch.allclose(paint(pipe), plain, atol=1e-3)
    torch.testing.assert_close(paint(pipe, cross_attention_kwargs={"scale": 0.0}), plain)
    pipe.load_style(style)
    both = paint(pipe)
    assert not torch.allclose(both, paint(styled), atol=1e-3)
    for action in (pipe.load_lora_weights, pipe.unload_lora_weights):
        with pytest.raises(RuntimeError, match=action.__name__):
            action()
    pipe.unload_style()
    pipe.unload_lora_weights()
    torch.testing.assert_close(paint(pipe), plain)


def test_a_style_is_recognised_after_a_lora(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "checkpoint")
    pipe = FaceStylizationPipeline.from_pretrained(tmp_path / "checkpoint")
    write_lora(tmp_path)
    pipe.load_lora_weights(tmp_path)
    pipe.load_style(make_style(load_base(tmp_path / "checkpoint")))


CALLS: dict[str, Callable[[Any], Any]] = {
    "set_adapters": lambda pipe: pipe.set_adapters([NAME], [0.5]),
    "disable_lora": lambda pipe: pipe.disable_lora(),
    "enable_lora": lambda pipe: (pipe.disable_lora(), pipe.enable_lora()),
    "delete_adapters": lambda pipe: pipe.delete_adapters(NAME),
    "fuse_lora": lambda pipe: pipe.fuse_lora(),
    "unfuse_lora": lambda pipe: (pipe.fuse_lora(lora_scale=0.5), pipe.unfuse_lora()),
}


def build_with_lora(directory: Path) -> FaceStylizationPipeline:
    pipe: FaceStylizationPipeline = FaceStylizationPipeline.from_base(make_tiny_base())
    pipe.load_lora_weights(directory, adapter_name=NAME)
    return pipe


@pytest.mark.parametrize("variant", ["std_affine", "lora"])
@pytest.mark.parametrize("name", CALLS)
def test_calls_for_loras_pass_the_style_by(base: Base, tmp_path: Path, name: str, variant: str) -> None:
    """A call has the same effect before a style is loaded and after, and the style goes out without a trace."""
    style = make_style(base, variant=variant)
    write_lora(tmp_path)
    before, after = build_with_lora(tmp_path), build_with_lora(tmp_path)
    CALLS[name](before)
    state, bare = snapshot(before), paint(before)
    before.load_style(style)
    after.load_style(style)
    CALLS[name](after)
    assert after.get_active_adapters() == before.get_active_adapters()
    styled = paint(before)
    assert not torch.allclose(styled, bare, atol=0.01)
    assert torch.equal(paint(after), styled)
    assert torch.equal(paint(after, style_scale=0.0), paint(before, style_scale=0.0))
    after.unload_style()
    found = snapshot(after)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


def test_calls_of_another_pipeline_pass_the_style_by(base: Base, tmp_path: Path) -> None:
    style = make_style(base, variant="lora")
    write_lora(tmp_path)
    pipe = build_with_lora(tmp_path)
    pipe.load_style(style)
    StableDiffusionPipeline.from_pipe(pipe).delete_adapters(NAME)
    found = paint(pipe)
    alone = FaceStylizationPipeline.from_base(base)
    alone.load_style(style)
    assert torch.equal(found, paint(alone))


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_scale_of_a_call_is_that_of_the_lora_alone(base: Base, tmp_path: Path, face: Tensor, scale: float) -> None:
    """It acts on the LoRA while a face is inverted, too."""
    style = make_style(base, variant="lora")
    write_lora(tmp_path)
    pipe, weighed = build_with_lora(tmp_path), build_with_lora(tmp_path)
    weighed.set_adapters([NAME], [scale])
    faces: list[dict[str, Any]] = [{}, {"face": face}]
    for loaded in (None, style):
        for one in (pipe, weighed) if loaded else ():
            one.load_style(loaded)
        for arguments in faces:
            found = paint(pipe, cross_attention_kwargs={"scale": scale}, **arguments)
            torch.testing.assert_close(found, paint(weighed, **arguments), atol=1e-5, rtol=0)
            assert not torch.allclose(found, paint(pipe, **arguments), atol=1e-3)
