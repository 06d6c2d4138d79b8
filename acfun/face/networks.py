"""The two small convolutional networks of the face finder: where faces are, and where their landmarks lie.

Both speak of a face's pose as a similarity of a unit frame: a square of width one that holds the mean shape
with its pupils where the canonical portrait framing has them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_LANDMARKS = 189
DETECTOR_STRIDE = 8
DETECTOR_OUTPUTS = 5
REFERENCE_WIDTH = 64.0
REGRESSOR_STRIDE = 16
_HEAT_PRIOR_LOGIT = -4.0
_MAX_LOG_WIDTH = 4.0
# Landmarks lie a few hundredths of a width from the mean shape; the layer's outputs should be of order one.
_OFFSET_SCALE = 0.05


class PoseMaps(NamedTuple):
    """What the detector says of each cell of its grid, (B,h,w) each.

    heat: logit of a face's centre. x, y: that centre in pixels of the input. width: of the face's unit frame,
    pixels. angle: of the face, radians, positive clockwise in the image.
    """

    heat: Tensor
    x: Tensor
    y: Tensor
    width: Tensor
    angle: Tensor


class LandmarkPrediction(NamedTuple):
    """landmarks (B,189,2) in the unit frame; presence (B,) logit; log_error (B,), see `LandmarkRegressor`."""

    landmarks: Tensor
    presence: Tensor
    log_error: Tensor


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, kernel_size: int = 3) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualUnit(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self, channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B,C,h,w) → (B,C,h,w)."""
        residual = F.relu(self.norm1(self.conv1(hidden)))
        return F.relu(hidden + self.norm2(self.conv2(residual)))


class FaceDetector(nn.Module):
    """Single-shot detector on a grid of stride 8, after CenterNet (Zhou et al. 2019, https://arxiv.org/abs/1904.07850).

    Args:
        channels: of the three levels, at strides 2, 4 and 8.
        dilations: one residual unit at stride 8 for each.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 48), dilations: Sequence[int] = (1, 2, 4, 1)) -> None:
        super().__init__()
        first, second, third = channels
        self.backbone = nn.Sequential(
            ConvUnit(3, first, stride=2),
            ConvUnit(first, second, stride=2),
            ConvUnit(second, second),
            ConvUnit(second, third, stride=2),
            *(ResidualUnit(third, dilation=dilation) for dilation in dilations),
        )
        self.head = nn.Sequential(ConvUnit(third, third), nn.Conv2d(third, DETECTOR_OUTPUTS, 1))
        output = self.head[-1]
        assert isinstance(output, nn.Conv2d) and output.bias is not None
        nn.init.normal_(output.weight, std=0.01)
        nn.init.zeros_(output.bias)
        with torch.no_grad():
            output.bias[0] = _HEAT_PRIOR_LOGIT

    def forward(self, image: Tensor) -> PoseMaps:
        """Look for faces in (B,3,H,W) in [-1,1]; H and W multiples of 8, faces about 25 to 200 px wide."""
        heat, shift_x, shift_y, log_width, angle = self.head(self.backbone(image)).float().unbind(1)
        columns = torch.arange(heat.shape[2], device=heat.device) + 0.5
        rows = torch.arange(heat.shape[1], device=heat.device) + 0.5
        return PoseMaps(
            heat=heat,
            x=(columns + shift_x) * DETECTOR_STRIDE - 0.5,
            y=(rows[:, None] + shift_y) * DETECTOR_STRIDE - 0.5,
            width=REFERENCE_WIDTH * log_width.clamp(-_MAX_LOG_WIDTH, _MAX_LOG_WIDTH).exp(),
            angle=angle,
        )


class LandmarkRegressor(nn.Module):
    """Regresses 189 landmarks, whether there is a face at all, and how far off the landmarks may be.

    `log_error` is the logarithm of the expected mean distance to the true landmarks, in widths of the unit frame.

    Args:
        channels: of the four levels, at strides 2, 4, 8 and 16.
        hidden_size: of the layer before the output.
        crop_size: width of the input, pixels; a multiple of 16.
        mean_shape: (189,2) in the unit frame, what an untrained network answers; zeros to be filled by loading.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        hidden_size: int = 128,
        crop_size: int = 96,
        mean_shape: Tensor | None = None,
    ) -> None:
        super().__init__()
        if crop_size % REGRESSOR_STRIDE:
            raise ValueError(f"crop_size={crop_size} is no multiple of {REGRESSOR_STRIDE}, the network's stride")
        self.crop_size = crop_size
        first, second, third, fourth = channels
        self.backbone = nn.Sequential(
            ConvUnit(3, first, stride=2),
            ConvUnit(first, second, stride=2),
            ResidualUnit(second),
            ConvUnit(second, third, stride=2),
            ResidualUnit(third),
            ResidualUnit(third),
            ConvUnit(third, fourth, stride=2),
            ResidualUnit(fourth),
            ConvUnit(fourth, second, kernel_size=1),
        )
        cells = (crop_size // REGRESSOR_STRIDE) ** 2
        self.hidden = nn.Sequential(
            nn.Linear(second * cells, hidden_size, bias=False), nn.BatchNorm1d(hidden_size), nn.ReLU()
        )
        self.output = nn.Linear(hidden_size, 2 * NUM_LANDMARKS + 2)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)
        shape = torch.zeros(NUM_LANDMARKS, 2) if mean_shape is None else mean_shape
        self.register_buffer("mean_shape", shape.clone())
        self.mean_shape: Tensor

    def forward(self, crop: Tensor) -> LandmarkPrediction:
        """Regress from crops (B,3,S,S) in [-1,1] that hold a face roughly in the canonical framing."""
        output = self.output(self.hidden(self.backbone(crop).flatten(1))).float()
        offsets = _OFFSET_SCALE * output[:, : 2 * NUM_LANDMARKS].unflatten(1, (NUM_LANDMARKS, 2))
        return LandmarkPrediction(self.mean_shape + offsets, output[:, -2], output[:, -1])
