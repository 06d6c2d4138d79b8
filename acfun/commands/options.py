"""Options that several commands share; a sampling option that is left out takes the pipeline's default."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from acfun.config import MAX_SEED, Extent, FaceChoice, Memory, Objective

Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.", rich_help_panel="Common")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything random.", rich_help_panel="Common")]
# Where a TOML file of --config may say it too, an option that is left out gives way to the file.
FitDevice = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option("--device", show_default="auto", help="Where to compute.", rich_help_panel="Common"),
]
FitSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=MAX_SEED, show_default="0", help="Of everything random.", rich_help_panel="Common"
    ),
]
FitBaseName = Annotated[
    str | None,
    typer.Option(
        "--base",
        show_default="mini",
        help="mini, a diffusers folder, a single .safetensors or a hub id.",
        rich_help_panel="Common",
    ),
]
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

Prompt = Annotated[str | None, typer.Option(help="What is painted.", rich_help_panel="Sampling")]
NegativePrompt = Annotated[str | None, typer.Option(help="What to keep away from.", rich_help_panel="Sampling")]
Strength = Annotated[
    float | None,
    typer.Option(
        min=0.05,
        max=1,
        show_default="0.4",
        help="0.05 stays near the photo, 1 starts from noise.",
        rich_help_panel="Sampling",
    ),
]
StyleScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=4,
        show_default="1.0",
        help="The fitted weights; the strokes are --imagery-scale.",
        rich_help_panel="Sampling",
    ),
]
ImageryScale = Annotated[
    float | None,
    typer.Option(
        min=0, max=10, show_default="1.0", help="The painting's own strokes; 0 for none.", rich_help_panel="Sampling"
    ),
]
IdentityScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=10,
        show_default="1.0",
        help="How closely it is the person, folds and things around too.",
        rich_help_panel="Sampling",
    ),
]
BackdropScale = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=10,
        show_default="1.0",
        help="How readily the painting's own ground stands behind the person; 0 keeps the photograph's.",
        rich_help_panel="Sampling",
    ),
]
GuideSteps = Annotated[
    int | None,
    typer.Option(
        min=0, max=50, show_default="4", help="Moves towards the person; 0 for none.", rich_help_panel="Sampling"
    ),
]
ShapeScale = Annotated[
    float | None,
    typer.Option(min=0, max=2, show_default="0.75", help="The painted face's proportions.", rich_help_panel="Sampling"),
]
StructureScale = Annotated[
    float | None,
    typer.Option(min=0, max=4, show_default="1.0", help="The style's shapes.", rich_help_panel="Sampling"),
]
ColorScale = Annotated[
    float | None,
    typer.Option(min=0, max=4, show_default="1.0", help="The style's colours and strokes.", rich_help_panel="Sampling"),
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=1, max=30, show_default="1.0", help="How closely the prompt is followed.", rich_help_panel="Sampling"
    ),
]
Enlargement = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4,
        show_default=False,
        help="How many times larger than what is sampled the painting is; when left out 512 to 1,024 px, as faces are.",
        rich_help_panel="Sampling",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, max=1000, show_default="20", help="Sampling steps.", rich_help_panel="Sampling"),
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

FitConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file with fields of FitConfig; options win over it.", rich_help_panel="Fitting"
    ),
]
MaxSteps = Annotated[
    int | None,
    typer.Option(
        min=0, help="Steps of the fit; 0 learns nothing and paints with the strokes alone.", rich_help_panel="Fitting"
    ),
]
MemoryTier = Annotated[
    Memory | None,
    typer.Option(
        "--memory",
        show_default="auto",
        help="What the fit has to do with: all that is free, or a card of this size.",
        rich_help_panel="Fitting",
    ),
]
ObjectiveName = Annotated[
    Objective | None,
    typer.Option("--objective", help="What the fit minimises.", rich_help_panel="Fitting"),
]
