"""Checkpoints in one file, in the original layout of Stable Diffusion: recognised here, converted by diffusers."""

from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from safetensors import SafetensorError, safe_open

from acfun.base.families import FAMILIES, Family, find_family
from acfun.base.sources import CONFIG_PATTERNS, check_parts, find_folder, is_repo_id, read_part, recognise_folder
from acfun.errors import BaseFamilyMismatchError, BaseNotFoundError

SUFFIX = ".safetensors"
UNET_PREFIX, CROSS_ATTENTION = "model.diffusion_model.", "attn2.to_k.weight"
ONE_TEXT_ENCODER, TEXT_ENCODERS = "cond_stage_model.", "conditioner.embedders."


def recognise_file(path: Path) -> Family:
    """The family of a checkpoint, by names and shapes in its header.

    Raises:
        BaseNotFoundError: it cannot be read, or is no checkpoint with UNet and text encoders in it.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            keys = [name for name in names if name.startswith(UNET_PREFIX) and name.endswith(CROSS_ATTENTION)]
            width = file.get_slice(keys[0]).get_shape()[-1] if keys else 0
    except (OSError, SafetensorError) as error:
        raise BaseNotFoundError(f"{path} cannot be read ({error}): copy or download it again") from error
    embedders = {name.split(".")[2] for name in names if name.startswith(TEXT_ENCODERS)}
    num_text_encoders = len(embedders) or int(any(name.startswith(ONE_TEXT_ENCODER) for name in names))
    if not keys or not num_text_encoders:
        missing = "UNet" if not keys else "text encoder"
        raise BaseNotFoundError(
            f"{path} has no {missing} in the original layout of Stable Diffusion: give a whole checkpoint or a "
            "diffusers folder; LoRAs are read by acfun import-lora"
        )
    return find_family(width, num_text_encoders)


def read_file(path: Path, family: Family, config: str | Path | None) -> tuple[dict[str, Any], Path]:
    """The parts of a base from a checkpoint, and the folder of its configs.

    Args:
        path: the checkpoint.
        family: of `recognise_file`.
        config: diffusers folder or hub id with configs and tokenizers that suit the checkpoint; None takes those of the
            family's model on the hub, from its cache when offline.

    Raises:
        BaseNotFoundError: no configs, or weights that they do not describe.
        BaseFamilyMismatchError: configs of another family, or no family that has single files.
    """
    if config is None and family.repo_id is None:
        raise BaseFamilyMismatchError(f"{path} is of no family with single files: give a diffusers folder of it")
    folder = _find_configs(path, family, config)
    modules = {"image_encoder": None, "feature_extractor": None, **family.pipeline_options}
    pipe = read_part(family.pipeline_class.from_single_file, path, config=str(folder), **modules)
    parts = {name: getattr(pipe, name) for name in family.parts}
    return parts | {"scheduler": DDIMScheduler.from_config(pipe.scheduler.config)}, folder


def _find_configs(path: Path, family: Family, config: str | Path | None) -> Path:
    if isinstance(config, str) and config not in FAMILIES and not (Path(config).is_dir() or is_repo_id(config)):
        raise BaseNotFoundError(
            f"config {config!r} is no folder here, and no hub id: give a diffusers folder of any {family.name} model"
        )
    try:
        folder = find_folder(config or str(family.repo_id), CONFIG_PATTERNS)
    except BaseNotFoundError as error:
        raise BaseNotFoundError(
            f"{path} holds weights of family {family.name}, but no configs and no tokenizer: give a diffusers folder "
            f"of any {family.name} model as config ({error})"
        ) from error
    if not (folder / "model_index.json").is_file():
        raise BaseNotFoundError(f"{folder} has no model_index.json: give a diffusers folder as config of {path}")
    check_parts(folder, family.parts)
    if (found := recognise_folder(folder)) is not family:
        raise BaseFamilyMismatchError(
            f"{path} is of family {family.name}, the configs in {folder} are of {found.name}: give a diffusers folder "
            f"of a {family.name} model as config"
        )
    return folder
