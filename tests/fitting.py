"""Small pictures, tiny real networks and a config, for tests of fitting."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from acfun.base import Base
from acfun.config import FitConfig
from acfun.face.finder import FaceFinder
from acfun.face.identity import IdentityEncoder
from acfun.fit import Progress, fit_style
from acfun.portrait import place_mean_face
from acfun.style import Style
from tests.tiny import RESOLUTION


def write_pictures(directory: Path) -> dict[str, Any]:
    """A painting and two photographs of soft noise; returns their paths as fields of `FitConfig`."""
    generator = np.random.default_rng(0)
    paths = []
    for name, (height, width) in {"painting": (72, 64), "first": (64, 64), "second": (64, 80)}.items():
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        paths.append(str(directory / f"{name}.png"))
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return {"style_path": paths[0], "face_paths": tuple(paths[1:])}


def make_config(directory: Path, **options: Any) -> FitConfig:
    """Two steps with pictures taken whole of the imagery objective."""
    common = {"objective": "imagery", "framing": "whole", "max_steps": 2, "cfun_rank": 4, "learning_rate": 1e-2}
    return FitConfig(**(write_pictures(directory) | common | options))


def build_identity_encoder() -> IdentityEncoder:
    """Random weights, frozen."""
    torch.manual_seed(0)
    return IdentityEncoder(stem_channels=4, channels=(4, 4, 8), head_channels=4, embedding_size=8).eval()


def build_face_finder() -> FaceFinder:
    """Random weights around the average face, frozen."""
    torch.manual_seed(0)
    mean_shape = (place_mean_face(RESOLUTION) + 0.5) / RESOLUTION
    finder = FaceFinder(
        detector_channels=(4, 4, 4),
        detector_dilations=(1,),
        regressor_channels=(4, 4, 4, 4),
        hidden_size=8,
        crop_size=32,
        mean_shape=mean_shape,
    )
    return finder.eval().requires_grad_(False)


def save(style: Style, path: Path) -> bytes:
    """Write a style; returns the bytes of its file."""
    style.save(path)
    return path.read_bytes()


def collect(config: FitConfig, base: Base) -> tuple[Style, list[Progress]]:
    """A fit, and what it reports."""
    reports: list[Progress] = []
    return fit_style(config, base=base, report=reports.append), reports
