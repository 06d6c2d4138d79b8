"""From paths to `FitData`: read pictures, find faces, cut portraits, encode."""

from collections.abc import Callable

import torch
from torch import Tensor

from acfun.base import Base, encode_prompt
from acfun.base.vae_features import decode_latents
from acfun.conditioning import predict_guided
from acfun.config import FitConfig
from acfun.errors import ConfigError, NoFaceFoundError
from acfun.face.align import face_crop, portrait_crop, portrait_transform, transform_points
from acfun.face.finder import FaceFinder, find_face, find_faces, load_face_finder, regress_landmarks
from acfun.face.identity import FeatureStages, load_identity_encoder
from acfun.face.regions import REGIONS, draw_regions
from acfun.fit_data import (
    FitData,
    Portrait,
    build_face_sample,
    build_style_patches,
    compute_shape_offset,
    encode_style_crops,
    encode_style_grams,
)
from acfun.images import load_image, pil_to_tensor, resize
from acfun.sampling import denoise, select_timesteps
from acfun.synthetic.renderers.shapes import mean_shape

SAMPLED_FACE_PROMPTS = (
    "a photo of a young woman with dark hair",
    "a photo of an old man with grey hair",
    "a photo of a smiling man with a beard",
    "a photo of a middle-aged woman with blond hair",
)
SAMPLED_FACE_STEPS = 24
SIDE_STEP = 32
STRUCTURE_SIZE, NUM_STRUCTURE_STAGES = 128, 3
SAMPLED_FACE_GUIDANCE = 2.0


def prepare(config: FitConfig, base: Base, generator: torch.Generator) -> FitData:
    """Encode what the fit looks at.

    Args:
        config: the fit.
        base: frozen; its networks encode and stay in the result.
        generator: draws crops of the style image and, without photographs, faces.

    Raises:
        ConfigError: a loss needs the face finder, and the framing does without.
        ImageError: a picture cannot be read.
        NoFaceFoundError: a photograph without a face.
        BaseNotFoundError: the installation lacks a network that finds or tells faces.
    """
    weights = config.loss_weights()
    if config.framing == "whole" and "shape" in weights:
        raise ConfigError("shape_weight needs the face finder: use framing 'find', or set shape_weight to 0")
    painting = pil_to_tensor(load_image(config.style_path)).to(base.device)
    finder = load_face_finder().to(base.device) if config.framing == "find" else None
    style = load_style_portrait(painting, base.resolution, finder)
    scene = place_painting(painting, base.resolution, finder)
    bank = build_style_patches(style, scene)
    encode_identity = _build_identity(base.device) if "identity" in weights else _no_identity
    extract_structure = _build_structure(base.device) if "structure" in weights else _no_structure
    average = place_mean_face(base.resolution).to(base.device)
    amount = config.shape_amount if style.landmarks is not None else 0.0
    offset = compute_shape_offset(average if style.landmarks is None else style.landmarks[0], average, amount)
    photos = [pil_to_tensor(load_image(path)).to(base.device) for path in config.face_paths]
    portraits = [load_face_portrait(photo, base.resolution, finder) for photo in photos] or _sample_portraits(
        config, base, finder, generator
    )
    return FitData(
        faces=tuple(
            build_face_sample(portrait, bank, base.vae, encode_identity, extract_structure, offset)
            for portrait in portraits
        ),
        style_latents=encode_style_crops(base.vae, style, painting, generator).float(),
        style_patches=bank,
        style_grams=encode_style_grams(base.vae, scene),
        vae=base.vae,
        num_train_timesteps=int(base.scheduler.config.num_train_timesteps),
        encode_identity=encode_identity,
        extract_structure=extract_structure,
        regress_landmarks=_build_regressor(finder, base.resolution),
    )


def load_style_portrait(painting: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """Cut the style image (1,3,H,W) to its face where one is found, else to its middle square: it needs no face."""
    if finder is not None:
        try:
            return load_face_portrait(painting, size, finder)
        except NoFaceFoundError:
            pass
    side = min(painting.shape[-2:])
    top, left = ((length - side) // 2 for length in painting.shape[-2:])
    return Portrait(resize(painting[..., top : top + side, left : left + side], size), None, None, ())


def place_painting(painting: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """The whole style image (1,3,H,W), its shorter side `size` pixels, with the regions of its largest face."""
    height, width = painting.shape[-2:]
    scale = size / min(height, width)
    target = tuple(SIDE_STEP * max(1, round(length * scale / SIDE_STEP)) for length in (height, width))
    image = resize(painting, (target[0], target[1]))
    faces = [] if finder is None else find_faces(painting, finder, max_faces=1)
    if not faces:
        return Portrait(image, None, None, ())
    ratio = painting.new_tensor([target[1] / width, target[0] / height])
    landmarks = (faces[0].landmarks.to(painting)[None] + 0.5) * ratio - 0.5
    return Portrait(image, landmarks, draw_regions(landmarks, (target[0], target[1])), REGIONS)


def load_face_portrait(photo: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """Cut a photograph (1,3,H,W) to its largest face; without a finder the whole picture is taken as a portrait.

    Raises:
        NoFaceFoundError: none was found.
    """
    if finder is None:
        landmarks = place_mean_face(size).to(photo.device)[None]
        return Portrait(resize(photo, size), landmarks, draw_regions(landmarks, (size, size)), REGIONS)
    face = find_face(photo, finder)
    landmarks = face.landmarks.to(photo)[None]
    image, transform = portrait_crop(photo, landmarks, size)
    placed = transform_points(landmarks, transform)
    return Portrait(image.clamp(-1, 1), placed, draw_regions(placed, (size, size)), REGIONS)


def place_mean_face(size: int) -> Tensor:
    """Landmarks (189,2) of the average face in canonical framing, pixels."""
    landmarks = torch.from_numpy(mean_shape())[None]
    return transform_points(landmarks, portrait_transform(landmarks, size))[0]


@torch.no_grad()
def _sample_portraits(
    config: FitConfig, base: Base, finder: FaceFinder | None, generator: torch.Generator
) -> list[Portrait]:
    """Faces drawn from the base itself, for a style that is fitted without photographs."""
    prompts = [SAMPLED_FACE_PROMPTS[i % len(SAMPLED_FACE_PROMPTS)] for i in range(config.num_sampled_faces)]
    embeds = encode_prompt(base, prompts)
    hidden = torch.cat([embeds.negative_prompt_embeds, embeds.prompt_embeds])

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_guided(base.unet, latents, timestep, hidden, SAMPLED_FACE_GUIDANCE)

    timesteps = select_timesteps(base.scheduler, SAMPLED_FACE_STEPS, 1.0, base.device)
    size = base.unet.config.sample_size
    shape = (len(prompts), base.unet.config.in_channels, size, size)
    noise = torch.randn(shape, generator=generator).to(base.device)
    latents = denoise(predict, base.scheduler, noise * base.scheduler.init_noise_sigma, timesteps)
    pictures = decode_latents(base.vae, latents).clamp(-1, 1)
    return [_frame_sampled_face(picture, base.resolution, finder) for picture in pictures.split(1)]


def _frame_sampled_face(picture: Tensor, size: int, finder: FaceFinder | None) -> Portrait:
    """The base draws in canonical framing, so a face that is not found is taken to be where it should be."""
    try:
        return load_face_portrait(picture, size, finder)
    except NoFaceFoundError:
        return load_face_portrait(picture, size, None)


def _build_identity(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    encoder = load_identity_encoder().to(device)

    def encode(images: Tensor, landmarks: Tensor) -> Tensor:
        embeds: Tensor = encoder(face_crop(images.float(), landmarks))
        return embeds

    return encode


def _no_identity(images: Tensor, landmarks: Tensor) -> Tensor:
    """Stands in where no loss asks for identities: one constant direction."""
    return images.new_ones((len(images), 1))


def _build_structure(device: torch.device) -> Callable[[Tensor], list[Tensor]]:
    """The identity encoder's coarser stages: trained to see the same face in any paint, they say little of colour."""
    stages = FeatureStages(load_identity_encoder().to(device))

    def extract(images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = stages(resize(images.float(), STRUCTURE_SIZE))
        return maps[-NUM_STRUCTURE_STAGES:]

    return extract


def _no_structure(images: Tensor) -> list[Tensor]:
    """Stands in where no loss asks for structure."""
    return []


def _build_regressor(finder: FaceFinder | None, size: int) -> Callable[[Tensor], Tensor]:
    """Landmarks of pictures in canonical framing, differentiable; one pass, since the pose is known."""
    pose = torch.tensor([[[size, 0, -0.5], [0, size, -0.5]]], dtype=torch.float32)

    def regress(images: Tensor) -> Tensor:
        assert finder is not None  # `prepare` has seen to it
        poses = pose.to(images.device).expand(len(images), -1, -1)
        return regress_landmarks(finder, images.float(), poses, num_passes=1).landmarks

    return regress
