"""What a fit minimises: four objectives behind one interface.

Each draws a batch of noised latents and turns the predicted clean latents into named losses; the weights share the names.

`shared`      ACFun's imagery alignment loss as printed: one prediction is pulled to both images. Kept for the record.
`two_target`  face and style are noised and predicted each by itself.
`time_split`  as two_target, the face weighted up where noise is high, the style where it is low.
`imagery`     the face is noised; its decoded prediction is pulled to the style in statistics, region by region, and to the face
              in structure, identity and proportions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from acfun import losses
from acfun.base.vae_features import decode_latents, encode_features
from acfun.fit_data import FaceSample, FitData, PatchBank

TIME_SPLIT_CENTRE, TIME_SPLIT_WIDTH = 0.45, 0.1
FACE_TIMESTEPS = (0.15, 0.80)
STYLE_TIMESTEPS = (0.0, 0.40)
NUM_DIRECTIONS = 48


@dataclass(frozen=True)
class Batch:
    """Rows to be denoised.

    Attributes:
        latents: (B,C,h,w) clean; the first `len(faces)` rows are faces, the others the style.
        noise: (B,C,h,w).
        timesteps: (B,) int64.
        faces: the samples behind the first rows.
        directions: random unit directions (D, K) of the step's sliced distances.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    faces: tuple[FaceSample, ...]
    directions: Tensor


@dataclass(frozen=True)
class Objective:
    """One objective: which rows it draws, and its losses.

    Attributes:
        uses_style_rows: whether style latents are denoised beside the faces.
        face_timesteps: range of t / T for face rows.
        style_timesteps: range of t / T for style rows.
        compute: (data, batch, pred_original_sample, alphas_cumprod, names) → losses by name.
    """

    uses_style_rows: bool
    face_timesteps: tuple[float, float]
    style_timesteps: tuple[float, float]
    compute: Callable[["FitData", Batch, Tensor, Tensor, frozenset[str]], dict[str, Tensor]]

    def sample(self, data: FitData, num_train_timesteps: int, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw `batch_size` faces and, where the objective asks for it, as many style latents."""
        faces = tuple(data.faces[int(i)] for i in torch.randint(len(data.faces), (batch_size,), generator=generator))
        latents = [face.latents for face in faces]
        timesteps = [_sample_timesteps(self.face_timesteps, num_train_timesteps, batch_size, generator)]
        if self.uses_style_rows:
            latents += [
                data.style_latents[i]
                for i in torch.randint(len(data.style_latents), (batch_size,), generator=generator)
            ]
            timesteps.append(_sample_timesteps(self.style_timesteps, num_train_timesteps, batch_size, generator))
        clean = torch.stack(latents)
        return Batch(
            latents=clean,
            noise=torch.randn(clean.shape, generator=generator),
            timesteps=torch.cat(timesteps),
            faces=faces,
            directions=losses.sample_directions(data.patch_dimension, NUM_DIRECTIONS, generator),
        )


def _sample_timesteps(part: tuple[float, float], steps: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(round(part[0] * steps), round(part[1] * steps), (count,), generator=generator)


def _compute_shared(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    weights = losses.compute_timestep_weights(alphas)
    style = data.style_latents[:1].expand_as(pred)
    terms = {
        "style": losses.latent_distance(pred, style, weights),
        "face": losses.latent_distance(pred, batch.latents, weights),
    }
    return terms | _compute_face_terms(data, batch, pred, alphas, names)


def _compute_two_target(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    weights, count = losses.compute_timestep_weights(alphas), len(batch.faces)
    terms = {
        "style": losses.latent_distance(pred[count:], batch.latents[count:], weights[count:]),
        "face": losses.latent_distance(pred[:count], batch.latents[:count], weights[:count]),
    }
    return terms | _compute_face_terms(data, batch, pred, alphas, names)


def _compute_time_split(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    count = len(batch.faces)
    weights = losses.compute_timestep_weights(alphas)
    noise_level = batch.timesteps.to(pred) / data.num_train_timesteps
    face_share = torch.sigmoid((noise_level - TIME_SPLIT_CENTRE) / TIME_SPLIT_WIDTH)
    terms = {
        "style": losses.latent_distance(pred[count:], batch.latents[count:], (weights * (1 - face_share))[count:]),
        "face": losses.latent_distance(pred[:count], batch.latents[:count], (weights * face_share)[:count]),
    }
    return terms | _compute_face_terms(data, batch, pred, alphas, names)


def _compute_imagery(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    count = len(batch.faces)
    weights = losses.compute_timestep_weights(alphas)
    terms = (
        {"denoise": losses.latent_distance(pred[count:], batch.latents[count:], weights[count:])}
        if "denoise" in names
        else {}
    )
    return terms | _compute_face_terms(data, batch, pred, alphas, names)


def _compute_face_terms(
    data: FitData, batch: Batch, pred: Tensor, alphas: Tensor, names: frozenset[str]
) -> dict[str, Tensor]:
    """Terms on the decoded faces, those of them that `names` asks for."""
    wanted = names & {"statistics", "gram", "structure", "identity", "shape"}
    if not wanted:
        return {}
    image = decode_latents(data.vae, pred[: len(batch.faces)])
    terms = {}
    if wanted & {"gram", "structure"}:
        features = encode_features(data.vae, image)
        terms["gram"] = losses.gram_distance(features, data.style_grams)
        targets = [torch.stack(maps) for maps in zip(*(face.self_similarities for face in batch.faces), strict=True)]
        terms["structure"] = losses.structure_distance(features[-len(targets) :], targets)
    if "statistics" in wanted:
        terms["statistics"] = torch.stack(
            [
                _match_regions(image[i : i + 1], face, data.style_patches, batch.directions)
                for i, face in enumerate(batch.faces)
            ]
        ).mean()
    if "identity" in wanted:
        # A face is visible in the prediction only where the signal outweighs the noise.
        visible = alphas[: len(batch.faces)].sqrt().mean()
        embeds = data.encode_identity(image, torch.stack([face.landmarks for face in batch.faces]))
        terms["identity"] = visible * losses.identity_distance(
            embeds, torch.stack([face.identity_embeds for face in batch.faces])
        )
    if "shape" in wanted:
        landmarks = data.regress_landmarks(image)
        targets = torch.stack([face.shape_target for face in batch.faces])
        terms["shape"] = losses.shape_distance(
            landmarks, targets, torch.stack([face.inter_pupil for face in batch.faces])
        )
    return {name: term for name, term in terms.items() if name in wanted}


def _match_regions(image: Tensor, face: FaceSample, bank: PatchBank, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance region ↔ region, summed over scales, regions weighted by their area in the photograph."""
    total = image.new_zeros(())
    for level, regions in enumerate(bank.levels):
        patches = losses.extract_patches(image)
        for name, target in regions.items():
            points = losses.select_patches(patches, face.masks[level][name])
            if len(points):
                share = len(points) / len(patches)
                total = total + share * losses.sliced_wasserstein(points, target, directions)
        image = torch.nn.functional.avg_pool2d(image, 2)
    return total


OBJECTIVES = {
    "shared": Objective(False, (0.0, 1.0), (0.0, 1.0), _compute_shared),
    "two_target": Objective(True, (0.0, 1.0), (0.0, 1.0), _compute_two_target),
    "time_split": Objective(True, (0.0, 1.0), (0.0, 1.0), _compute_time_split),
    "imagery": Objective(True, FACE_TIMESTEPS, STYLE_TIMESTEPS, _compute_imagery),
}
