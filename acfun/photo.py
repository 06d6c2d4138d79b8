"""From a photograph to its stylized copy: choose faces, cut portraits, paint each, paste it back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
from PIL import Image
from torch import Tensor

from acfun.errors import NoFaceFoundError
from acfun.face.align import face_crop, paste_back, portrait_crop, transform_points
from acfun.face.finder import Face, FaceFinder, find_faces
from acfun.fit_prepare import place_mean_face
from acfun.images import contact_sheet, pil_to_tensor, resize, tensor_to_pil
from acfun.losses import identity_distance

FaceChoice = Literal["all", "largest", "whole"]
MAX_SCENE_SIDE = 2  # longer side of a painted scene, in units of the base's resolution

EncodeIdentity = Callable[[Tensor], Tensor]
"""Face crops (B,3,112,112) in [-1,1] → identity embeddings (B,D) of unit length."""


class Sampling(TypedDict, total=False):
    """Arguments of `FaceStylizationPipeline.__call__` for a photograph; its defaults hold for what is left out."""

    prompt: str
    negative_prompt: str
    strength: float
    style_scale: float
    identity_scale: float
    structure_scale: float
    color_scale: float
    guidance_scale: float
    num_inference_steps: int
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
    faces = find_faces(pil_to_tensor(image), finder)
    if not faces:
        raise NoFaceFoundError(
            f"no face was found in an image of {image.width}x{image.height} px: give a photograph with both eyes "
            "visible and the head upright, crop it closer, or take it as a portrait as it is"
        )
    return faces[:1] if choice == "largest" else faces


def cut_portraits(image: Image.Image, faces: Sequence[Face], size: int) -> list[CutPortrait]:
    """Cut every face to the canonical framing of `size` pixels; without faces the whole picture is one portrait."""
    photo = pil_to_tensor(image)
    if not faces:
        return [CutPortrait(resize(photo, size), place_mean_face(size)[None], None)]
    portraits = []
    for face in faces:
        landmarks = face.landmarks.to(photo)[None]
        portrait, transform = portrait_crop(photo, landmarks, size)
        portraits.append(CutPortrait(portrait.clamp(-1, 1), transform_points(landmarks, transform), transform))
    return portraits


def stylize_photo(
    pipe: Any,
    image: Image.Image,
    faces: Sequence[Face],
    *,
    encode_identity: EncodeIdentity | None = None,
    paints_scene: bool = True,
    **sampling: Unpack[Sampling],
) -> Image.Image:
    """Paint a photograph: the whole scene coarsely, its faces at the base's resolution on top.

    Args:
        pipe: a `FaceStylizationPipeline` with a style in it.
        image: the photograph.
        faces: from `choose_faces`; empty: the whole photograph is one portrait, stretched to a square for the painting.
        encode_identity: needed where `identity_scale` is above 0.
        paints_scene: False leaves the photograph around the faces as it is.
        sampling: for the pipeline.

    Returns:
        A picture of the photograph's size.
    """
    photo = pil_to_tensor(image)
    if faces and paints_scene:
        photo = paint_scene(pipe, photo, **sampling)
    for portrait in cut_portraits(image, faces, pipe.base.resolution):
        painted = paint_portrait(pipe, portrait, encode_identity=encode_identity, **sampling)
        if portrait.transform is None:
            return tensor_to_pil(resize(painted, (image.height, image.width)))
        photo = paste_back(photo, painted, portrait.transform)
    return tensor_to_pil(photo)


def paint_scene(pipe: Any, photo: Tensor, **sampling: Unpack[Sampling]) -> Tensor:
    """The whole photograph (1,3,H,W) in [-1,1], painted with its shorter side at the base's resolution."""
    height, width = photo.shape[-2:]
    resolution, step = pipe.base.resolution, pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    scale = min(resolution / min(height, width), MAX_SCENE_SIDE * resolution / max(height, width))
    sides = {"height": height, "width": width}
    small = {name: step * max(1, round(side * scale / step)) for name, side in sides.items()}
    without_guide = cast("Sampling", {**sampling, "identity_scale": 0.0})
    images: Tensor = pipe(face=photo, output_type="pt", **small, **without_guide).images
    return resize(images.float().cpu() * 2 - 1, (height, width))


def stylize_portraits(
    pipe: Any,
    image: Image.Image,
    faces: Sequence[Face],
    *,
    encode_identity: EncodeIdentity | None = None,
    **sampling: Unpack[Sampling],
) -> list[Image.Image]:
    """As `stylize_photo`, but the painted portraits alone: squares of the base's resolution, one a face."""
    portraits = cut_portraits(image, faces, pipe.base.resolution)
    painted = (paint_portrait(pipe, portrait, encode_identity=encode_identity, **sampling) for portrait in portraits)
    return [tensor_to_pil(picture) for picture in painted]


def paint_portrait(
    pipe: Any,
    portrait: CutPortrait,
    *,
    encode_identity: EncodeIdentity | None = None,
    **sampling: Unpack[Sampling],
) -> Tensor:
    """Run the pipeline on one portrait: (1,3,S,S) in [-1,1], on the CPU."""
    if encode_identity is None:
        images: Tensor = pipe(face=portrait.image, output_type="pt", **sampling).images
        return images.float().cpu() * 2 - 1
    pipe.set_identity_guide(partial(build_identity_guide, encode_identity, portrait.landmarks))
    try:
        return paint_portrait(pipe, portrait, **sampling)
    finally:
        pipe.set_identity_guide(None)


def build_identity_guide(
    encode_identity: EncodeIdentity, landmarks: Tensor, faces: Tensor
) -> Callable[[Tensor], Tensor]:
    """How far images (B,3,H,W) are from the people in `faces`, as a function for `set_identity_guide`.

    Args:
        encode_identity: differentiable.
        landmarks: (1,189,2) pixels, the same for all.
        faces: (B,3,H,W) in [-1,1].
    """
    points = landmarks.to(faces).expand(len(faces), -1, -1)
    embeds = encode_identity(face_crop(faces, points)).detach()

    def measure(images: Tensor) -> Tensor:
        return identity_distance(encode_identity(face_crop(images, points)), embeds)

    return measure


def build_sheet(photo: Image.Image, style: Image.Image, result: Image.Image) -> Image.Image:
    """Photograph, style image and result side by side, with captions."""
    return contact_sheet([photo, style, result], columns=3, labels=("before", "style", "after"))
