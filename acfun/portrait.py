"""Portraits: pictures in canonical framing and what is known of the face in them; the picture a style comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from acfun.errors import NoFaceFoundError
from acfun.face.align import (
    INTER_PUPIL_FRACTION,
    measure_pupil_distance,
    portrait_crop,
    portrait_transform,
    scale_points,
    transform_points,
)
from acfun.face.finder import FaceFinder, find_face, require_face
from acfun.face.painted import find_painted_faces
from acfun.face.regions import REGIONS
from acfun.face.segmentation import segment_people
from acfun.images import blur, compute_luma, pack_image, resize, unpack_image
from acfun.palette import find_odd
from acfun.synthetic.renderers.shapes import mean_shape

# Shorter sides of the style images that styles keep, pixels: as much as there is, at least and at most, or the base's.
STYLE_SIDE, MAX_STYLE_SIDE = 512, 1024
SIDE_STEP = 32
MAX_ASPECT = 2
# Painted faces score low where they are profiles: Dante's 0.22. Up to the first score landmarks say nothing for
# certain, from the second on they are those of a face seen from the front, from the third on they are certain.
UNSURE_SCORE, MIN_FRONTAL_SCORE, SURE_SCORE = 0.18, 0.43, 0.5
HAT_BLUR = 1.0  # deviation of hats' edges, pixels
NEAR_FRAME = 1.5  # sides of a portrait from its middle, beyond which nobody else reaches into it
MIN_OTHER_SCORE, MAX_OTHERS = 0.35, 8  # of further faces in a painting, as photographs ask for
SMALLEST_WIDTH = 1e-4  # between pupils that were rounded to the same place, as a share of the picture
# Deviation of colours across their main axis, as a share of that along it: up to 0.06 in drawings, 0.12 in paintings.
MAX_DRAWN_SPREAD = 0.09


@dataclass(frozen=True)
class Portrait:
    """A picture and what is known of the face in it.

    Attributes:
        image: (1,3,H,W) in [-1,1].
        landmarks: (1,189,2) pixels, or None where no face was found.
        certainty: in [0,1], of the landmarks.
        given_regions: (1,6,H,W) in [0,1], its `REGIONS` where they are known; None: they are found.
        others: (F,189,2) pixels, landmarks of further faces, whose regions join those of the face.
        is_painting: whether caps, ribbons and laurel count as clothes; in photographs they are put back with the hair.
    """

    image: Tensor
    landmarks: Tensor | None
    certainty: float = 1.0
    given_regions: Tensor | None = None
    others: Tensor | None = None
    is_painting: bool = False

    @cached_property
    def regions(self) -> Tensor | None:
        """Soft masks (1,6,H,W) in [0,1] of its `REGIONS`; None without a face."""
        if self.given_regions is not None or self.landmarks is None:
            return self.given_regions
        regions = segment_people(self.image, self.people, self.certainty)
        return _take_hats_off(self.image, regions) if self.is_painting else regions

    @property
    def masks(self) -> dict[str, Tensor]:
        """The same, (H,W) by name, in the order of `REGIONS`; empty without a face."""
        return {} if self.regions is None else dict(zip(REGIONS, self.regions[0], strict=True))

    @property
    def people(self) -> Tensor:
        """Landmarks (F,189,2) of all faces, its own first; there must be one."""
        assert self.landmarks is not None
        return self.landmarks if self.others is None else torch.cat([self.landmarks, self.others])

    def with_people(self, people: Tensor) -> Self:
        """The same picture with landmarks (F,189,2) of its faces, the first one its own."""
        return replace(self, landmarks=people[:1], others=people[1:] if len(people) > 1 else None)


@dataclass(frozen=True)
class StyleImage:
    """What a style keeps of the picture that it comes from.

    Attributes:
        head: its face in canonical framing, (1,3,S,S), or its middle square where no face was found.
        painting: the whole picture, with the same face's landmarks; its shorter side may be another than S.
        score: in [0,1], how sure it is that the face is one; 0 where none was found.
    """

    head: Portrait
    painting: Portrait
    score: float = 0.0

    @classmethod
    def for_base(cls, picture: Tensor, resolution: int, finder: FaceFinder | None) -> Self:
        """The style image of styles on a base of that resolution, pixels; otherwise as `from_picture`."""
        return cls.from_picture(picture, max(STYLE_SIDE, resolution), finder, max(MAX_STYLE_SIDE, resolution))

    @classmethod
    def from_picture(cls, picture: Tensor, size: int, finder: FaceFinder | None, max_size: int | None = None) -> Self:
        """Look for the face in a picture (1,3,H,W), which needs none, and place it; without a finder nobody looks.

        Shorter sides are `size` pixels, or about as many as there are in the picture, up to `max_size`. Colours are
        rounded to 8 bits and landmarks to what float16 holds, so that a style file keeps them exactly.
        """
        faces = [] if finder is None else find_painted_faces(picture, finder)

        def limit(side: float) -> int:
            return max(size, SIDE_STEP * int(min(side, max_size or size) // SIDE_STEP))

        side = limit(min(picture.shape[-2:]))
        if not faces:
            return cls(_round(cut_middle(picture, side), 0.0), _round(_shrink(picture, None, side), 0.0))
        sure = [face for face in faces[1:] if face.score >= MIN_OTHER_SCORE][:MAX_OTHERS]
        people = torch.stack([face.landmarks for face in (faces[0], *sure)]).to(picture)
        head, painting = cut_head(picture, people, limit(measure_frame(people[0]))), _shrink(picture, people, side)
        score = float(np.float16(faces[0].score))
        return cls(_round(head, score), _round(painting, score), score)

    @property
    def trusted_landmarks(self) -> Tensor | None:
        """Landmarks (1,189,2) of the head where it is surely a face seen from the front, else None."""
        return self.head.landmarks if self.score >= MIN_FRONTAL_SCORE else None

    @property
    def head_scale(self) -> float:
        """How many times as large as in the painting its head is, where both have shorter sides of equal length."""
        widths = []
        for part in (self.head, self.painting):
            if part.landmarks is None:
                return 1.0
            widths.append(float(measure_pupil_distance(part.landmarks[0])) / min(part.image.shape[-2:]))
        return widths[0] / max(widths[1], SMALLEST_WIDTH)

    @property
    def is_drawing(self) -> bool:
        """Whether it is ink, or pencil, of one colour on light paper."""
        variances = torch.linalg.eigvalsh(torch.cov(self.painting.image[0].flatten(1).float())).clamp(min=0)
        luma = compute_luma(self.painting.image)[0]
        paper = self.painting.masks.get("background", torch.ones_like(luma))
        is_light = float((paper * luma).sum()) > 0
        return is_light and float(variances[-2]) <= MAX_DRAWN_SPREAD**2 * float(variances[-1])

    def without_face(self) -> Self:
        """The same pictures, as if nobody had found the face in them."""
        head, painting = (replace(part, landmarks=None, others=None) for part in (self.head, self.painting))
        return type(self)(head, painting)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self | None:
        """The inverse of `to_tensors`; None where the tensors are not there.

        Raises:
            ImageError: a picture is damaged.
        """
        if not {"head", "painting"} <= tensors.keys():
            return None
        score = float(tensors["score"]) if "score" in tensors else 0.0
        parts = []
        for name in ("head", "painting"):
            landmarks, others = (tensors.get(f"{name}_{kind}") for kind in ("landmarks", "others"))
            packed = tensors[name]
            # The first format kept pixels.
            image = unpack_image(packed, f"image.{name}") if packed.ndim == 1 else packed.float() / 127.5 - 1
            # The first style images kept no score, and landmarks of sure faces only.
            certainty = _trust(score) if "score" in tensors else 1.0
            parts.append(
                Portrait(
                    image,
                    None if landmarks is None else landmarks.float(),
                    certainty,
                    others=None if others is None else others.float(),
                    is_painting=True,
                )
            )
        return cls(parts[0], parts[1], score)

    def to_tensors(self) -> dict[str, Tensor]:
        """Images as `pack_image` packs them, landmarks as float32, on the CPU, by name."""
        tensors = {"score": torch.tensor(self.score)}
        for name, portrait in (("head", self.head), ("painting", self.painting)):
            tensors[name] = pack_image(portrait.image)
            for kind, points in (("landmarks", portrait.landmarks), ("others", portrait.others)):
                if points is not None:
                    tensors[f"{name}_{kind}"] = points.to("cpu", torch.float32, copy=True)
        return tensors

    def shrink(self, size: int) -> Self:
        """The same with a shorter side of `size` pixels."""
        return type(self)(_scale(self.head, size), _scale(self.painting, size), self.score)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(_move(self.head, device), _move(self.painting, device), self.score)


def cut_head(picture: Tensor, people: Tensor, size: int) -> Portrait:
    """Cut a picture (1,3,H,W) with landmarks (F,189,2) to the canonical framing of the first face."""
    image, transform = portrait_crop(picture, people[:1], size)
    placed = transform_points(people, transform)
    is_near = (placed.mean(1) - size / 2).abs().amax(1) < NEAR_FRAME * size
    is_near[0] = True
    return Portrait(image.clamp(-1, 1), None).with_people(placed[is_near])


def measure_frame(landmarks: Tensor) -> float:
    """The side of the canonical framing of a face with landmarks (189,2), pixels."""
    return float(measure_pupil_distance(landmarks)) / INTER_PUPIL_FRACTION


def cut_middle(picture: Tensor, size: int) -> Portrait:
    """The middle square of a picture (1,3,H,W), with no face."""
    side = min(picture.shape[-2:])
    top, left = ((length - side) // 2 for length in picture.shape[-2:])
    return Portrait(resize(picture[..., top : top + side, left : left + side], size), None)


def find_head(photo: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """Cut a photograph (1,3,H,W) to its largest face; without a finder the whole picture is taken as a portrait.

    Raises:
        NoFaceFoundError: none was found.
    """
    if finder is None:
        return Portrait(resize(photo, size), place_mean_face(size).to(photo)[None])
    return cut_head(photo, require_face(photo, finder).landmarks.to(photo)[None], size)


def find_head_or_assume(photo: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """As `find_head`, but a face that is not found is taken to be where the canonical framing has it."""
    try:
        return find_head(photo, size, finder)
    except NoFaceFoundError:
        return find_head(photo, size, None)


def find_landmarks(portrait: Tensor, finder: FaceFinder) -> Tensor:
    """Landmarks (1,189,2) of the largest face of a portrait (1,3,H,W); where none is found, the canonical ones."""
    try:
        return find_face(portrait, finder).landmarks.to(portrait)[None]
    except NoFaceFoundError:
        height, width = portrait.shape[-2:]
        return scale_points(place_mean_face(width).to(portrait)[None], (width, width), (height, width))


def place_mean_face(size: int) -> Tensor:
    """Landmarks (189,2) of the average face in canonical framing, pixels."""
    landmarks = torch.from_numpy(mean_shape())[None]
    return transform_points(landmarks, portrait_transform(landmarks, size))[0]


def _shrink(picture: Tensor, people: Tensor | None, size: int) -> Portrait:
    height, width = picture.shape[-2:]
    scale = size / min(height, width)
    sides = [min(MAX_ASPECT * size, SIDE_STEP * max(1, round(side * scale / SIDE_STEP))) for side in (height, width)]
    new = (sides[0], sides[1])
    image = resize(picture, new).clamp(-1, 1)
    alone = Portrait(image, None)
    return alone if people is None else alone.with_people(scale_points(people, (height, width), new))


def _scale(portrait: Portrait, size: int) -> Portrait:
    old = (portrait.image.shape[-2], portrait.image.shape[-1])
    new = (round(old[0] * size / min(old)), round(old[1] * size / min(old)))
    return _map(replace(portrait, image=resize(portrait.image, new)), lambda points: scale_points(points, old, new))


def _round(portrait: Portrait, score: float) -> Portrait:
    image = ((portrait.image + 1) * 127.5).round() / 127.5 - 1
    kept = replace(portrait, image=image, certainty=_trust(score), is_painting=True)
    return _map(kept, lambda points: points.half().float())


def _take_hats_off(image: Tensor, regions: Tensor) -> Tensor:
    """Regions (1,6,H,W) in which what is in the hair, and has not the colours of most of it, is clothes."""
    changed, hair, body = regions.clone(), REGIONS.index("hair"), REGIONS.index("body")
    worn = regions[:, hair, None] * blur(find_odd(image, regions[:, hair, None]).to(image), HAT_BLUR)
    changed[:, hair, None] -= worn
    changed[:, body, None] += worn
    return changed


def _trust(score: float) -> float:
    """The certainty of a painted face's landmarks."""
    return min(1.0, max(0.0, (score - UNSURE_SCORE) / (SURE_SCORE - UNSURE_SCORE)))


def _move(portrait: Portrait, device: torch.device) -> Portrait:
    return _map(replace(portrait, image=portrait.image.to(device)), lambda points: points.to(device))


def _map(portrait: Portrait, function: Callable[[Tensor], Tensor]) -> Portrait:
    """A portrait with a function of the landmarks (F,189,2) of its faces in their place."""
    return portrait if portrait.landmarks is None else portrait.with_people(function(portrait.people))
