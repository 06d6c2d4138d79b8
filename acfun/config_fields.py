"""What the options of a fit are: files, keys, manifests and model cards choose by it."""

from typing import Literal

FieldKind = Literal[
    "option", "painting", "photos", "base", "image_encoder", "face_model", "seed", "device", "memory", "run"
]

# Each field of `FitConfig` is of one kind.
FIELDS_BY_KIND: dict[FieldKind, tuple[str, ...]] = {
    "painting": ("style_path",),
    "photos": ("face_paths",),
    "base": ("base", "base_config"),
    "image_encoder": ("image_encoder",),
    "face_model": ("identity_encoder", "face_detector"),
    "option": (
        "framing",
        "objective",
        "cfun",
        "cfun_groups",
        "cfun_rank",
        "use_afun",
        "placeholder",
        "num_token_vectors",
        "face_description",
        "learning_rate",
        "max_steps",
        "batch_size",
        "max_grad_norm",
        "style_weight",
        "face_weight",
        "identity_weight",
        "statistics_weight",
        "gram_weight",
        "structure_weight",
        "shading_weight",
        "pair_weight",
        "denoise_weight",
        "num_sampled_faces",
        "dtype",
    ),
    "memory": ("memory",),
    "seed": ("seed",),
    "device": ("device",),
    "run": ("output_dir", "preview_every", "checkpoint_every", "resume"),
}


def select_fields(*kinds: FieldKind) -> tuple[str, ...]:
    """Names of the fields of `FitConfig` of these kinds, kind by kind."""
    return tuple(name for kind in kinds for name in FIELDS_BY_KIND[kind])
