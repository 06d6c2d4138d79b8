"""Methods that a benchmark compares: acfun, its parts, and its peers, all on the same base.

Every method is prepared for a scene once and then paints its faces at each setting of its own strength dial, from the
photograph towards the style.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor
from torch.nn import functional as F

from acfun.base import Base
from acfun.base.vae_features import decode_latents, encode_features, encode_latents
from acfun.config import FitConfig, load_config
from acfun.errors import ConfigError
from acfun.evaluation.suites import Scene
from acfun.fit import fit_style
from acfun.images import array_to_tensor, save_image, tensor_to_array, tensor_to_pil
from acfun.losses import compute_gram, match_colours
from acfun.pipelines import build_pipeline
from acfun.style import Style

Painter = Callable[[float], Tensor]
"""Setting of the dial → the scene's faces, painted: (B,3,S,S) in [-1,1]."""

NUM_ROTATIONS = 24
GATYS_STEPS, GATYS_RATE = 120, 0.03


@dataclass(frozen=True)
class Method:
    """One way to paint.

    Attributes:
        prepare: (base, scene, seed) → painter.
        dial: what its settings are, in words.
        settings: of the dial, towards the style; the method's own default is `default`.
        default: one of them.
        is_seeded: whether other seeds give other pictures.
    """

    prepare: Callable[[Base, Scene, int], Painter]
    dial: str
    settings: tuple[float, ...]
    default: float
    is_seeded: bool = False


@dataclass(frozen=True)
class AcfunVariant:
    """acfun with some fields of `FitConfig` and arguments of the pipeline that differ from the defaults.

    Attributes:
        fit: fields of `FitConfig`.
        sampling: arguments of `FaceStylizationPipeline`.
        dial: the argument that the dial sets; None where it sets none.
        num_fitted: photographs of the scene that the style is fitted with.
        styles: what was fitted, by base, pictures, fields and seed; variants that share the dictionary share fits.
    """

    fit: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    dial: str | None = None
    num_fitted: int = 1
    styles: dict[str, Style] = field(default_factory=dict)

    def __call__(self, base: Base, scene: Scene, seed: int) -> Painter:
        """Fit the scene's style."""
        fitted = torch.cat([scene.picture.flatten(), scene.faces[: self.num_fitted].flatten()]).cpu().numpy()
        digest = hashlib.sha256(fitted.tobytes()).hexdigest()
        key = json.dumps([base.fingerprint, digest, dict(self.fit), seed])
        if key not in self.styles:
            self.styles[key] = self._fit(base, scene, seed)
        style = self.styles[key]

        def paint(setting: float) -> Tensor:
            pipe = build_pipeline(base)
            pipe.load_style(style)
            prompt = style.config["face_description"]
            dials = {} if self.dial is None else {self.dial: setting}
            try:
                images: Tensor = pipe(
                    f"a painting of {prompt}" if prompt else None,
                    face=scene.faces,
                    face_landmarks=scene.landmarks,
                    generator=torch.Generator().manual_seed(seed),
                    output_type="pt",
                    **(dict(self.sampling) | dials),
                ).images
            finally:
                pipe.unload_style()
            return images * 2 - 1

        return paint

    def _fit(self, base: Base, scene: Scene, seed: int) -> Style:
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder) / f"{i}.png") for i in range(self.num_fitted + 1)]
            for path, image in zip(paths, (*scene.faces[: self.num_fitted], scene.picture[0]), strict=True):
                save_image(tensor_to_pil(image), path)
            options = {"style_path": paths[-1], "face_paths": tuple(paths[:-1]), "seed": seed}
            return fit_style(load_config(FitConfig, overrides=options | dict(self.fit)), base=base)


def keep_photograph(base: Base, scene: Scene, seed: int) -> Painter:
    """The photograph itself: what every method must beat in style, and none in identity."""
    return lambda setting: scene.faces


def keep_truth(base: Base, scene: Scene, seed: int) -> Painter:
    """What the style's own painter makes of the photograph: how good a method can be, where that is known.

    Raises:
        ConfigError: nobody knows it for this scene.
    """
    if scene.truths is None:
        raise ConfigError(f"the truth of {scene.name!r} is not known; leave the method 'truth' to the suite 'paired'")
    truths, _ = scene.truths
    return lambda setting: truths


def transfer_statistics(base: Base, scene: Scene, seed: int) -> Painter:
    """Mean and deviation of the colours in CIELAB (Reinhard et al. 2001, https://doi.org/10.1109/38.946629)."""
    wanted = rgb2lab(tensor_to_array(scene.picture)).reshape(-1, 3)

    def paint(setting: float) -> Tensor:
        painted = []
        for face in scene.faces.split(1):
            lab = rgb2lab(tensor_to_array(face))
            pixels = lab.reshape(-1, 3)
            scaled = (lab - pixels.mean(0)) / (pixels.std(0) + 1e-6) * wanted.std(0) + wanted.mean(0)
            painted.append(array_to_tensor(lab2rgb(lab + setting * (scaled - lab)).astype("float32")))
        return torch.cat(painted).to(scene.faces)

    return paint


def transport_colours(base: Base, scene: Scene, seed: int) -> Painter:
    """Sliced optimal transport of the colours (Pitié et al. 2007, https://doi.org/10.1016/j.cviu.2006.11.011)."""
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.linalg.qr(torch.randn(NUM_ROTATIONS, 3, 3, generator=generator)).Q
    rotations, wanted = rotations.to(scene.faces), scene.picture[0].flatten(1).T

    def transport(face: Tensor) -> Tensor:
        pixels = face[0].flatten(1).T.clone()
        quantiles = (torch.arange(len(pixels), device=pixels.device) + 0.5) / len(pixels)
        for rotation in rotations:
            projected, targets = pixels @ rotation, (wanted @ rotation).sort(0).values
            at = (quantiles * len(targets)).long().clamp(max=len(targets) - 1)
            order = projected.argsort(0)
            pixels += (
                torch.zeros_like(projected).scatter(0, order, targets[at] - projected.gather(0, order)) @ rotation.T
            )
        return pixels.T.reshape(face.shape).clamp(-1, 1)

    transported = torch.cat([transport(face) for face in scene.faces.split(1)])
    return lambda setting: torch.lerp(scene.faces, transported, setting)


def match_covariance(base: Base, scene: Scene, seed: int) -> Painter:
    """The optimal map between normal distributions of RGB colours (Pitié & Kokaram 2007)."""
    wanted = scene.picture[0].flatten(1).T
    mapped = []
    for face in scene.faces:
        pixels = face.flatten(1).T
        mapped.append(match_colours(pixels, pixels.new_ones(len(pixels)), wanted).T.reshape(face.shape).clamp(-1, 1))
    return lambda setting: torch.lerp(scene.faces, torch.stack(mapped), setting)


@torch.no_grad()
def normalise_latents(base: Base, scene: Scene, seed: int) -> Painter:
    """Mean and deviation of each latent channel (adaptive instance normalisation, Huang & Belongie 2017)."""
    latents, wanted = encode_latents(base.vae, scene.faces), encode_latents(base.vae, scene.style.painting.image)
    (std, mean), (wanted_std, wanted_mean) = (torch.std_mean(part, (2, 3), keepdim=True) for part in (latents, wanted))
    moved = (latents - mean) / (std + 1e-6) * wanted_std + wanted_mean
    return lambda setting: decode_latents(base.vae, torch.lerp(latents, moved, setting)).clamp(-1, 1)


def descend_on_pixels(base: Base, scene: Scene, seed: int) -> Painter:
    """Gram matrices of the style, features of the face, of the VAE's encoder (Gatys et al. 2016).

    https://arxiv.org/abs/1508.06576. The dial is the weight of the style against the content.
    """
    with torch.no_grad():
        grams = [compute_gram(part) for part in encode_features(base.vae, scene.style.painting.image)]

    def paint(setting: float) -> Tensor:
        painted = []
        for face in scene.faces.split(1):
            with torch.no_grad():
                content = encode_features(base.vae, face)[-1]
            image = face.clone().requires_grad_()
            optimizer = torch.optim.Adam([image], lr=GATYS_RATE)
            for _ in range(GATYS_STEPS):
                found = encode_features(base.vae, image)
                pairs = zip(found, grams, strict=True)
                style = sum((compute_gram(part) - gram).abs().sum() / gram.abs().sum() for part, gram in pairs)
                loss = F.mse_loss(found[-1], content) / content.var() + setting * style
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            painted.append(image.detach().clamp(-1, 1))
        return torch.cat(painted)

    return paint


def edit_by_text(base: Base, scene: Scene, seed: int) -> Painter:
    """Noise the face and denoise it as "a painting of a person" (SDEdit, Meng et al. 2022, arXiv:2108.01073)."""

    def paint(setting: float) -> Tensor:
        images: Tensor = build_pipeline(base)(
            face=scene.faces,
            strength=setting,
            invert_face=False,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        return images * 2 - 1

    return paint


METHODS = {
    "photograph": Method(keep_photograph, "none", (1.0,), 1.0),
    "truth": Method(keep_truth, "none", (1.0,), 1.0),
    "acfun": Method(AcfunVariant(dial="imagery_scale"), "imagery_scale", (0.3, 1.0, 3.0), 1.0, is_seeded=True),
    "statistics": Method(transfer_statistics, "share", (0.5, 1.0), 1.0),
    "covariance": Method(match_covariance, "share", (0.5, 1.0), 1.0),
    "transport": Method(transport_colours, "share", (0.5, 1.0), 1.0, is_seeded=True),
    "latent_adain": Method(normalise_latents, "share", (0.5, 1.0), 1.0),
    "gatys": Method(descend_on_pixels, "style weight", (0.1, 1.0, 10.0), 1.0),
    "sdedit": Method(edit_by_text, "strength", (0.3, 0.5, 0.7), 0.5, is_seeded=True),
}
