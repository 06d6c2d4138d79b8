"""Find painted faces, which a finder trained on photographs and renderings sees but faintly.

Folds of cloth, jewels and stars are taken for faces as often as profiles are missed. What tells them apart is whether
a picture shows a face in other ways of seeing it, too: in a mirror, through half-closed eyes, and as a drawing of its
dark lines, where texture is nothing and a face is one still.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from acfun.face.align import fit_size, scale_points
from acfun.face.finder import Face, FaceFinder, find_faces, load_face_finder
from acfun.face.symmetry import mirror_landmarks
from acfun.images import blur, compute_luma, resize

MIN_SCORE = 0.1
USUAL_EXTENT = 0.4  # of a painted face, in shorter sides of the picture
SIDE = 640  # of the shorter side, pixels, beyond which a picture is looked at smaller
SOFTNESS, LINE_WIDTH, LINE_REACH, LINE_STRENGTH = 2.0, 1.0, 2.5, 8.0  # the first three are deviations of blurs, pixels
_MIN_VIEW_SCORE = 0.03


def find_painted_faces(
    picture: Tensor, finder: FaceFinder | None = None, *, min_score: float = MIN_SCORE
) -> list[Face]:
    """Find the faces of a painting or drawing, the most certain and largest first.

    Args:
        picture: (1,3,H,W) in [-1,1].
        finder: the embedded one when None.
        min_score: in [0,1], of a face whose longer side is `USUAL_EXTENT` of the picture's shorter one, or more; a
            smaller one needs as many times more as it is smaller.

    Returns:
        Each with the mean of its scores in all views, and of its landmarks, by the squares of these scores. Bars on
        the scores were set with the embedded detector; another one sees less in lines, and its scores are lower.

    Raises:
        BaseNotFoundError: the installation has no finder.
    """
    finder = finder or load_face_finder()
    whole = (picture.shape[-2], picture.shape[-1])
    size = fit_size(whole, SIDE)
    small = resize(picture, size)
    seen: list[dict[str, Face]] = []
    for view, face in sorted(_look(small, finder), key=lambda sighting: sighting[1].score, reverse=True):
        views = next((views for views in seen if any(face.is_at(other) for other in views.values())), {})
        if not views:
            seen.append(views)
        views.setdefault(view, face)
    usual, faces = USUAL_EXTENT * min(size), []
    for views in seen:
        face = _average(list(views.values()))
        if face.score * min(1.0, face.extent / usual) >= min_score:
            faces.append(Face.from_landmarks(scale_points(face.landmarks, size, whole), face.score))
    return sorted(faces, key=lambda face: face.score * face.extent, reverse=True)


def _average(sightings: Sequence[Face]) -> Face:
    scores = torch.tensor([face.score for face in sightings])
    weights = scores.square() / scores.square().sum()
    landmarks = torch.stack([face.landmarks for face in sightings])
    return Face.from_landmarks(torch.einsum("v,vpc->pc", weights, landmarks), float(scores.sum()) / NUM_VIEWS)


def draw_dark_lines(picture: Tensor) -> Tensor:
    """The dark lines of pictures (B,3,H,W) on white (difference of Gaussians; Winnemöller et al. 2012, section 2)."""
    luma = compute_luma(picture)[:, None]
    lines = (blur(luma, LINE_WIDTH) - blur(luma, LINE_REACH)).clamp(max=0)
    return (1 + LINE_STRENGTH * lines).clamp(-1, 1).expand_as(picture)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda picture: picture,
    "softened": lambda picture: blur(picture, SOFTNESS),
    "lines": draw_dark_lines,
}
MIRRORED = "mirrored"
NUM_VIEWS = len(VIEWS) + 1


def _look(picture: Tensor, finder: FaceFinder) -> Iterator[tuple[str, Face]]:
    """Views by name, and the faces that are seen in them, where they are in the picture itself."""
    for name, view in VIEWS.items():
        for face in find_faces(view(picture), finder, min_score=_MIN_VIEW_SCORE):
            yield name, face
    for face in find_faces(picture.flip(-1), finder, min_score=_MIN_VIEW_SCORE):
        mirrored = mirror_landmarks(face.landmarks, finder.regressor.mean_shape.cpu(), picture.shape[-1] - 1.0)
        yield MIRRORED, Face.from_landmarks(mirrored, face.score)
