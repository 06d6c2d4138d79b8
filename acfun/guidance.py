"""Sampling guided by imagery: in the pipeline with a style in it, and before a fit with the bare base."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acfun.base import Base, encode_prompt
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import predict_guided
from acfun.face.networks import NUM_LANDMARKS
from acfun.face.regions import REGIONS
from acfun.imagery import FaceTargets, Imagery
from acfun.portrait import Portrait
from acfun.sampling import denoise, descend, find_noise, select_timesteps

WEIGHTS = {"statistics": 0.2, "structure": 4.0, "shading": 4.0, "identity": 2.0}
NUM_GUIDE_STEPS, GUIDE_STEP = 4, 0.025
BARE_PROMPT = "a photo"
STRENGTH = 0.4  # how far sketches are noised before they are painted
PAIR_STEPS = 20


@dataclass(frozen=True)
class Sitting:
    """Faces that sit for a style's imagery: what they are painted from, towards, and with.

    Attributes:
        imagery: of the style.
        portraits: the photographs, with landmarks.
        targets: `describe` of each.
        photos: (F,3,kH,kW) in [-1,1], the portraits in more detail; themselves when None.
        times: how many pictures of each are painted, in a row.
        freedom: > 0; how far the style's own strokes go against light and shade of the photographs, and how strongly
            sampling is guided to its colours.
        identity_scale: ≥ 0; how strongly it is guided to the people, and features and forms are drawn.
        backdrop_scale: ≥ 0; how much may be seen in a ground that the painting's own takes the place of.
    """

    imagery: Imagery
    portraits: Sequence[Portrait]
    targets: Sequence[FaceTargets]
    photos: Tensor | None = None
    times: int = 1
    freedom: float = 1.0
    identity_scale: float = 1.0
    backdrop_scale: float = 1.0

    @property
    def sitters(self) -> list[FaceTargets]:
        """The targets of each picture."""
        return [target for target in self.targets for _ in range(self.times)]

    def sketch(self) -> Tensor:
        """The portraits laid out in the style's colours and strokes, (B,3,H,W): what sampling starts from."""
        rows = zip(self.portraits, self.targets, strict=True)
        sketches = torch.cat([self.imagery.sketch(*row, self.freedom, self.backdrop_scale) for row in rows])
        return sketches.repeat_interleave(self.times, 0)

    def guide(self, latents: Tensor, num_steps: int = NUM_GUIDE_STEPS) -> Tensor:
        """Painted portraits, latents (B,C,h,w), moved towards the people and towards the style's colours."""
        dials = {"statistics": self.freedom, "identity": self.identity_scale}
        weights = {name: weight * dials.get(name, 1.0) for name, weight in WEIGHTS.items()}
        measure = self.imagery.build_measure(self.sitters, weights, torch.Generator().manual_seed(0))
        return descend(latents, measure, num_steps, GUIDE_STEP)

    def finish(self, images: Tensor, enlargement: int = 1) -> Tensor:
        """Painted portraits (B,3,H,W), `enlargement` times as large, with the strokes and features they have lost."""
        photos = self.photos.split(1) if self.photos is not None else [portrait.image for portrait in self.portraits]
        sitters = [photo for photo in photos for _ in range(self.times)]
        rows = zip(images.clamp(-1, 1).split(1), sitters, self.sitters, strict=True)
        finish = self.imagery.finish
        return torch.cat(
            [finish(*row, self.freedom, enlargement, self.identity_scale, self.backdrop_scale) for row in rows]
        )


def check_known(landmarks: Tensor | None, regions: Tensor | None, size: tuple[int, int]) -> None:
    """Refuse what is no landmarks (B,189,2) and no regions (B,6,*size) of faces; None is neither wrong nor known.

    Raises:
        ValueError: another shape.
    """
    wanted = (("face_landmarks", landmarks, (NUM_LANDMARKS, 2)), ("face_regions", regions, (len(REGIONS), *size)))
    for name, rows, shape in wanted:
        if rows is not None and rows.shape[1:] != shape:
            raise ValueError(f"{name} has shape {tuple(rows.shape)}: (B,{','.join(map(str, shape))}) is needed")


def build_portraits(faces: Tensor, landmarks: Tensor, regions: Tensor | None, times: int = 1) -> list[Portrait]:
    """Portraits of faces (F,3,H,W) and what is known of them.

    Args:
        faces: the pictures.
        landmarks: (B,189,2) pixels; B is 1, F, or `times` F.
        regions: (B,6,H,W) in [0,1], their `REGIONS`, likewise; None: they are found.
        times: how often each face is painted.

    Raises:
        ValueError: another number of rows.
    """
    points = _match_rows("face_landmarks", landmarks.to(faces), len(faces), times)
    if regions is None:
        return list(map(Portrait, faces.split(1), points))
    masks = _match_rows("face_regions", regions.to(faces), len(faces), times)
    rows = zip(faces.split(1), points, masks, strict=True)
    return [Portrait(face, place, given_regions=mask) for face, place, mask in rows]


def _match_rows(name: str, rows: Tensor, count: int, times: int) -> Sequence[Tensor]:
    rows = rows[::times] if len(rows) == times * count else rows
    if len(rows) not in {1, count}:
        raise ValueError(f"{name} has {len(rows)} rows for {count} faces: give one, or one each")
    each: Sequence[Tensor] = rows.expand(count, *rows.shape[1:]).split(1)
    return each


@torch.no_grad()
def paint_pairs(base: Base, imagery: Imagery, portraits: Sequence[Portrait], faces: Sequence[FaceTargets]) -> Tensor:
    """Latents (F,C,h,w) of portraits as the bare base paints them under guidance: pseudo-pairs to the photographs."""
    conditions = encode_prompt(base, [BARE_PROMPT]).positive

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_guided(base.unet, latents, timestep, conditions, 1.0)

    sittings = [Sitting(imagery, [portrait], [face]) for portrait, face in zip(portraits, faces, strict=True)]
    timesteps = select_timesteps(base.scheduler, PAIR_STEPS, STRENGTH, base.device)
    sketches = [sitting.sketch() for sitting in sittings]
    # Patches and gradients through the VAE are large: they are never there together.
    imagery.brushwork.forget()
    painted = []
    for sitting, sketch in zip(sittings, sketches, strict=True):
        clean = encode_latents(base.vae, sketch)
        noise = find_noise(predict, base.scheduler, clean, timesteps)
        noised = base.scheduler.add_noise(clean, noise, timesteps[:1])
        latents = sitting.guide(denoise(predict, base.scheduler, noised, timesteps))
        painted.append(decode_latents(base.vae, latents))
    finished = [sitting.finish(picture) for sitting, picture in zip(sittings, painted, strict=True)]
    imagery.brushwork.forget()
    return torch.cat([encode_latents(base.vae, picture) for picture in finished])
