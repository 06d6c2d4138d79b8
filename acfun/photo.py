"""From a photograph to its stylized copy: choose faces, cut portraits, paint each, paste it back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from acfun.config import Extent, FaceChoice
from acfun.errors import NoFaceFoundError
from acfun.face.align import feather_mask, invert_transform, paste_back, portrait_transform, scale_points, warp
from acfun.face.finder import Face, FaceFinder, explain_no_face, find_faces
from acfun.face.regions import REGIONS
from acfun.face.segmentation import lend_hair, segment_regions
from acfun.face.segmenter import load_segmenter
from acfun.images import blur, contact_sheet, pil_to_tensor, resize, tensor_to_pil
from acfun.portrait import MAX_STYLE_SIDE, STYLE_SIDE, Portrait, cut_head, measure_frame, place_mean_face
from acfun.proportions import measure_departure, take_on
from acfun.scene import build_scene, segment_photo
from acfun.style import Style

SHAPE_SCALE = 0.75
HEAD_REGIONS = ("skin", "eyes", "mouth", "hair")  # of a painted portrait, what is put back into the photograph
HEAD_BLUR = 0.01  # of their outline, deviation in portraits
MAX_ENLARGEMENT = 4
MAX_SCENE_SIDE = 2  # longer side of a painted scene, in units of the base's resolution


class Sampling(TypedDict, total=False):
    """Arguments of `FaceStylizationPipeline.__call__` for a photograph; its defaults hold for what is left out.

    Two are not the pipeline's. `shape_scale` is the share of the painted face's proportions that faces take on before
    they are painted, `SHAPE_SCALE` when it is left out. `min_side` is the shorter side, pixels, to which smaller
    photographs are enlarged first; 0 leaves their size, and when it is left out a photograph that is painted as a whole
    becomes as large as it is painted. `enlargement`, when it is left out, makes paintings as large as
    a face's portrait, or a scene's shorter side, is in the photograph: up to four times what the base paints and
    `MAX_STYLE_SIDE` pixels, and twice at least where that is no more than `STYLE_SIDE`. A smaller style image is
    enlarged for it.
    """

    shape_scale: float
    min_side: int
    prompt: str
    negative_prompt: str
    strength: float
    style_scale: float
    imagery_scale: float
    identity_scale: float
    backdrop_scale: float
    num_guide_steps: int
    structure_scale: float
    color_scale: float
    guidance_scale: float
    num_inference_steps: int
    enlargement: int
    generator: torch.Generator


@dataclass(frozen=True)
class CutPortrait:
    """A face cut out of a photograph.

    Attributes:
        image: (1,3,S,S) in [-1,1].
        landmarks: (1,189,2) pixels of `image`.
        transform: (1,2,3), pixels of the photograph → pixels of `image`; None where the whole photograph is it.
    """

    image: Tensor
    landmarks: Tensor
    transform: Tensor | None


def choose_faces(image: Image.Image, choice: FaceChoice, finder: FaceFinder | None = None) -> list[Face]:
    """The faces to be painted; for "whole" none, since nobody looks for them.

    Args:
        image: the photograph.
        choice: every face, the largest one, or the whole photograph as a portrait.
        finder: the embedded one when None.

    Raises:
        NoFaceFoundError: there is none to choose.
    """
    if choice == "whole":
        return []
    photo = pil_to_tensor(image)
    faces = find_faces(photo, finder)
    if not faces:
        raise NoFaceFoundError(explain_no_face(photo))
    return faces[:1] if choice == "largest" else faces


def cut_portraits(image: Image.Image, faces: Sequence[Face], size: int | Callable[[float], int]) -> list[CutPortrait]:
    """Cut every face to the canonical framing; without faces the whole picture is one portrait.

    Args:
        image: the photograph.
        faces: in it.
        size: of the portraits, pixels; or what gives it for the side that one has in the photograph.
    """
    choose = size if callable(size) else lambda side: size
    photo, portraits = pil_to_tensor(image), []
    if not faces:
        side = choose(min(image.size))
        return [CutPortrait(resize(photo, side), place_mean_face(side)[None], None)]
    for face in faces:
        landmarks, side = face.landmarks.to(photo)[None], choose(measure_frame(face.landmarks))
        head = cut_head(photo, landmarks, side)
        assert head.landmarks is not None
        portraits.append(CutPortrait(head.image, head.landmarks, portrait_transform(landmarks, side)))
    return portraits


def enlarge(image: Image.Image, faces: Sequence[Face], min_side: float) -> tuple[Image.Image, list[Face]]:
    """A photograph with a shorter side of `min_side` pixels at least, and its faces where they are in it."""
    factor = min_side / min(image.size)
    if factor <= 1:
        return image, list(faces)
    old, new = (image.height, image.width), (round(factor * image.height), round(factor * image.width))
    placed = [Face.from_landmarks(scale_points(face.landmarks, old, new), face.score) for face in faces]
    return tensor_to_pil(resize(pil_to_tensor(image), new)), placed


def shape_faces(
    image: Image.Image, faces: Sequence[Face], style: Style | None, amount: float
) -> tuple[Image.Image, list[Face]]:
    """Give faces the proportions of the one that the style image shows; nothing moves where it shows none.

    Args:
        image: the photograph.
        faces: in it.
        style: with its style image.
        amount: 0 leaves the faces as they are, 1 gives them all of the painted face's departure from the average.

    Returns:
        The picture, and the faces where they are in it.
    """
    style_image = None if style is None else style.image
    painted = None if style_image is None else style_image.trusted_landmarks
    if not amount or painted is None:
        return image, list(faces)
    image = tensor_to_pil(pil_to_tensor(image))  # RGB, whatever its mode was
    departure = amount * measure_departure(painted[0].numpy())
    pixels, moved = np.asarray(image, np.float32) / np.float32(255), []
    for face in faces:
        pixels, landmarks = take_on(pixels, face.landmarks.numpy().astype(np.float32), departure)
        moved.append(replace(face, landmarks=torch.from_numpy(landmarks)))
    return Image.fromarray((pixels * 255).round().astype(np.uint8)), moved


def stylize(
    pipe: Any, image: Image.Image, faces: Sequence[Face], extent: Extent, **sampling: Unpack[Sampling]
) -> list[Image.Image]:
    """Paint the whole photograph, or only the faces in it, or give the painted portraits alone.

    Arguments and results are those of `stylize_photo` and `stylize_portraits`.
    """
    if extent == "portraits":
        return stylize_portraits(pipe, image, faces, **sampling)
    return [stylize_photo(pipe, image, faces, paints_scene=extent == "photo", **sampling)]


def stylize_photo(
    pipe: Any,
    image: Image.Image,
    faces: Sequence[Face],
    *,
    paints_scene: bool = True,
    **sampling: Unpack[Sampling],
) -> Image.Image:
    """Paint a photograph: the scene without heads coarsely, each head by itself on top.

    Args:
        pipe: a `FaceStylizationPipeline` with a style in it.
        image: the photograph.
        faces: from `choose_faces`; empty: the whole photograph is one portrait, stretched to a square for the painting.
        paints_scene: False leaves the photograph around the faces as it is.
        sampling: for the pipeline.

    Returns:
        A picture of the photograph's size, or of the one that `min_side` gives it.
    """
    painted_side = _measure_painting(pipe, sampling, min(image.size), max(image.size)) if paints_scene else 0
    image, faces = enlarge(image, faces, sampling.pop("min_side", painted_side))
    image, faces = shape_faces(image, faces, pipe.style, sampling.pop("shape_scale", SHAPE_SCALE))
    photo, portraits = pil_to_tensor(image), cut_portraits(image, faces, partial(_choose_size, pipe, sampling))
    if not faces:
        painted = paint_portrait(pipe, portraits[0], look_at(portraits[0], pipe.base.resolution), **sampling)
        return tensor_to_pil(resize(painted, (image.height, image.width)))
    landmarks, regions, seen = _look_at_people(pipe, photo, faces, portraits)
    outlines = [outline_head(head, portrait.image.shape[-1]) for head, portrait in zip(seen, portraits, strict=True)]
    if paints_scene:
        heads = place_heads(portraits, outlines, (image.height, image.width))
        photo = paint_scene(pipe, photo, landmarks, regions, heads, **sampling)
    for portrait, head, outline in zip(portraits, seen, outlines, strict=True):
        assert portrait.transform is not None
        painted = paint_portrait(pipe, portrait, head, **sampling)
        photo = paste_back(photo, painted, portrait.transform, shown=outline)
    return tensor_to_pil(photo)


def paint_scene(
    pipe: Any, photo: Tensor, landmarks: Tensor, regions: Tensor, heads: Tensor, **sampling: Unpack[Sampling]
) -> Tensor:
    """The photograph (1,3,H,W) in [-1,1] without heads, painted with its shorter side at the base's resolution.

    Args:
        pipe: a `FaceStylizationPipeline` with a style in it.
        photo: the photograph.
        landmarks: (F,189,2) pixels, of its faces, the largest first.
        regions: (1,6,h,w) of `segment_photo`, of the size that is sampled.
        heads: (1,2,H,W) of `place_heads`.
        sampling: for the pipeline; no guide, since there is nobody to move towards.
    """
    height, width = photo.shape[-2:]
    sampling["num_guide_steps"] = 0
    sampling["enlargement"] = _choose_enlargement(pipe, sampling, min(height, width))
    scene = build_scene(photo, landmarks, regions, heads, sampling["enlargement"])
    painted = _paint(pipe, scene, height=regions.shape[-2], width=regions.shape[-1], **sampling)
    return resize(painted, (height, width))


def stylize_portraits(
    pipe: Any,
    image: Image.Image,
    faces: Sequence[Face],
    **sampling: Unpack[Sampling],
) -> list[Image.Image]:
    """As `stylize_photo`, but the painted portraits alone: squares, one a face, each as large as it is painted.

    `min_side` says nothing here.
    """
    sampling.pop("min_side", None)
    image, faces = shape_faces(image, faces, pipe.style, sampling.pop("shape_scale", SHAPE_SCALE))
    portraits = cut_portraits(image, faces, partial(_choose_size, pipe, sampling))
    if faces:
        seen = _look_at_people(pipe, pil_to_tensor(image), faces, portraits)[2]
    else:
        seen = [look_at(portraits[0], pipe.base.resolution)]
    pairs = zip(portraits, seen, strict=True)
    return [tensor_to_pil(paint_portrait(pipe, portrait, head, **sampling)) for portrait, head in pairs]


def paint_portrait(pipe: Any, portrait: CutPortrait, seen: Portrait, **sampling: Unpack[Sampling]) -> Tensor:
    """Run the pipeline on one portrait, of which `look_at` gives what is `seen`: (1,3,kS,kS) in [-1,1], on the CPU.

    S is the base's resolution, and k the enlargement, or when that is left out as much as the portrait is larger.
    """
    return _paint(pipe, replace(seen, image=portrait.image), **sampling)


def _look_at_people(
    pipe: Any, photo: Tensor, faces: Sequence[Face], portraits: Sequence[CutPortrait]
) -> tuple[Tensor, Tensor, list[Portrait]]:
    """Landmarks (F,189,2) of a photograph, its regions as it is sampled, and its portraits as the base sees them."""
    landmarks = torch.stack([face.landmarks.to(photo) for face in faces])
    size = (photo.shape[-2], photo.shape[-1])
    regions = segment_photo(photo, landmarks, _choose_scene_size(pipe, *size))
    hair = F.interpolate(regions[:, REGIONS.index("hair"), None], size, mode="bilinear")
    return landmarks, regions, [look_at(portrait, pipe.base.resolution, hair) for portrait in portraits]


def look_at(portrait: CutPortrait, resolution: int, hair: Tensor | None = None) -> Portrait:
    """A cut portrait as the base sees it, at its resolution, with its regions.

    `hair` (1,1,H,W) in [0,1] is that of the photograph that it was cut from.
    """
    side = portrait.image.shape[-1]
    landmarks = scale_points(portrait.landmarks, (side, side), (resolution, resolution))
    image = resize(portrait.image, resolution)
    regions = segment_regions(image, landmarks, segmenter=load_segmenter())
    if hair is not None and portrait.transform is not None:
        placed = warp(hair, portrait.transform, (side, side), padding_mode="zeros")
        regions = lend_hair(regions, F.adaptive_avg_pool2d(placed, resolution), landmarks)
    return Portrait(image, landmarks, given_regions=regions)


def outline_head(head: Portrait, side: int) -> Tensor:
    """A soft mask (1,1,side,side) of a portrait's face and hair: what is put back of it."""
    mask = torch.stack([head.masks[name] for name in HEAD_REGIONS]).sum(0)[None, None]
    soft = blur(mask, HEAD_BLUR * head.image.shape[-1])
    return F.interpolate(soft, (side, side), mode="bilinear").clamp(0, 1)


def place_heads(portraits: Sequence[CutPortrait], outlines: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Where portraits (1,1,S,S) are put back into the photograph: their heads and all of them, (1,2,*size) in [0,1]."""
    heads = outlines[0].new_zeros(1, 2, *size)
    for portrait, outline in zip(portraits, outlines, strict=True):
        assert portrait.transform is not None
        whole = feather_mask(*outline.shape[-2:]).to(outline)[None, None]
        layers = torch.cat([outline * whole, whole], 1)
        placed = warp(layers, invert_transform(portrait.transform), size, padding_mode="zeros")
        heads = torch.maximum(heads, placed)
    return heads


def _choose_enlargement(pipe: Any, sampling: Mapping[str, Any], side: float) -> int:
    """How many times larger than what is sampled something is painted that has a shorter side of so many pixels."""
    resolution = pipe.base.resolution
    least, wanted = 2 if 2 * resolution <= STYLE_SIDE else 1, round(min(side, MAX_STYLE_SIDE) / resolution)
    chosen: int = sampling.get("enlargement", min(max(wanted, least), MAX_ENLARGEMENT))
    return chosen


def _measure_scene(pipe: Any, shorter: int, longer: int) -> float:
    """Shorter side, pixels, at which a photograph with sides of so many is sampled as a scene."""
    resolution: int = pipe.base.resolution
    return resolution * min(1, MAX_SCENE_SIDE * shorter / longer)


def _choose_scene_size(pipe: Any, height: int, width: int) -> tuple[int, int]:
    """(height, width) at which it is sampled, in steps that the base can do."""
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    scale = _measure_scene(pipe, min(height, width), max(height, width)) / min(height, width)
    sides = [step * max(1, round(side * scale / step)) for side in (height, width)]
    return sides[0], sides[1]


def _measure_painting(pipe: Any, sampling: Mapping[str, Any], shorter: int, longer: int) -> float:
    """Shorter side, pixels, at which it is painted."""
    return _choose_enlargement(pipe, sampling, shorter) * _measure_scene(pipe, shorter, longer)


def _choose_size(pipe: Any, sampling: Mapping[str, Any], side: float) -> int:
    """Of a painted portrait, pixels, by the side that it has in the photograph."""
    size: int = pipe.base.resolution * _choose_enlargement(pipe, sampling, side)
    return size


def _paint(pipe: Any, face: Portrait, **sampling: Any) -> Tensor:
    """A picture, which may be larger than its landmarks say, and of the face in it what is known."""
    sampling.setdefault("enlargement", max(1, round(face.image.shape[-1] / pipe.base.resolution)))
    known = {"face_landmarks": face.landmarks, "face_regions": face.given_regions}
    images: Tensor = pipe(face=face.image, output_type="pt", **known, **sampling).images
    return images.float().cpu() * 2 - 1


def build_sheet(photo: Image.Image, style: Image.Image, result: Image.Image) -> Image.Image:
    """Photograph, style image and result side by side, with captions."""
    return contact_sheet([photo, style, result], columns=3, labels=("before", "style", "after"))
