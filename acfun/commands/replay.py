"""`acfun replay`: a picture once more, from what it says about itself."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acfun.commands import options
from acfun.commands.apply import apply
from acfun.commands.generate import generate
from acfun.commands.recording import FIT_FIELDS, MODEL_OPTIONS, RESULT_OPTIONS, check_distinct
from acfun.commands.session import Session, number_paths
from acfun.commands.stylize import stylize
from acfun.config import dump_toml
from acfun.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from acfun.manifest import Manifest

PICTURES = ("photo", "style", "person")
ROLES = (*PICTURES, *MODEL_OPTIONS)
GivenBase = Annotated[
    str | None,
    typer.Option("--base", show_default="that of the picture", help="The base.", rich_help_panel="Common"),
]
GivenDevice = Annotated[
    options.DeviceName | None,
    typer.Option("--device", show_default="that of the picture", help="Where to compute.", rich_help_panel="Common"),
]


@dataclass(frozen=True)
class Comparison:
    """How two pictures differ.

    Attributes:
        is_equal: whether all pixels are the same.
        text: the same in words, with how much differs.
    """

    is_equal: bool
    text: str


def replay(
    picture: Annotated[Path, typer.Argument(help="Picture that acfun wrote: PNG, JPEG or WebP.")],
    *,
    photo: Annotated[Path | None, typer.Option(help="The photograph; looked for beside the picture.")] = None,
    style: Annotated[Path | None, typer.Option(help="The style image or file; likewise.")] = None,
    person: Annotated[Path | None, typer.Option(help="The photograph of --person; likewise.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", show_default="beside the picture", help="Picture to write."),
    ] = None,
    base: GivenBase = None,
    base_config: options.BaseConfig = None,
    image_encoder: options.ImageEncoder = None,
    identity_encoder: options.IdentityEncoder = None,
    face_detector: options.FaceDetector = None,
    identity_adapter: options.IdentityAdapter = None,
    device: GivenDevice = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a picture again from its manifest; tell which inputs differ, and whether the result is bit-equal."""
    from acfun.images import check_output_path
    from acfun.manifest import read_manifest

    session = Session(quiet=quiet, as_json=as_json)
    manifest = read_manifest(picture)
    target = output or picture.with_name(f"{picture.stem}-replay{manifest.suffix}")
    check_target(target, picture, manifest)
    check_output_path(target)
    models = (base, base_config, image_encoder, identity_encoder, face_detector, identity_adapter)
    given = {role: Path(value) for role, value in zip(ROLES, (photo, style, person, *models), strict=True) if value}
    files = find_inputs(manifest, picture, given)
    check_distinct([target], list(files.values()))
    differences = compare_inputs(manifest, files)
    for difference in differences:
        session.say(difference)
    made = make_again(manifest, files, device or manifest.device, target, is_quiet=quiet)
    for difference in manifest.compare_environment(made):
        session.say(difference)
        differences.append(difference)
    comparison = compare(picture, target)
    result = {"output": str(target), "is_equal": comparison.is_equal, "differences": differences}
    session.finish(result, f"{target}\n{comparison.text}")


def check_target(target: Path, picture: Path, manifest: "Manifest") -> None:
    """Refuse to write over the picture, or in another format, whose pixels could not be compared.

    Raises:
        ConfigError: the ending is another one, or it is the picture's own path.
    """
    if target.suffix != manifest.suffix:
        raise ConfigError(f"{target}: the picture was written as {manifest.suffix}; end the name so")
    if target.resolve() == picture.resolve():
        raise ConfigError(f"{target}: the result would replace the picture; give another name")


def find_inputs(manifest: "Manifest", picture: Path, given: Mapping[str, Path]) -> dict[str, Path]:
    """Where the inputs are: where the user says, else under their names beside the picture.

    Raises:
        ManifestError: some are missing, and all of them are named; or one is given that the command does not read.
    """
    if superfluous := [role for role in PICTURES if role in given and role not in manifest.inputs]:
        raise ManifestError(f"{picture} was made without a {superfluous[0]}: leave out --{superfluous[0]}")
    beside = {role: picture.parent / file.name for role, file in manifest.inputs.items()}
    # A result of `apply` has the name of its photograph.
    found = {role: path for role, path in beside.items() if path.exists() and path.resolve() != picture.resolve()}
    files = {**found, **given}
    if unknown := sorted(beside.keys() - set(ROLES)):
        raise ManifestError(f"{picture} was made with {', '.join(unknown)}, which this acfun lacks: update acfun")
    if missing := [role for role in ROLES if role in beside and role not in files]:
        named = ", ".join(f"{role} {manifest.inputs[role].name!r}" for role in missing)
        remedy = ", ".join(f"--{role.replace('_', '-')} PATH" for role in missing)
        raise ManifestError(f"{picture} was made from {named}, not in its folder: lay it there, or give {remedy}")
    return files


def compare_inputs(manifest: "Manifest", files: Mapping[str, Path]) -> list[str]:
    """Which files have other content than those that the picture was made from, in words.

    The base is left out: its fingerprint is known only once it is loaded.
    """
    from acfun.manifest import digest_role

    return [
        f"{role} {path} differs from {file.name}, which the picture was made from"
        for role, path in files.items()
        if role != "base" and (file := manifest.inputs.get(role)) and path.exists()
        if digest_role(role, path) != file.sha256
    ]


def make_again(
    manifest: "Manifest", files: Mapping[str, Path], device: str, target: Path, *, is_quiet: bool
) -> "Manifest":
    """Run the picture's command once more, in a folder of its own, and take the one picture out of it.

    Returns:
        The manifest of the new picture.

    Raises:
        ManifestError: its options are none that the command takes, or the command did not write the picture.
    """
    from acfun.manifest import read_manifest
    from acfun.paths import atomic_write

    with TemporaryDirectory() as directory:
        arguments, written = build_arguments(manifest, files, Path(directory))
        common = ["--device", device, "--seed", str(manifest.seed), *(["--quiet"] if is_quiet else [])]
        run_command(manifest.command, [*common, *arguments])
        if not written.is_file():
            count = f"picture {manifest.index + 1} of {manifest.count}"
            raise ManifestError(f"{manifest.command} did not give {count} this time: give the inputs it was made from")
        with atomic_write(target) as temporary:
            temporary.write_bytes(written.read_bytes())
    return read_manifest(target)


def build_arguments(manifest: "Manifest", files: Mapping[str, Path], directory: Path) -> tuple[list[str], Path]:
    """The command line of a picture, without its name, and where that will write the picture.

    Raises:
        ManifestError: an option or a field of the fit is unknown.
    """
    known, fit = {*RESULT_OPTIONS, *MODEL_OPTIONS}, manifest.fit or {}
    if unknown := sorted((manifest.options.keys() - known) | (fit.keys() - set(FIT_FIELDS))):
        raise ManifestError(f"the manifest has unknown options {', '.join(unknown)}: update acfun")
    values = dict(manifest.options)
    values |= {role: path for role, path in files.items() if role not in {"photo", "style"}}
    last = [str(files["photo"])] if "photo" in files else []
    output = directory / f"picture{manifest.suffix}"
    if manifest.command == "apply":
        last.insert(0, str(files["style"]))
        values["output"], output = directory, directory / f"{files['photo'].stem}{manifest.suffix}"
    else:
        values |= {"output": output, "style": files.get("style")}
    if manifest.command == "generate":
        last = [values.pop("prompt")]
    if fit:
        values["config"] = directory / "fit.toml"
        values["config"].write_text(dump_toml(fit), encoding="utf-8")
    if manifest.kind == "sheet":
        values["sheet"] = output = directory / f"sheet{manifest.suffix}"
    written = number_paths(output, manifest.count)[manifest.index]
    given = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]
    return [*given, "--", *last], written


def run_command(name: str, arguments: list[str]) -> None:
    """Run one of the commands that paint, as the command line does; its own result is not printed.

    Raises:
        ManifestError: it does not take these arguments.
    """
    program: Any = typer.Typer(add_completion=False)
    for command in (stylize, apply, generate):
        program.command()(command)
    with redirect_stdout(StringIO()):
        try:
            typer.main.get_command(program).main([name, *arguments], standalone_mode=False)
        except typer.BadParameter as error:
            raise ManifestError(f"{name} does not take an option of the manifest ({error}): update acfun") from error


def compare(before: Path, after: Path) -> Comparison:
    """Two pictures, pixel by pixel, as they are in their files.

    Raises:
        ImageError: one cannot be read.
    """
    import numpy as np

    from acfun.images import read_pixels

    one, other = read_pixels(before).astype(int), read_pixels(after).astype(int)
    if one.shape != other.shape:
        sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (one, other)]
        return Comparison(False, f"not equal: {sizes[1]} px in place of {sizes[0]}")
    change = np.abs(one - other).max(axis=-1)
    if not change.any():
        return Comparison(True, "bit-equal: every pixel is the same")
    text = f"not equal: {(change > 0).mean():.1%} of the pixels differ, by up to {change.max()} of 255"
    return Comparison(False, text)
