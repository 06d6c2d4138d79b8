"""Find faces and their 189 landmarks in photographs, paintings and renderings, with two small networks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from acfun.errors import NoFaceFoundError
from acfun.face.align import (
    FIVE_POINT_INDICES,
    INTER_PUPIL_FRACTION,
    compose_transforms,
    invert_transform,
    similarity_transform,
    transform_points,
    warp,
)
from acfun.face.networks import DETECTOR_STRIDE, FaceDetector, LandmarkRegressor
from acfun.face.refiner import LandmarkRefiner
from acfun.face.storage import StoredModule
from acfun.paths import mini_dir

# Ears, hairline and the outline of the hair vary without the head moving.
POSE_INDICES = (*range(109), *range(125, 134), *range(158, 183))
DETECTION_SIZES = (128, 256, 512)
MIN_SCORE = 0.35
NUM_PASSES = 2
_MIN_HEAT = 0.1
MAX_FACES = 64
_MAX_ENLARGEMENT = 2.0
_SAME_FACE_DISTANCE = 0.35
_DOUBTFUL_ERROR = 0.15

PointDetector = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Image (1,3,H,W) in [-1,1] → eyes, nose and corners of the mouth (N,5,2) in pixels, and scores (N,) in [0,1]."""


@dataclass(frozen=True)
class Face:
    """A face in an image.

    Attributes:
        box: (left, top, right, bottom) around the landmarks, pixels.
        landmarks: (189,2) pixels, may lie outside the image.
        score: in [0,1], the chance of a face as both networks see it, times the trust in its landmarks.
    """

    box: tuple[float, float, float, float]
    landmarks: Tensor
    score: float

    @classmethod
    def from_landmarks(cls, landmarks: Tensor, score: float) -> Self:
        """A face with the box that is around its landmarks."""
        left, top, right, bottom = torch.cat([landmarks.amin(0), landmarks.amax(0)]).tolist()
        return cls((left, top, right, bottom), landmarks.cpu(), score)

    @property
    def extent(self) -> float:
        """The longer side of its box, pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)

    def is_at(self, other: "Face") -> bool:
        """Whether both are the same face of a picture: their centres lie within each other."""
        apart = float((self.landmarks.mean(0) - other.landmarks.mean(0)).norm())
        return apart <= _SAME_FACE_DISTANCE * max(self.extent, other.extent)


@dataclass(frozen=True)
class Landmarks:
    """What the regressor says of B faces.

    Attributes:
        landmarks: (B,189,2) pixels.
        presence: (B,) in [0,1], the chance of a face.
        error: (B,) expected mean distance to the true landmarks, as a fraction of the pupils' distance.
    """

    landmarks: Tensor
    presence: Tensor
    error: Tensor


class FaceFinder(StoredModule):
    """A detector, a landmark regressor and, where it has one, a refiner, saved together.

    Args:
        detector_channels: of the detector's three levels.
        detector_dilations: of its residual units.
        regressor_channels: of the regressor's four levels.
        hidden_size: of the regressor's last hidden layer.
        crop_size: width of the regressor's input, pixels.
        mean_shape: (189,2) in the unit frame; zeros to be filled by loading.
        refiner: arguments of the `LandmarkRefiner`; None for a finder without one.

    Attributes:
        point_detector: of another library, which finds faces in place of the embedded detector; None for that one.
    """

    kind, script = "face finder", "train/pretrain_face_finder.py"

    def __init__(
        self,
        *,
        detector_channels: Sequence[int] = (16, 32, 48),
        detector_dilations: Sequence[int] = (1, 2, 4, 1),
        regressor_channels: Sequence[int] = (16, 32, 64, 128),
        hidden_size: int = 128,
        crop_size: int = 96,
        mean_shape: Tensor | None = None,
        refiner: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "detector_channels": list(detector_channels),
            "detector_dilations": list(detector_dilations),
            "regressor_channels": list(regressor_channels),
            "hidden_size": hidden_size,
            "crop_size": crop_size,
            "refiner": dict(refiner) if refiner is not None else None,
        }
        self.detector = FaceDetector(detector_channels, detector_dilations)
        self.regressor = LandmarkRegressor(regressor_channels, hidden_size, crop_size, mean_shape)
        self.refiner = LandmarkRefiner(**refiner) if refiner is not None else None
        self.point_detector: PointDetector | None = None


@lru_cache(maxsize=1)
def load_face_finder() -> FaceFinder:
    """Load the finder embedded in the package; the same object every time.

    Raises:
        BaseNotFoundError: the installation has none.
    """
    return FaceFinder.from_pretrained(mini_dir() / "face_finder").requires_grad_(False)


@torch.no_grad()
def find_faces(
    image: Tensor, finder: FaceFinder | None = None, *, max_faces: int = MAX_FACES, min_score: float = MIN_SCORE
) -> list[Face]:
    """Find the faces of an image, the largest first.

    Args:
        image: (3,H,W) or (1,3,H,W) in [-1,1], of any size.
        finder: the embedded one when None.
        max_faces: how many at most.
        min_score: in [0,1]; lower finds more faces and more that are none.

    Raises:
        ValueError: the image is no single colour image.
    """
    finder = finder or load_face_finder()
    batch = image.unsqueeze(0) if image.ndim == 3 else image
    if batch.ndim != 4 or batch.shape[:2] != (1, 3):
        raise ValueError(f"image has shape {tuple(image.shape)}; find_faces takes one image, (3,H,W) or (1,3,H,W)")
    batch = batch.to(finder.regressor.mean_shape)
    look = _look_at_sizes if finder.point_detector is None else _look_with_points
    faces = _drop_duplicates(look(finder, batch, min_score))
    return sorted(faces, key=lambda face: face.extent, reverse=True)[:max_faces]


def find_face(image: Tensor, finder: FaceFinder | None = None, *, min_score: float = MIN_SCORE) -> Face:
    """Find the largest face of an image; arguments as for `find_faces`.

    Raises:
        NoFaceFoundError: there is none that can be trusted.
    """
    faces = find_faces(image, finder, max_faces=1, min_score=min_score)
    if not faces:
        raise NoFaceFoundError(f"{explain_no_face(image)}; or lower min_score, which is {min_score:g}")
    return faces[0]


def require_face(photo: Tensor, finder: FaceFinder | None = None) -> Face:
    """As `find_face`, for photographs (1,3,H,W) whose user has no say in the score."""
    faces = find_faces(photo, finder, max_faces=1)
    if not faces:
        raise NoFaceFoundError(explain_no_face(photo))
    return faces[0]


def explain_no_face(image: Tensor) -> str:
    """What is wrong with an image (…,H,W) without a face, and what to do."""
    return (
        f"no face was found in {image.shape[-1]}x{image.shape[-2]} px: give a picture with both eyes visible and the "
        "head upright, or crop it closer"
    )


def fit_pose(landmarks: Tensor, mean_shape: Tensor) -> Tensor:
    """The (B,2,3) similarity from the unit frame of the (189,2) mean shape to that of (B,189,2) landmarks."""
    indices = list(POSE_INDICES)
    source = mean_shape[indices].to(landmarks).expand(len(landmarks), -1, -1)
    return similarity_transform(source, landmarks[:, indices])


def frame_faces(images: Tensor, poses: Tensor, size: int) -> Tensor:
    """Crops (B,3,size,size) of images (B,3,H,W), or of one (1,3,H,W), that show their unit frames, poses (B,2,3)."""
    to_crop = poses.new_tensor([[size, 0, -0.5], [0, size, -0.5]]).expand(len(poses), -1, -1)
    transforms = compose_transforms(to_crop, invert_transform(poses))
    pictures = images.expand(len(poses), -1, -1, -1)
    crops = [warp(pictures[i : i + 1], transforms[i : i + 1], (size, size)) for i in range(len(poses))]
    return torch.cat(crops) if crops else images.new_zeros(0, 3, size, size)


def regress_landmarks(finder: FaceFinder, images: Tensor, poses: Tensor, *, num_passes: int = NUM_PASSES) -> Landmarks:
    """Find the landmarks of faces whose rough poses are known, each pass on a crop aligned by the one before.

    The refiner, where there is one, has the last word on where they are, not on whether there is a face.

    Args:
        finder: in evaluation mode.
        images: (B,3,H,W) in [-1,1], or one (1,3,H,W) with all of the faces.
        poses: (B,2,3), unit frame → pixels of the images.
        num_passes: at least one.
    """
    regressor = finder.regressor
    for _ in range(num_passes):
        prediction = regressor(frame_faces(images, poses, regressor.crop_size))
        landmarks = transform_points(prediction.landmarks, poses)
        poses = fit_pose(landmarks, regressor.mean_shape)
    if finder.refiner is not None:
        crops = frame_faces(images, poses, finder.refiner.crop_size)
        unit = transform_points(landmarks, invert_transform(poses))
        landmarks = transform_points(finder.refiner(crops, unit, regressor.mean_shape)[-1], poses)
    error = prediction.log_error.exp() / INTER_PUPIL_FRACTION
    return Landmarks(landmarks, prediction.presence.sigmoid(), error)


def _look_at_sizes(finder: FaceFinder, image: Tensor, min_score: float) -> list[Face]:
    """Faces that the embedded detector sees, coarse to fine; there may be several of one."""
    candidates: list[Face] = []
    for size in _choose_sizes(image):
        poses, heat = detect_poses(finder, image, size)
        if len(poses):
            found = regress_landmarks(finder, image, poses)
            candidates += _describe(found, heat, min_score)
        # What is faint at a coarse size does not spare looking closer.
        if size >= DETECTION_SIZES[1] and any(face.score >= max(min_score, MIN_SCORE) for face in candidates):
            break
    return candidates


def _look_with_points(finder: FaceFinder, image: Tensor, min_score: float) -> list[Face]:
    """Faces that the other detector sees, which is trusted on whether they are any."""
    assert finder.point_detector is not None
    points, scores = finder.point_detector(image)
    if not len(points):
        return []
    source = finder.regressor.mean_shape[list(FIVE_POINT_INDICES)].expand(len(points), -1, -1)
    found = regress_landmarks(finder, image, similarity_transform(source, points))
    return _describe(replace(found, presence=scores), scores, min_score)


def _choose_sizes(image: Tensor) -> list[int]:
    """The longer sides at which to look, coarse to fine; a small image is not enlarged beyond need."""
    limit = _MAX_ENLARGEMENT * max(image.shape[-2:])
    return [size for size in DETECTION_SIZES if size <= limit] or [DETECTION_SIZES[0]]


def detect_poses(finder: FaceFinder, image: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find where faces may be.

    Args:
        finder: in evaluation mode.
        image: (1,3,H,W) in [-1,1].
        size: longer side at which to look, pixels.

    Returns:
        (poses (N,2,3), unit frame → pixels of the image; heat (N,) in [0,1]), the likeliest first.
    """
    height, width = image.shape[-2:]
    factor = size / max(height, width)
    scaled = (max(DETECTOR_STRIDE, round(height * factor)), max(DETECTOR_STRIDE, round(width * factor)))
    small = F.interpolate(image, scaled, mode="bilinear", antialias=True, align_corners=False)
    padding = [-length % DETECTOR_STRIDE for length in scaled]
    maps = finder.detector(F.pad(small, (0, padding[1], 0, padding[0]), mode="replicate"))
    heat = maps.heat.sigmoid()
    is_peak = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat > _MIN_HEAT)
    order = heat[is_peak].argsort(descending=True)[:MAX_FACES]
    x, y, extent, angle = (values[is_peak][order] for values in maps[1:])
    linear = extent[:, None, None] * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(
        -1, 2, 2
    )
    poses = torch.cat([linear, torch.stack([x, y], -1)[..., None] - linear.sum(-1, keepdim=True) / 2], -1)
    scale = poses.new_tensor([width / scaled[1], height / scaled[0]])
    to_image = torch.cat([torch.diag(scale), (0.5 * scale - 0.5)[:, None]], 1)
    return compose_transforms(to_image.expand(len(poses), -1, -1), poses), heat[is_peak][order]


def _describe(found: Landmarks, heat: Tensor, min_score: float) -> list[Face]:
    scores = (heat * found.presence).sqrt() / (1 + (found.error / _DOUBTFUL_ERROR) ** 2)
    rows = zip(found.landmarks, scores.tolist(), strict=True)
    return [Face.from_landmarks(landmarks, score) for landmarks, score in rows if score >= min_score]


def _drop_duplicates(candidates: list[Face]) -> list[Face]:
    """Keep the best of the faces whose centres lie within each other."""
    kept: list[Face] = []
    for face in sorted(candidates, key=lambda face: face.score, reverse=True):
        if not any(face.is_at(other) for other in kept):
            kept.append(face)
    return kept
