"""Methods that a benchmark compares: acfun, its parts, and its peers, all on the same base.

Every method is prepared for a scene once and then paints its faces at each setting of its own strength dial, from the
photograph towards the style. The default of a peer (but gatys) is the setting nearest to the truth on the
suite `development`.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acfun.base import Base
from acfun.config import FitConfig, load_config
from acfun.errors import ConfigError
from acfun.evaluation.contract import Method, Painter
from acfun.evaluation.peers import attention, classic, editing, low_rank, words
from acfun.evaluation.suites import Scene
from acfun.fit import fit_style
from acfun.images import save_image, tensor_to_pil
from acfun.pipelines import build_pipeline
from acfun.style import Style

__all__ = ["METHODS", "AcfunVariant", "Method", "Painter"]


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
            config = load_config(FitConfig, overrides=options | dict(self.fit))
            style = fit_style(config, base=base)
        if "steps_done" in style.config:
            raise KeyboardInterrupt
        return style


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


METHODS = {
    "photograph": Method(keep_photograph, "none", (1.0,), 1.0),
    "truth": Method(keep_truth, "none", (1.0,), 1.0),
    "acfun": Method(AcfunVariant(dial="imagery_scale"), "imagery_scale", (0.3, 1.0, 3.0), 1.0, is_seeded=True),
    "statistics": Method(classic.transfer_statistics, "share", (0.5, 1.0), 1.0),
    "covariance": Method(classic.match_covariance, "share", (0.5, 1.0), 1.0),
    "transport": Method(classic.transport_colours, "share", (0.5, 1.0), 1.0, is_seeded=True),
    "latent_adain": Method(classic.normalise_latents, "share", (0.5, 1.0), 1.0),
    "gatys": Method(classic.descend_on_pixels, "style weight", (0.1, 1.0, 10.0), 1.0),
    "sdedit": Method(editing.edit_by_text, "strength", (0.3, 0.5, 0.7), 0.3, is_seeded=True),
    "textual_inversion": Method(words.invert_text, "strength", (0.3, 0.6, 0.9), 0.9, is_seeded=True),
    "dreamstyler": Method(words.invert_in_stages, "strength", (0.3, 0.6, 0.9), 0.9, is_seeded=True),
    "inst": Method(words.invert_by_attention, "strength", (0.3, 0.6, 0.9), 0.3, is_seeded=True),
    "dreambooth_lora": Method(low_rank.tune_attention, "strength", (0.3, 0.6, 0.9), 0.9, is_seeded=True),
    "b_lora": Method(low_rank.separate_blocks, "strength", (0.3, 0.6, 0.9), 0.9, is_seeded=True),
    "style_aligned": Method(attention.align_style, "strength", (0.6, 0.8, 1.0), 1.0),
    "styleid": Method(attention.inject_style, "gamma", (0.9, 0.75, 0.3), 0.3),
}
