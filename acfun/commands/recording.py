"""What the commands that paint share: their results, and the manifest of how each came about."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acfun.commands.session import SAMPLING_OPTIONS, Session, number_paths
from acfun.config import FitConfig
from acfun.config_fields import select_fields
from acfun.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from acfun.base import Base
    from acfun.manifest import Command, Kind, Manifest

# Options besides those of sampling that decide a picture.
RESULT_OPTIONS = (*SAMPLING_OPTIONS, "faces", "paint", "count", "person_scale")
# Options that name a model: by a word, by a hub id, or by a path on this machine.
MODEL_OPTIONS = (*select_fields("base", "image_encoder", "face_model"), "identity_adapter")
_MODEL_WORDS = ("mini", "own")
# The rest a manifest says elsewhere, or it is what says where a fit writes.
FIT_FIELDS = select_fields("option", "memory")


def record(
    command: "Command",
    session: Session,
    base: "Base",
    options: Mapping[str, Any],
    files: Mapping[str, Path | None],
    config: FitConfig | None = None,
) -> "Manifest | None":
    """The manifest of a run; None where the user wants none.

    Args:
        command: that paints.
        session: its seed.
        base: it paints with.
        options: of the command; "no_manifest" among them says whether a manifest is wanted.
        files: its input files by role, those of the models excepted.
        config: of the fit, where the command fits.

    Raises:
        ManifestError: a file cannot be read.
    """
    from acfun.manifest import Input, Manifest, note_inputs

    if options["no_manifest"]:
        return None
    given = dict(options) if config is None else {**options, **asdict(config)}
    models = {role: given[role] for role in MODEL_OPTIONS if given.get(role) is not None}
    local = {role: value for role, value in models.items() if is_local(value)}
    inputs = note_inputs({**files, **{role: value for role, value in local.items() if role != "base"}})
    base_name = Path(base.name).name if is_local(base.name) else base.name
    described = Input(base_name, base.fingerprint)
    return Manifest(
        command=command,
        options={name: options[name] for name in RESULT_OPTIONS if options.get(name) is not None}
        | {role: value for role, value in models.items() if role not in local},
        fit=None if config is None else {name: getattr(config, name) for name in FIT_FIELDS},
        seed=session.seed,
        device=base.device.type,
        base=described,
        inputs={**inputs, "base": described} if "base" in local else inputs,
    )


def save_results(
    session: Session,
    pictures: "Sequence[Image.Image]",
    path: Path,
    manifest: "Manifest | None",
    kind: "Kind" = "picture",
) -> list[str]:
    """Write pictures to `path`, numbered where they are several, each with its manifest; returns where they are."""
    from acfun.images import NOTE_FORMATS, can_hold_note
    from acfun.manifest import save_with_manifest

    if manifest is not None and not can_hold_note(path):
        session.say(f"{path}: no place for a manifest; {', '.join(NOTE_FORMATS)} have one, and can be replayed")
        manifest = None
    count = len(pictures)
    paths = number_paths(path, count)
    for index, (picture, target) in enumerate(zip(pictures, paths, strict=True)):
        own = manifest and manifest.name_output(suffix=path.suffix, kind=kind, index=index, count=count)
        save_with_manifest(picture, target, own)
    return [str(target) for target in paths]


def check_distinct(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse results that would replace each other or what they are made from.

    Raises:
        ConfigError: they would.
    """
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in taken:
            raise ConfigError(f"{path}: the result would replace a file of this command; give another name")
        taken.add(path.resolve())


def is_local(name: str | None) -> bool:
    """Whether a model's name is a path on this machine."""
    return name is not None and name not in _MODEL_WORDS and Path(name).exists()
