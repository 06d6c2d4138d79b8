"""What a fit minimises: five objectives behind one interface.

Each draws a batch of noised latents and turns the predicted clean latents into named losses; weights share the names.

`shared`      ACFun's imagery alignment loss as printed: one prediction is pulled to both images. Kept for the record.
`two_target`  face and style are noised and predicted each by itself.
`time_split`  as two_target, the face weighted up where noise is high, the style where it is low.
`imagery`     the face is noised; its decoded prediction is pulled to the style in statistics, region by region, and to
              the face in structure, shading and identity (`acfun.imagery`).
`pseudo_pair` the photograph, or its pair, is noised and its pair predicted: the same face as guided sampling of the
              bare base paints it before the fit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from acfun import losses
from acfun.base.vae_features import decode_latents
from acfun.fit_data import FitData
from acfun.imagery import TERMS, FaceTargets

TIME_SPLIT_CENTRE, TIME_SPLIT_WIDTH = 0.45, 0.1
FACE_TIMESTEPS = (0.15, 0.80)
STYLE_TIMESTEPS = (0.0, 0.40)
IMAGERY_SHARE = 0.75


@dataclass(frozen=True)
class Batch:
    """Rows to be denoised.

    Attributes:
        latents: (B,C,h,w) clean; the first `len(faces)` rows are faces, the others the style.
        noise: (B,C,h,w).
        timesteps: (B,) int64.
        faces: the samples behind the first rows.
        indices: of those faces in the data.
        directions: random unit directions (D, K) of the step's sliced distances.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    faces: tuple[FaceTargets, ...]
    indices: tuple[int, ...]
    directions: Tensor


@dataclass(frozen=True)
class Objective:
    """One objective: which rows it draws, and its losses.

    Attributes:
        style_losses: those that need style latents to be denoised beside the faces.
        face_timesteps: range of t / T for face rows.
        style_timesteps: range of t / T for style rows.
        compare_latents: (data, batch, pred_original_sample, timestep_weights) → losses on latents by name.
        imagery_share: share of face rows that start from the painted face; sampling passes through such, and a fit that
            has only seen photographs paints them over and over.
    """

    style_losses: frozenset[str]
    face_timesteps: tuple[float, float]
    style_timesteps: tuple[float, float]
    compare_latents: Callable[[FitData, Batch, Tensor, Tensor], dict[str, Tensor]]
    imagery_share: float = 0.0

    def sample(
        self, data: FitData, batch_size: int, generator: torch.Generator, names: frozenset[str], imagery: Tensor
    ) -> Batch:
        """Draw `batch_size` faces and, where a loss in `names` needs them, as many style latents.

        Args:
            data: of the fit.
            batch_size: faces.
            generator: of everything drawn.
            names: of the losses that have a weight.
            imagery: (F,C,h,w) how the fit so far paints each face of the data; some rows start from it.
        """
        indices = torch.randint(len(data.faces), (batch_size,), generator=generator).tolist()
        is_painted = (torch.rand(batch_size, generator=generator) < self.imagery_share).tolist()
        faces = tuple(data.faces[i] for i in indices)
        sources = zip(indices, is_painted, strict=True)
        latents = [imagery[i] if painted else data.face_latents[i] for i, painted in sources]
        steps = data.num_train_timesteps
        timesteps = [_sample_timesteps(self.face_timesteps, steps, batch_size, generator)]
        if names & self.style_losses:
            rows = torch.randint(len(data.style_latents), (batch_size,), generator=generator)
            latents += [data.style_latents[i] for i in rows]
            timesteps.append(_sample_timesteps(self.style_timesteps, steps, batch_size, generator))
        clean, device = torch.stack(latents), data.style_latents.device
        return Batch(
            latents=clean,
            noise=torch.randn(clean.shape, generator=generator).to(device),
            timesteps=torch.cat(timesteps).to(device),
            faces=faces,
            indices=tuple(indices),
            directions=data.imagery.sample_directions(generator).to(device),
        )

    def compute(
        self, data: FitData, batch: Batch, pred_original_sample: Tensor, alphas_cumprod: Tensor, names: frozenset[str]
    ) -> dict[str, Tensor]:
        """Losses of a batch, those that `names` asks for.

        Args:
            data: of the fit.
            batch: from `sample`.
            pred_original_sample: x̂0 (B,C,h,w) of the batch's rows.
            alphas_cumprod: (B,) at the batch's timesteps.
            names: of the losses that have a weight.
        """
        weights = losses.compute_timestep_weights(alphas_cumprod)
        terms = self.compare_latents(data, batch, pred_original_sample, weights)
        terms |= _compute_face_terms(data, batch, pred_original_sample, alphas_cumprod, names)
        return {name: term for name, term in terms.items() if name in names}


def _sample_timesteps(part: tuple[float, float], steps: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(round(part[0] * steps), round(part[1] * steps), (count,), generator=generator)


def _compare_shared(data: FitData, batch: Batch, pred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    style = data.style_latents[:1].expand_as(pred)
    return {
        "style": losses.latent_distance(pred, style, weights),
        "face": losses.latent_distance(pred, batch.latents, weights),
    }


def _compare_two_target(data: FitData, batch: Batch, pred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    count = len(batch.faces)
    return {
        "style": losses.latent_distance(pred[count:], batch.latents[count:], weights[count:]),
        "face": losses.latent_distance(pred[:count], batch.latents[:count], weights[:count]),
    }


def _compare_time_split(data: FitData, batch: Batch, pred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    noise_level = batch.timesteps.to(pred) / data.num_train_timesteps
    face_share = torch.sigmoid((noise_level - TIME_SPLIT_CENTRE) / TIME_SPLIT_WIDTH)
    is_face = torch.arange(len(pred), device=pred.device) < len(batch.faces)
    return _compare_two_target(data, batch, pred, weights * torch.where(is_face, face_share, 1 - face_share))


def _compare_imagery(data: FitData, batch: Batch, pred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    count = len(batch.faces)
    return {"denoise": losses.latent_distance(pred[count:], batch.latents[count:], weights[count:])}


def _compute_face_terms(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    """Terms on the decoded faces that `names` asks for."""
    if not names & TERMS:
        return {}
    images = decode_latents(data.vae, pred[: len(batch.faces)])
    clarity = alphas[: len(batch.faces)].sqrt()
    return data.imagery.compute_terms(images, batch.faces, clarity, batch.directions, names)


def _compare_pairs(data: FitData, batch: Batch, pred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    assert data.pair_latents is not None
    count = len(batch.faces)
    pairs = data.pair_latents[list(batch.indices)]
    terms = {"pair": losses.latent_distance(pred[:count], pairs, weights[:count])}
    return terms | {"denoise": losses.latent_distance(pred[count:], batch.latents[count:], weights[count:])}


OBJECTIVES = {
    "shared": Objective(frozenset(), (0.0, 1.0), (0.0, 1.0), _compare_shared),
    "two_target": Objective(frozenset({"style"}), (0.0, 1.0), (0.0, 1.0), _compare_two_target),
    "time_split": Objective(frozenset({"style"}), (0.0, 1.0), (0.0, 1.0), _compare_time_split),
    "imagery": Objective(frozenset({"denoise"}), FACE_TIMESTEPS, STYLE_TIMESTEPS, _compare_imagery, IMAGERY_SHARE),
    "pseudo_pair": Objective(frozenset({"denoise"}), FACE_TIMESTEPS, STYLE_TIMESTEPS, _compare_pairs, IMAGERY_SHARE),
}
