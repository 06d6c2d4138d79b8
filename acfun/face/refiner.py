"""The third network of the face finder: it moves landmarks that are about right to where the picture has them.

A regressor answers for a whole face at once, from maps a sixteenth as wide as the picture. What is missing to a lid
or a lip is in the pixels around it: features are looked up there, at a quarter of the picture's resolution, as in the
supervised descent method (Xiong and De la Torre 2013), here with features that are learnt.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acfun.face.networks import NUM_LANDMARKS, ConvUnit, ResidualUnit

REFINER_STRIDE = 16
NUM_ROUNDS = 2
_FEATURE_STRIDE = 4
_REACH = 1  # cells to either side of a landmark that are looked at
_LOCAL_SIZE = 24  # what is kept of the surroundings of a landmark
_OFFSET_SCALE = 0.02  # widths; what is missing to a landmark is of this order
_MAX_OFFSET = 0.06  # widths, in one round


class LandmarkRefiner(nn.Module):
    """Moves 189 landmarks by what surrounds them, and by what surrounds all others.

    Args:
        channels: of the four levels, at strides 2, 4, 8 and 16.
        feature_size: of what is looked up in a place.
        hidden_size: of the layer that sees all landmarks at once.
        crop_size: width of the input, pixels; a multiple of 16.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 24, 48, 64),
        feature_size: int = 16,
        hidden_size: int = 128,
        crop_size: int = 144,
    ) -> None:
        super().__init__()
        if crop_size % REFINER_STRIDE:
            raise ValueError(f"crop_size={crop_size} is no multiple of {REFINER_STRIDE}, the network's stride")
        self.crop_size = crop_size
        first, second, third, fourth = channels
        self.fine = nn.Sequential(ConvUnit(3, first, stride=2), ConvUnit(first, second, stride=2), ResidualUnit(second))
        self.middle = nn.Sequential(ConvUnit(second, third, stride=2), ResidualUnit(third))
        self.coarse = nn.Sequential(ConvUnit(third, fourth, stride=2), ResidualUnit(fourth))
        self.coarse_to_middle = ConvUnit(fourth, third, kernel_size=1)
        self.middle_to_fine = ConvUnit(third, second, kernel_size=1)
        self.features = nn.Sequential(ConvUnit(second, second), nn.Conv2d(second, feature_size, 1))
        places = (2 * _REACH + 1) ** 2
        self.local_weight = nn.Parameter(torch.randn(NUM_LANDMARKS, places * feature_size, _LOCAL_SIZE) * 0.1)
        self.local_bias = nn.Parameter(torch.zeros(NUM_LANDMARKS, _LOCAL_SIZE))
        self.own_offset = nn.Parameter(torch.zeros(NUM_LANDMARKS, _LOCAL_SIZE, 2))
        self.hidden = nn.Sequential(
            nn.Linear(NUM_LANDMARKS * (_LOCAL_SIZE + 2), hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
        )
        self.shared_offset = nn.Linear(hidden_size, 2 * NUM_LANDMARKS)
        nn.init.zeros_(self.shared_offset.weight)
        nn.init.zeros_(self.shared_offset.bias)
        ticks = torch.arange(-_REACH, _REACH + 1) * (_FEATURE_STRIDE / crop_size)
        places_around = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
        self.register_buffer("places", places_around, persistent=False)
        self.places: Tensor

    def forward(self, crop: Tensor, landmarks: Tensor, mean_shape: Tensor) -> list[Tensor]:
        """Move landmarks towards where the crop has them.

        Args:
            crop: (B,3,S,S) in [-1,1], of the unit frame.
            landmarks: (B,189,2) in the unit frame, about right.
            mean_shape: (189,2) in the unit frame.

        Returns:
            (B,189,2) after each of `NUM_ROUNDS` rounds.
        """
        maps, rounds = self._describe(crop), []
        for _ in range(NUM_ROUNDS):
            landmarks = landmarks.detach() + self._move(maps, landmarks.detach(), mean_shape)
            rounds.append(landmarks)
        return rounds

    def _describe(self, crop: Tensor) -> Tensor:
        """Features (B,F,S/4,S/4) that know what is around them."""
        fine = self.fine(crop)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = middle + F.interpolate(self.coarse_to_middle(coarse), middle.shape[-2:], mode="nearest")
        fine = fine + F.interpolate(self.middle_to_fine(middle), fine.shape[-2:], mode="nearest")
        features: Tensor = self.features(fine)
        return features.float()

    def _move(self, maps: Tensor, landmarks: Tensor, mean_shape: Tensor) -> Tensor:
        points = landmarks[:, :, None] + self.places
        seen = F.grid_sample(maps, 2 * points - 1, padding_mode="border", align_corners=False)
        seen = seen.permute(0, 2, 3, 1).flatten(2)
        local = F.relu(torch.einsum("bpi,pio->bpo", seen, self.local_weight) + self.local_bias)
        own = torch.einsum("bpi,pio->bpo", local, self.own_offset)
        shape = (landmarks - mean_shape) / _OFFSET_SCALE
        shared = self.shared_offset(self.hidden(torch.cat([local, shape], 2).flatten(1)))
        offsets = _OFFSET_SCALE * (own + shared.unflatten(1, (NUM_LANDMARKS, 2)))
        return _MAX_OFFSET * torch.tanh(offsets / _MAX_OFFSET)
