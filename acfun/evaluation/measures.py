"""What is measured of a result: the columns of the benchmark, and how each comes about."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from acfun.base import Base
from acfun.evaluation import features, geometry, metrics
from acfun.evaluation.suites import Scene
from acfun.face.finder import FaceFinder
from acfun.images import resize
from acfun.losses import sample_directions

Topic = Literal["style", "person", "leakage", "truth"]
TEXTS = ("a painting of a person", "a photo of a person")
NUM_DIRECTIONS = 32


@dataclass(frozen=True)
class Column:
    """One metric.

    Attributes:
        topic: what it is about.
        better: which way is better.
        text: what it says, in a line.
        is_share: whether rows have 0 or 1, and the mean is a share.
    """

    topic: Topic
    better: Literal["higher", "lower", "near 0"]
    text: str
    is_share: bool = False


COLUMNS = {
    "style_distance": Column("style", "lower", "Gram matrices of the VAE's features, to the style image"),
    "style_wasserstein": Column("style", "lower", "sliced Wasserstein distance of the VAE's features"),
    "stroke_distance": Column("style", "lower", "Gram matrices of fine light and shade, colour and contrast taken out"),
    "colour_distance": Column("style", "lower", "marginals of the colours in CIELAB"),
    "style_similarity": Column(
        "style", "higher", "cosine to the whole style image, by --style-encoder: CLIP-I, or CSD"
    ),
    "painted": Column("style", "higher", f"CLIP: more like “{TEXTS[0]}” than like “{TEXTS[1]}”"),
    "identity": Column("person", "higher", "embedded identity encoder, which guides acfun's sampling too"),
    "identity_2": Column("person", "higher", "the second identity encoder, of --identity-encoder"),
    "clip_face": Column("person", "higher", "what sets the faces apart in CLIP's patches, which no loss has seen"),
    "landmark_error": Column("person", "lower", "landmarks, to the truth's or the photograph's, in pupil distances"),
    "shape_distance": Column("person", "lower", "Procrustes distance of the same landmarks"),
    "ssim_face": Column("person", "higher", "structural similarity of the luminance to the photograph's"),
    "structure": Column("person", "lower", "self-similarity of CLIP's patches, against the photograph's"),
    "leakage": Column("leakage", "lower", "identity to the painted face, by the embedded encoder"),
    "leakage_2": Column("leakage", "lower", "identity to the painted face, by the second encoder"),
    "is_kept": Column("leakage", "higher", "identity at least twice leakage, both by the embedded encoder", True),
    "is_kept_2": Column("leakage", "higher", "the same by the second encoder", True),
    "pose_leakage": Column("leakage", "near 0", "share of the way from the photograph's pose to the painted face's"),
    "bleeding": Column("leakage", "lower", "colours around the face that are those of the painted face"),
    "ghosting": Column("leakage", "lower", "double exposure with the style image"),
    "to_truth": Column("truth", "lower", "features of the VAE, against the truth"),
    "ssim_truth": Column("truth", "higher", "structural similarity to the truth"),
    "identity_truth": Column("truth", "higher", "embedded identity encoder, to the truth in place of the photograph"),
    "identity_truth_2": Column("truth", "higher", "the same by the second encoder"),
    "clip_truth": Column("truth", "higher", "clip_face, to the truth in place of the photograph"),
}
"""Name → column. Those of the truth need one, `…_2` a second encoder, `style_similarity` a style encoder, `clip_face`
and `clip_truth` two people, leakages but ghosting a painted face."""


def measure(
    base: Base,
    encoder: nn.Module,
    scene: Scene,
    results: Tensor,
    *,
    finder: FaceFinder | None = None,
    second_encoder: nn.Module | None = None,
    style_encoder: nn.Module | None = None,
) -> list[dict[str, float]]:
    """The columns of each result (B,3,S,S) in [-1,1], by name, as far as they can be had.

    Identity is measured where the truth has the face's landmarks, if there is one, and shape and pose against them:
    styles may move them.

    Args:
        base: whose VAE and CLIP look.
        encoder: tells people.
        scene: what was painted.
        results: its faces, painted.
        finder: finds landmarks in the results; without one there are no columns of shape and pose.
        second_encoder: another judge of people; without one its columns are left out.
        style_encoder: `acfun.evaluation.style_judge.StyleJudge`; likewise.
    """
    columns = _measure_style(base, scene, results)
    columns |= _measure_person(base, encoder, scene, results)
    if second_encoder is not None:
        columns |= {
            f"{name}_2": values
            for name, values in _compare_identities(second_encoder, scene, results).items()
            if f"{name}_2" in COLUMNS
        }
    if style_encoder is not None:
        columns["style_similarity"] = metrics.compute_cosine(style_encoder(results), style_encoder(scene.picture))
    if finder is not None:
        columns |= _measure_shape(finder, scene, results)
    if scene.truths is not None:
        columns |= _measure_truth(base, scene.truths[0], results)
    names = [name for name in COLUMNS if name in columns]
    return [{name: float(columns[name][i]) for name in names} for i in range(len(results))]


def _measure_style(base: Base, scene: Scene, results: Tensor) -> dict[str, Tensor]:
    side, count = results.shape[-1], len(results)
    painting = scene.style.shrink(min(side, features.STAGE_SIZE)).painting.image
    stages, style = features.extract_stages(base.vae, results), features.extract_stages(base.vae, painting, None)
    sides = (resize(results, min(side, features.STAGE_SIZE)), painting)
    strokes = [features.extract_stages(base.vae, features.extract_strokes(image), None) for image in sides]
    generator = torch.Generator().manual_seed(0)
    directions = [sample_directions(stage.shape[1], NUM_DIRECTIONS, generator).to(stage) for stage in style]
    palette = features.extract_lab(painting)
    columns = {
        "style_distance": metrics.compute_style_distance(stages, _repeat(style, count)),
        "stroke_distance": metrics.compute_style_distance(strokes[0], _repeat(strokes[1], count)),
        "style_wasserstein": metrics.compute_wasserstein(stages, style, directions),
        "colour_distance": torch.stack(
            [metrics.compute_colour_distance(features.extract_lab(image), palette) for image in results.split(1)]
        ),
    }
    alignment = features.extract_text_alignment(base, results, TEXTS)
    return columns if alignment is None else columns | {"painted": alignment}


def _repeat(stages: list[Tensor], count: int) -> list[Tensor]:
    return [stage.expand(count, -1, -1, -1) for stage in stages]


def _measure_truth(base: Base, truths: Tensor, results: Tensor) -> dict[str, Tensor]:
    stages, stages_truth = (features.extract_stages(base.vae, images) for images in (results, truths))
    shades, shades_truth = (features.extract_luminance(images) for images in (results, truths))
    return {
        "to_truth": metrics.compute_perceptual_distance(stages, stages_truth),
        "ssim_truth": metrics.compute_ssim(shades, shades_truth),
    }


def _measure_person(base: Base, encoder: nn.Module, scene: Scene, results: Tensor) -> dict[str, Tensor]:
    shades, face_shades = features.extract_luminance(results), features.extract_luminance(scene.faces)
    style_shades = features.extract_luminance(scene.style.head.image).expand(len(results), -1, -1)
    columns = _compare_identities(encoder, scene, results) | {
        "ssim_face": metrics.compute_ssim(shades, face_shades),
        "structure": metrics.compute_structure_distance(
            features.extract_tokens(base, results), features.extract_tokens(base, scene.faces)
        ),
        "ghosting": metrics.compute_ghosting(shades, face_shades, style_shades),
    }
    if len(results) > 1:
        tokens = features.extract_face_tokens(base, results, _expect(scene))
        references = {"clip_face": (scene.faces, scene.landmarks)}
        references |= {} if scene.truths is None else {"clip_truth": scene.truths}
        columns |= {
            name: metrics.compute_face_similarity(tokens, features.extract_face_tokens(base, *pair))
            for name, pair in references.items()
        }
    bleeding = _measure_bleeding(scene, results)
    return columns if bleeding is None else columns | {"bleeding": bleeding}


def _compare_identities(encoder: nn.Module, scene: Scene, results: Tensor) -> dict[str, Tensor]:
    """identity; with a truth identity_truth, with a painted face leakage and is_kept too."""
    head = scene.style.head
    embeds = features.extract_identity(encoder, results, _expect(scene))
    identity = metrics.compute_cosine(embeds, features.extract_identity(encoder, scene.faces, scene.landmarks))
    columns = {"identity": identity}
    if scene.truths is not None:
        columns["identity_truth"] = metrics.compute_cosine(embeds, features.extract_identity(encoder, *scene.truths))
    if head.landmarks is not None:
        sitter = features.extract_identity(encoder, head.image, head.landmarks)
        leakage = metrics.compute_cosine(embeds, sitter.expand(len(results), -1))
        columns |= {"leakage": leakage, "is_kept": metrics.is_kept(identity, leakage)}
    return columns


def _measure_shape(finder: FaceFinder, scene: Scene, results: Tensor) -> dict[str, Tensor]:
    # The finder's own landmarks on both sides: what it always gets wrong counts for nothing.
    reference = scene.faces if scene.truths is None else scene.truths[0]
    found, expected = (features.extract_landmarks(finder, images, _expect(scene)) for images in (results, reference))
    columns = {
        "landmark_error": geometry.compute_landmark_error(found, expected),
        "shape_distance": geometry.compute_shape_distance(found, expected),
    }
    if scene.style.head.landmarks is not None:
        poses = [geometry.estimate_pose(points) for points in (found, expected, scene.style.head.landmarks)]
        columns["pose_leakage"] = geometry.compute_pose_leakage(*poses)
    return columns


def _measure_bleeding(scene: Scene, results: Tensor) -> Tensor | None:
    """None where the style image has no face, or nothing around it."""
    head = scene.style.head
    if head.landmarks is None:
        return None
    around, face = (
        features.extract_region_lab(head.image, head.landmarks, regions)
        for regions in (features.OUTSIDE_REGIONS, features.FACE_REGIONS)
    )
    outsides = [
        features.extract_region_lab(image, landmarks, features.OUTSIDE_REGIONS)
        for image, landmarks in zip(results.split(1), _expect(scene).split(1), strict=True)
    ]
    if not all(len(colours) for colours in (around, face, *outsides)):
        return None
    return torch.stack([metrics.compute_bleeding(colours, around, face) for colours in outsides])


def _expect(scene: Scene) -> Tensor:
    """Where the landmarks (B,189,2) of the results should be."""
    return scene.landmarks if scene.truths is None else scene.truths[1]
