"""What a fit minimises: four objectives behind one interface.

Each draws a batch of noised latents and turns the predicted clean latents into named losses; weights share the names.

`shared`      ACFun's imagery alignment loss as printed: one prediction is pulled to both images. Kept for the record.
`two_target`  face and style are noised and predicted each by itself.
`time_split`  as two_target, the face weighted up where noise is high, the style where it is low.
`imagery`     the face is noised; its decoded prediction is pulled to the style in statistics, region by region, and to
              the face in structure, identity and proportions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from acfun import losses
from acfun.base.vae_features import decode_latents, encode_features
from acfun.fit_data import FaceSample, FitData, PatchBank

TIME_SPLIT_CENTRE, TIME_SPLIT_WIDTH = 0.45, 0.1
FACE_TIMESTEPS = (0.15, 0.80)
STYLE_TIMESTEPS = (0.0, 0.40)
NUM_DIRECTIONS = 48
IMAGERY_SHARE = 0.5


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
    faces: tuple[FaceSample, ...]
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
        latents = [imagery[i] if painted else data.faces[i].latents for i, painted in sources]
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
            directions=losses.sample_directions(data.patch_dimension, NUM_DIRECTIONS, generator).to(device),
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
    if not names & {"statistics", "gram", "structure", "shading", "identity", "shape"}:
        return {}
    image, terms = decode_latents(data.vae, pred[: len(batch.faces)]), {}
    # A prediction from much noise is blurred: details, and who it is, are asked of it only as far as it can show them.
    clarity = alphas[: len(batch.faces)].sqrt()
    if "gram" in names:
        terms["gram"] = losses.gram_distance(encode_features(data.vae, image), data.style_grams, clarity)
    if "shading" in names:
        shading, masks = (torch.stack([getattr(f, name) for f in batch.faces]) for name in ("shading", "shading_masks"))
        terms["shading"] = losses.shading_distance(losses.compute_shading(image), shading, masks)
    if "structure" in names:
        similarities = zip(*(face.self_similarities for face in batch.faces), strict=True)
        targets = [torch.stack(maps) for maps in similarities]
        terms["structure"] = losses.structure_distance(data.extract_structure(image), targets)
    if "statistics" in names:
        rows = zip(image.split(1), batch.faces, clarity, strict=True)
        distances = [_match_regions(*row, data.style_patches, batch.directions) for row in rows]
        terms["statistics"] = torch.stack(distances).mean()
    if "identity" in names:
        embeds = data.encode_identity(image, torch.stack([face.landmarks for face in batch.faces]))
        target_embeds = torch.stack([face.identity_embeds for face in batch.faces])
        terms["identity"] = losses.identity_distance(embeds, target_embeds, clarity)
    if "shape" in names:
        shape_targets = torch.stack([face.shape_target for face in batch.faces])
        units = torch.stack([face.inter_pupil for face in batch.faces])
        terms["shape"] = losses.shape_distance(data.regress_landmarks(image), shape_targets, units)
    return terms


def _match_regions(image: Tensor, face: FaceSample, clarity: Tensor, bank: PatchBank, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance region ↔ region, weighted by area in the photograph, summed over scales.

    The coarsest scale counts fully, each finer one less by the factor `clarity` ().
    """
    total = image.new_zeros(())
    for level, regions in enumerate(bank.levels):
        patches = losses.extract_patches(image)
        for name, target in regions.items():
            points = losses.select_patches(patches, face.masks[level][name])
            if len(points):
                share = len(points) / len(patches)
                distance = losses.sliced_wasserstein(points, target, directions)
                total = total + share * clarity ** (len(bank.levels) - 1 - level) * distance
        image = F.avg_pool2d(image, 2)
    return total


OBJECTIVES = {
    "shared": Objective(frozenset(), (0.0, 1.0), (0.0, 1.0), _compare_shared),
    "two_target": Objective(frozenset({"style"}), (0.0, 1.0), (0.0, 1.0), _compare_two_target),
    "time_split": Objective(frozenset({"style"}), (0.0, 1.0), (0.0, 1.0), _compare_time_split),
    "imagery": Objective(frozenset({"denoise"}), FACE_TIMESTEPS, STYLE_TIMESTEPS, _compare_imagery, IMAGERY_SHARE),
}
