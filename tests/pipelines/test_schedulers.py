"""Painting with every kind of scheduler of diffusers."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor

from acfun.base import Base
from pipelines.face_stylization import FaceStylizationPipeline
from tests.pipelines.tools import paint
from tests.tiny import build_diffusers_pipeline, make_tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # numpy in diffusers

SCHEDULERS = [
    DDIMScheduler,
    PNDMScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
]
every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: scheduler.__name__)


@every_scheduler
def test_text_is_painted_as_by_diffusers(pipe: FaceStylizationPipeline, scheduler: Any) -> None:
    plain: StableDiffusionPipeline = build_diffusers_pipeline(make_tiny_base())
    plain.set_progress_bar_config(disable=True)
    for one in (pipe, plain):
        one.scheduler = scheduler.from_config(one.scheduler.config)
    arguments: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 6, "output_type": "latent"}
    expected = paint(plain, **arguments)
    torch.testing.assert_close(paint(pipe, **arguments), expected, atol=1e-4, rtol=1e-4)


@every_scheduler
def test_other_schedulers_paint_too(pipe: FaceStylizationPipeline, face: Tensor, scheduler: Any) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    for invert_face in (True, False):
        image = paint(pipe, face=face, invert_face=invert_face, num_inference_steps=6)
        assert image.isfinite().all()


def test_a_face_is_not_painted_by_pndm(pipe: FaceStylizationPipeline, base: Base, face: Tensor) -> None:
    expected = paint(pipe, face=face)
    pndm = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = pndm
    assert torch.equal(paint(pipe, face=face), expected)
    assert pipe.scheduler is pndm
    with pytest.raises(ValueError, match="strength"):
        paint(pipe, face=face, strength=2.0)
    assert pipe.scheduler is pndm
