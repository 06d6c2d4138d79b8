"""What a network makes of the parts of a photographed portrait: face, hair, body and background.

Colours alone cannot tell a dark tree from dark hair, nor a fair lock from a fair coat; what people look like can. The
network says about where parts are, as landmarks do, and `acfun.face.segmentation` draws their edges.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acfun.face.align import place_pupils, scale_points, transform_points, warp
from acfun.face.networks import ConvUnit, ResidualUnit
from acfun.face.storage import StoredModule
from acfun.paths import mini_dir

PARTS = ("face", "hair", "body", "background")
PUPIL_FRACTION = 0.125  # from pupil to pupil, as a share of the crop
EYES_CENTRE = (0.5, 0.4)
OUTSIDE = (0.0, 0.0, 0.5, 0.5)  # what parts are outside the crop
SEGMENTER_STRIDE = 16


class PortraitSegmenter(StoredModule):
    """A small U-Net (Ronneberger et al. 2015) on crops that show head and shoulders.

    Args:
        channels: of the four levels, at strides 2, 4, 8 and 16.
        dilations: of the residual units at the coarsest level.
        crop_size: width of the input, pixels; a multiple of 16.
    """

    kind, script = "segmenter", "train/pretrain_segmenter.py"

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 24, 48, 64),
        dilations: Sequence[int] = (1, 2, 3),
        crop_size: int = 160,
    ) -> None:
        super().__init__()
        if crop_size % SEGMENTER_STRIDE:
            raise ValueError(f"crop_size={crop_size} is no multiple of {SEGMENTER_STRIDE}, the network's stride")
        self.config = {"channels": list(channels), "dilations": list(dilations), "crop_size": crop_size}
        self.crop_size = crop_size
        first, second, third, fourth = channels
        self.stem = ConvUnit(3, first, stride=2)
        self.down = nn.ModuleList(
            [
                nn.Sequential(ConvUnit(first, second, stride=2), ResidualUnit(second)),
                nn.Sequential(ConvUnit(second, third, stride=2), ResidualUnit(third)),
                nn.Sequential(
                    ConvUnit(third, fourth, stride=2), *(ResidualUnit(fourth, dilation=d) for d in dilations)
                ),
            ]
        )
        widths = ((fourth, third), (third, second), (second, first))
        self.narrow = nn.ModuleList([ConvUnit(wide, narrow, kernel_size=1) for wide, narrow in widths])
        self.up = nn.ModuleList([ResidualUnit(third), ResidualUnit(second), ConvUnit(first, first)])
        self.output = nn.Conv2d(first, len(PARTS), 1)

    def forward(self, crop: Tensor) -> Tensor:
        """Logits (B,4,S/2,S/2) of the `PARTS` of crops (B,3,S,S) in [-1,1]; what is outside the picture is 0."""
        hidden = self.stem(crop)
        skipped = []
        for level in self.down:
            skipped.append(hidden)
            hidden = level(hidden)
        for narrow, level in zip(self.narrow, self.up, strict=True):
            enlarged = F.interpolate(narrow(hidden), scale_factor=2, mode="bilinear", align_corners=False)
            hidden = level(skipped.pop() + enlarged)
        logits: Tensor = self.output(hidden)
        return logits.float()


@lru_cache(maxsize=1)
def load_segmenter() -> PortraitSegmenter:
    """Load the segmenter embedded in the package; the same object every time.

    Raises:
        BaseNotFoundError: the installation has none.
    """
    return PortraitSegmenter.from_pretrained(mini_dir() / "segmenter").requires_grad_(False)


def frame_portrait(landmarks: Tensor, size: int) -> Tensor:
    """The (B,2,3) similarity from pixels that (B,189,2) landmarks are in to the segmenter's crop."""
    return place_pupils(landmarks, size, PUPIL_FRACTION, EYES_CENTRE)


@torch.no_grad()
def estimate_parts(segmenter: PortraitSegmenter, image: Tensor, landmarks: Tensor, size: tuple[int, int]) -> Tensor:
    """How likely each of the `PARTS` is at each pixel, as it is and in a mirror; outside the crop is no head.

    Args:
        segmenter: in evaluation mode.
        image: (1,3,H,W) in [-1,1].
        landmarks: (1,189,2) pixels.
        size: (height, width) of the result.

    Returns:
        (1,4,*size); at each pixel they sum to one.
    """
    height, width = size
    side = segmenter.crop_size
    transform = frame_portrait(landmarks, side)
    layers = torch.cat([image, torch.ones_like(image[:, :1])], 1)
    crop, seen = warp(layers, transform, (side, side), padding_mode="zeros").split([3, 1], 1)
    crop = crop * (seen > 0.5)
    views = torch.cat([crop, crop.flip(-1)])
    straight, mirrored = segmenter(views).softmax(1).chunk(2)
    chances = (straight + mirrored.flip(-1)) / 2
    columns, rows = torch.arange(width, dtype=torch.float32), torch.arange(height, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(1, -1, 2)
    pixels = scale_points(pixels, size, (image.shape[-2], image.shape[-1]))
    grid = ((2 * transform_points(pixels, transform) + 1) / side - 1).reshape(1, height, width, 2)
    placed = F.grid_sample(chances, grid, padding_mode="border", align_corners=False)
    is_inside = (grid.abs() < 1).all(-1)[:, None]
    return torch.where(is_inside, placed, placed.new_tensor(OUTSIDE).view(1, -1, 1, 1))
