"""From paths to `FitData`: read pictures, find faces, cut portraits, encode."""

import torch
from torch import Tensor

from acfun.base import Base, encode_prompt
from acfun.base.conditions import concatenate
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import predict_guided
from acfun.config import FitConfig
from acfun.devices import place
from acfun.errors import naming_photo
from acfun.face.detection import load_finder
from acfun.face.finder import FaceFinder
from acfun.face.identity import load_identity_encoder
from acfun.face.recognition import load_recognition
from acfun.fit_data import FitData, encode_style_crops
from acfun.guidance import paint_pairs
from acfun.imagery import Imagery
from acfun.images import load_image, pil_to_tensor
from acfun.portrait import Portrait, StyleImage, find_head, find_head_or_assume
from acfun.sampling import denoise, select_timesteps

SAMPLED_FACE_PROMPTS = (
    "a photo of a young woman with dark hair",
    "a photo of an old man with grey hair",
    "a photo of a smiling man with a beard",
    "a photo of a middle-aged woman with blond hair",
)
SAMPLED_FACE_STEPS = 24
SAMPLED_FACE_GUIDANCE = 2.0


def prepare(config: FitConfig, base: Base, generator: torch.Generator) -> FitData:
    """Encode what the fit looks at.

    Args:
        config: the fit.
        base: frozen; its networks encode and stay in the result.
        generator: draws crops of the style image and, without photographs, faces.

    Raises:
        ImageError: a picture cannot be read.
        NoFaceFoundError: a photograph without a face.
        BaseNotFoundError: the installation lacks a network that finds or tells faces.
        FaceModelError: the chosen identity encoder or face detector cannot be used.
        MissingExtraError: a library that one of them needs is not installed.
    """
    painting, finder = _read_picture(config.style_path, base), _load_finder(config, base)
    style = _describe_style(painting, base, finder)
    recognition = place(load_recognition(config.identity_encoder), base.device)
    encoder = place(load_identity_encoder(), base.device)
    imagery = Imagery(style, base.resolution, base.vae, encoder, recognition)
    portraits = [_cut_portrait(path, base, finder) for path in config.face_paths] or _sample_portraits(
        config, base, finder, generator
    )
    faces = tuple(imagery.describe(portrait) for portrait in portraits)
    return FitData(
        face_latents=torch.cat([encode_latents(base.vae, portrait.image) for portrait in portraits]),
        pair_latents=paint_pairs(base, imagery, portraits, faces) if "pair" in config.loss_weights() else None,
        faces=faces,
        style=style,
        style_latents=encode_style_crops(base.vae, imagery.style.head.image, painting, generator),
        imagery=imagery,
        vae=base.vae,
        num_train_timesteps=int(base.scheduler.config.num_train_timesteps),
    )


def prepare_style(config: FitConfig, base: Base) -> StyleImage:
    """The style image and what is known of its face: all that a fit of no steps looks at.

    Args:
        config: the fit.
        base: on whose device the image goes.

    Raises:
        ImageError: the picture cannot be read.
        BaseNotFoundError: the installation lacks the face finder.
        FaceModelError: the chosen face detector cannot be used.
        MissingExtraError: a library that it needs is not installed.
    """
    return _describe_style(_read_picture(config.style_path, base), base, _load_finder(config, base))


def _describe_style(painting: Tensor, base: Base, finder: FaceFinder | None) -> StyleImage:
    return StyleImage.for_base(painting, base.resolution, finder)


def _read_picture(path: str, base: Base) -> Tensor:
    return pil_to_tensor(load_image(path)).to(base.device)


def _cut_portrait(path: str, base: Base, finder: FaceFinder | None) -> Portrait:
    photo = _read_picture(path, base)
    with naming_photo(path):
        return find_head(photo, base.resolution, finder)


def _load_finder(config: FitConfig, base: Base) -> FaceFinder | None:
    return place(load_finder(config.face_detector, config.device), base.device) if config.framing == "find" else None


@torch.no_grad()
def _sample_portraits(
    config: FitConfig, base: Base, finder: FaceFinder | None, generator: torch.Generator
) -> list[Portrait]:
    """Faces drawn from the base itself, for a style that is fitted without photographs."""
    prompts = [SAMPLED_FACE_PROMPTS[i % len(SAMPLED_FACE_PROMPTS)] for i in range(config.num_sampled_faces)]
    embeds = encode_prompt(base, prompts)
    conditions = concatenate([embeds.negative, embeds.positive])

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return predict_guided(base.unet, latents, timestep, conditions, SAMPLED_FACE_GUIDANCE)

    timesteps = select_timesteps(base.scheduler, SAMPLED_FACE_STEPS, 1.0, base.device)
    size = base.unet.config.sample_size
    shape = (len(prompts), base.unet.config.in_channels, size, size)
    noise = torch.randn(shape, generator=generator).to(base.device)
    latents = denoise(predict, base.scheduler, noise * base.scheduler.init_noise_sigma, timesteps)
    pictures = [decode_latents(base.vae, one).clamp(-1, 1) for one in latents.split(1)]
    return [find_head_or_assume(picture, base.resolution, finder) for picture in pictures]
