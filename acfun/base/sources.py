"""Where the parts of a base are: in the package, in a folder, or on the hub and in its cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from huggingface_hub import snapshot_download

from acfun.base.families import FAMILIES, Family, find_family
from acfun.errors import BaseNotFoundError
from acfun.noise import without_bars, without_messages
from acfun.paths import mini_dir

MINI = "mini"
COMMON_PARTS = FAMILIES[MINI].parts
# Configs and vocabularies, which single files lack.
CONFIG_PATTERNS = ("model_index.json", "*/*.json", "tokenizer*/*")
# Only the plain safetensors weights: a repository also holds .bin, fp16 and non-EMA copies of them.
HUB_PATTERNS = (
    *CONFIG_PATTERNS,
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder*/model.safetensors",
    "image_encoder/model.safetensors",
)
IMAGE_ENCODER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def find_folder(name_or_path: str | Path, patterns: tuple[str, ...] = HUB_PATTERNS) -> Path:
    """Folder of a base in the layout of diffusers: the embedded one, a local one, or files of the hub's.

    Raises:
        BaseNotFoundError: there is none, or a hub id and no network.
    """
    if str(name_or_path) == MINI:
        if not (mini_dir() / "unet").is_dir():
            raise BaseNotFoundError(
                f"the embedded base has no weights in {mini_dir()}: reinstall acfun or name another base"
            )
        return mini_dir()
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    family = FAMILIES.get(str(name_or_path))
    repo_id = family.repo_id if family and family.repo_id else str(name_or_path)
    if isinstance(name_or_path, Path) or not is_repo_id(repo_id):
        raise BaseNotFoundError(
            f"there is no base {str(name_or_path)!r}: use {', '.join(sorted(FAMILIES))}, the path of a diffusers "
            f"folder (with {', '.join(COMMON_PARTS)} in it) or of a single .safetensors file, or a hub id such as "
            f"{FAMILIES['sd1'].repo_id}"
        )
    parts = COMMON_PARTS if family is None else family.parts
    return download(repo_id, patterns, f"give the path of a diffusers folder that holds {', '.join(parts)}")


def find_image_encoder(name_or_path: str | Path) -> Path:
    """Folder of a CLIP image encoder, with its processor's config in it.

    Raises:
        BaseNotFoundError: there is none, or a hub id and no network.
    """
    remedy = f"give a folder with {', '.join(IMAGE_ENCODER_FILES)} as image_encoder"
    folder = Path(name_or_path)
    if not folder.is_dir():
        if isinstance(name_or_path, Path) or not is_repo_id(name_or_path):
            raise BaseNotFoundError(f"image encoder {str(name_or_path)!r} is no folder here, and no hub id: {remedy}")
        folder = download(name_or_path, ("*.json", IMAGE_ENCODER_FILES[-1]), remedy)
    if missing := [name for name in IMAGE_ENCODER_FILES if not (folder / name).is_file()]:
        raise BaseNotFoundError(f"image encoder {str(name_or_path)!r} has no {', '.join(missing)}: {remedy}")
    return folder


def is_repo_id(name: str) -> bool:
    """Whether a name can be one of a repository on the hub, rather than a path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def mark_local(name: str | Path) -> str:
    """A model's name to be noted: a path here that reads like a hub id begins with ./, and is never taken for one."""
    return f"./{name}" if is_repo_id(str(name)) and Path(name).exists() else str(name)


def download(repo_id: str, patterns: tuple[str, ...], remedy: str) -> Path:
    """Folder of a repository's files in the hub's cache; with a network they are fetched.

    Raises:
        BaseNotFoundError: they cannot be had; the message ends with `remedy`.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    # The hub's client raises errors of its HTTP library too, which share no parent with its own.
    except Exception as error:
        raise BaseNotFoundError(
            f"{repo_id} is neither a folder here nor in the hub's cache, and it cannot be downloaded "
            f"({type(error).__name__}): go online once, or {remedy}"
        ) from error


def check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    """Refuse a folder that lacks subfolders, by their names (BaseNotFoundError)."""
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        raise BaseNotFoundError(
            f"{folder} is no complete base: it has no {', '.join(missing)}; a diffusers folder with "
            f"{', '.join(parts)} is needed"
        )


def recognise_folder(folder: Path) -> Family:
    """The family of a diffusers folder, by the configs in it.

    Raises:
        BaseNotFoundError: it has no UNet, or one that cannot be read.
        BaseFamilyMismatchError: a model of a family that acfun does not know.
    """
    check_parts(folder, ("unet",))
    config = read_part(UNet2DConditionModel.load_config, folder / "unet")
    num_text_encoders = len([path for path in folder.glob("text_encoder*") if path.is_dir()])
    # A folder without any lacks a part of every family, which is named later.
    return find_family(config.get("cross_attention_dim", 0), max(1, num_text_encoders))


def read_part(read: Callable[..., Any], path: Path, **options: Any) -> Any:
    """What a library reads from `path`, offline; BaseNotFoundError where it cannot."""
    try:
        with without_bars(), without_messages():
            return read(path, local_files_only=True, **options)
    # Broken files surface as whatever the reader of that format raises.
    except Exception as error:
        raise BaseNotFoundError(f"{path} cannot be read ({error}): copy or download it again") from error
