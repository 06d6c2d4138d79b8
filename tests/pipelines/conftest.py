"""A pipeline around a tiny base, and a face to paint."""

import pytest
import torch
from torch import Tensor

from acfun.base import Base
from pipelines.face_stylization import FaceStylizationPipeline
from tests.tiny import RESOLUTION, make_tiny_base


@pytest.fixture
def base() -> Base:
    return make_tiny_base()


@pytest.fixture
def pipe(base: Base) -> FaceStylizationPipeline:
    pipe: FaceStylizationPipeline = FaceStylizationPipeline.from_base(base)
    return pipe


@pytest.fixture
def face() -> Tensor:
    return torch.rand(1, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0)) * 2 - 1
