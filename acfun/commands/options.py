"""Options that several commands share, one by one or in groups."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from acfun.config import MAX_SEED, Extent, FaceChoice, Memory, Objective

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Device = Annotated[DeviceName, typer.Option(help="Where to compute.", rich_help_panel="Common")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything random.", rich_help_panel="Common")]
BaseName = Annotated[
    str,
    typer.Option(
        "--base", help="mini, a diffusers folder, a single .safetensors or a hub id.", rich_help_panel="Common"
    ),
]
BaseConfig = Annotated[
    str | None,
    typer.Option("--base-config", help="Of a single-file base: diffusers folder or hub id.", rich_help_panel="Common"),
]
ImageEncoder = Annotated[
    str | None,
    typer.Option(
        "--image-encoder",
        help="Folder or hub id of a CLIP image encoder; its own if left out.",
        rich_help_panel="Common",
    ),
]
StyleBaseName = Annotated[
    str | None,
    typer.Option("--base", help="Base of the style; its own when left out.", rich_help_panel="Common"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, no progress bar.", rich_help_panel="Common")]
AsJson = Annotated[
    bool, typer.Option("--json", help="The result as JSON on stdout, and nothing else there.", rich_help_panel="Common")
]
NoManifest = Annotated[
    bool,
    typer.Option(
        "--no-manifest",
        help="Keep options and names of the input files out of the picture; it cannot be replayed then.",
        rich_help_panel="Common",
    ),
]

Licence = Annotated[
    str | None,
    typer.Option(
        show_default="what the style file says",
        help="Terms of the style, for instance cc-by-4.0; those of its picture bind you.",
        rich_help_panel="Model card",
    ),
]
Sample = Annotated[
    Path | None,
    typer.Option(help="Picture for the card, best a sheet of `stylize --sheet`.", rich_help_panel="Model card"),
]

Faces = Annotated[
    FaceChoice,
    typer.Option(help="Which faces to paint; whole takes the whole picture as a portrait."),
]
FitFaces = Annotated[
    Literal["largest", "whole"],
    typer.Option(help="Look for a face in every picture, or take the whole pictures as portraits."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")]
OutputDir = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; made if need be.")]
OutputPlace = Annotated[
    str, typer.Option("--output", "-o", help="Folder to write to, made if need be; or the URL of one.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, show_default="one a GPU, or a core", help="Paint whole folders on so many.", rich_help_panel="Batches"
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        show_default="this machine", help="Ray cluster to paint on: its address, or auto.", rich_help_panel="Batches"
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default="16",
        help="Photographs that a worker paints before it adds them to the manifest.",
        rich_help_panel="Batches",
    ),
]
Paint = Annotated[
    Extent,
    typer.Option(help="The whole photo, only the faces in it, or the painted portraits alone."),
]

IdentityEncoder = Annotated[
    str | None,
    typer.Option(
        "--identity-encoder",
        show_default="mini",
        help="Who a face is: an insightface pack's folder, an ArcFace-type *.onnx, or an encoder's folder.",
        rich_help_panel="Faces",
    ),
]
IdentityAdapter = Annotated[
    str | None,
    typer.Option(
        "--identity-adapter",
        show_default="mini",
        help="With --person: file of an IP-Adapter FaceID for the base.",
        rich_help_panel="Faces",
    ),
]
FaceDetector = Annotated[
    str | None,
    typer.Option(
        "--face-detector",
        show_default="mini",
        help="What finds faces: an insightface pack's folder.",
        rich_help_panel="Faces",
    ),
]


def _may_be_left_out(panel: str, kind: Any, text: str, default: str | None = None, **limits: Any) -> Any:
    option = typer.Option(help=text, show_default=default or False, rich_help_panel=panel, **limits)
    return Annotated[kind | None, option]


def _sampling(kind: Any, text: str, default: str | None = None, **limits: Any) -> Any:
    return _may_be_left_out("Sampling", kind, text, default, **limits)


def _common(kind: Any, text: str, default: str, **limits: Any) -> Any:
    return _may_be_left_out("Common", kind, text, default, **limits)


# Left out, the pipeline's defaults hold.
SAMPLING: dict[str, Any] = {
    "prompt": _sampling(str, "What is painted."),
    "negative_prompt": _sampling(str, "What to keep away from."),
    "strength": _sampling(float, "0.05 stays near the photo, 1 starts from noise.", "0.4", min=0.05, max=1),
    "style_scale": _sampling(float, "The fitted weights; the strokes are --imagery-scale.", "1.0", min=0, max=4),
    "imagery_scale": _sampling(float, "The painting's own strokes; 0 for none.", "1.0", min=0, max=10),
    "identity_scale": _sampling(
        float, "How closely it is the person, folds and things around too.", "1.0", min=0, max=10
    ),
    "backdrop_scale": _sampling(
        float,
        "How readily the painting's own ground stands behind the person; 0 keeps the photograph's.",
        "1.0",
        min=0,
        max=10,
    ),
    "guide_steps": _sampling(int, "Moves towards the person; 0 for none.", "4", min=0, max=50),
    "shape_scale": _sampling(float, "The painted face's proportions.", "0.75", min=0, max=2),
    "min_side": _sampling(
        int,
        "Shorter side of the result, pixels, at least; when left out as large as it is painted, 512 with mini. "
        "0 keeps the photograph's size.",
        min=0,
        max=2048,
    ),
    "structure_scale": _sampling(float, "The style's shapes.", "1.0", min=0, max=4),
    "color_scale": _sampling(float, "The style's colours and strokes.", "1.0", min=0, max=4),
    "guidance_scale": _sampling(float, "How closely the prompt is followed.", "1.0", min=1, max=30),
    "steps": _sampling(int, "Sampling steps.", "20", min=1, max=1000),
    "enlargement": _sampling(
        int,
        "How many times larger than what is sampled the painting is; when left out 512 to 1,024 px, as faces are.",
        min=1,
        max=4,
    ),
}

# Left out, the TOML file of --config decides, and where that is silent the defaults of `FitConfig`.
FITTING: dict[str, Any] = {
    "config": _may_be_left_out("Fitting", Path, "TOML file with fields of FitConfig; options win over it."),
    "max_steps": _may_be_left_out(
        "Fitting", int, "Steps of the fit; 0 learns nothing and paints with the strokes alone.", min=0
    ),
    "objective": _may_be_left_out("Fitting", Objective, "What the fit minimises."),
    "memory": _may_be_left_out(
        "Fitting", Memory, "What the fit has to do with: all that is free, or a card of this size.", "auto"
    ),
    "identity_encoder": IdentityEncoder,
    "face_detector": FaceDetector,
    "seed": _common(int, "Of everything random.", "0", min=0, max=MAX_SEED),
    "device": _common(DeviceName, "Where to compute.", "auto"),
    "base": _common(str, "mini, a diffusers folder, a single .safetensors or a hub id.", "mini"),
    "base_config": BaseConfig,
    "image_encoder": ImageEncoder,
}


def takes(options: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command further options: annotations by name. It finds their values in its context, `context.params`."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            command(**{name: value for name, value in values.items() if name not in options})

        signature = inspect.signature(command)
        further = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in options.items()
        ]
        whole = signature.replace(parameters=[*signature.parameters.values(), *further])
        run.__signature__ = whole  # type: ignore[attr-defined]
        return run

    return add
