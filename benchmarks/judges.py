"""How far each judge of people can be trusted across a style.

`python -m benchmarks.judges`

A judge sees a photograph and the truth that a style's own painter makes of one, of people whom no network was trained
on, and says how alike they are. AUC is the chance that it finds a person more like himself than like another (0.5 is
guessing), rank 1 the share of people whom it finds most like themselves.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acfun.base import Base, load_base
from acfun.base.image_embeds import encode_image
from acfun.evaluation import features, geometry, metrics
from acfun.evaluation.suites import RENDERERS, Scene, build_paired
from acfun.face.align import face_crop
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder
from acfun.face.recognition import load_recognition
from acfun.synthetic.renderers import HELD_OUT_RENDERERS

Judge = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]
"""Features (B,…) of the truths and of the photographs, and their similarity (B,)."""


def build_judges(base: Base, scene: Scene, identity_encoder: str | None) -> dict[str, Judge]:
    """Features of both sides, and how each judge compares them."""
    assert scene.truths is not None
    sides = (scene.truths, (scene.faces, scene.landmarks))
    encoders: dict[str, nn.Module] = {"identity": load_identity_encoder()}
    encoders |= {} if identity_encoder is None else {"identity_2": load_recognition(identity_encoder)}
    judges: dict[str, Judge] = {}
    for name, encoder in encoders.items():
        first, second = (features.extract_identity(encoder, *side) for side in sides)
        judges[name] = (first, second, metrics.compute_cosine)
    first, second = (features.extract_face_tokens(base, *side) for side in sides)
    judges["clip_face"] = (first, second, metrics.compute_face_similarity)
    first, second = (embed_crops(base, *side) for side in sides)
    judges["pooled CLIP"] = (first, second, metrics.compute_cosine)
    first, second = (features.extract_landmarks(load_face_finder(), *side) for side in sides)
    judges["shape_distance"] = (first, second, lambda a, b: -geometry.compute_shape_distance(a, b))
    return judges


@torch.no_grad()
def embed_crops(base: Base, images: Tensor, landmarks: Tensor) -> Tensor:
    """CLIP's pooled embeddings (B,D) of the inner face: the plain way, for comparison."""
    return F.normalize(encode_image(base, face_crop(images, landmarks)).pooled.float(), dim=-1)


def rate(judge: Judge) -> tuple[float, float]:
    """AUC and rank 1 over all pairs of people."""
    truths, photos, compare = judge
    # Row s holds everybody against whoever stands s places further.
    rows = torch.stack([compare(truths, photos.roll(-s, 0)) for s in range(len(truths))])
    same, others = rows[0], rows[1:]
    return float((same > others).float().mean()), float((same > others.amax(0)).float().mean())


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--styles", nargs="+", default=sorted(HELD_OUT_RENDERERS), choices=sorted(RENDERERS))
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--identity-encoder")
    args = parser.parse_args()
    base = load_base(args.base)
    table: dict[str, list[str]] = {}
    for name in args.styles:
        scene = build_paired(name, 0, base.resolution, args.people)
        for judge, parts in build_judges(base, scene, args.identity_encoder).items():
            auc, rank = rate(parts)
            table.setdefault(judge, []).append(f"{auc:.2f}, {rank:.2f}")
    print(f"| judge (AUC, rank 1 of {args.people}) | {' | '.join(args.styles)} |")
    print("|---" * (len(args.styles) + 1) + "|")
    for judge, cells in table.items():
        print(f"| {judge} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
