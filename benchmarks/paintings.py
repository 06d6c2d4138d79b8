"""Paint photographs in the manner of paintings, one fit a painting, and lay the results out to be looked at.

`python -m benchmarks.paintings --styles FOLDER --photos FILE … --output RUN`

Writes RUN/<painting>.safetensors, RUN/<painting>-<photograph>.png and RUN/sheet.png: photographs above, paintings on
the left. What is there already is not made again.
"""

import argparse
import time
from pathlib import Path

import torch

from acfun.base import load_base
from acfun.config import FitConfig
from acfun.fit import fit_style
from acfun.images import contact_sheet, load_image, save_image
from acfun.photo import choose_faces, stylize_portraits
from acfun.pipelines.face_stylization import FaceStylizationPipeline
from acfun.style import Style

THUMBNAIL = 192


def main() -> None:
    """Parse the command line, fit, paint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=Path, required=True, help="folder of paintings")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--max-steps", type=int, default=160)
    parser.add_argument("--strength", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    base = load_base(args.base)
    pipe = FaceStylizationPipeline.from_base(base)
    photos = {path.stem: load_image(path) for path in args.photos}
    faces = {name: choose_faces(image, "largest") for name, image in photos.items()}
    rows = [load_image(path) for path in args.photos]
    labels = ["", *photos]
    for painting in sorted(path for path in args.styles.iterdir() if path.suffix in {".jpg", ".png"}):
        style = _fit(painting, args, base)
        pipe.load_style(style)
        rows.append(load_image(painting))
        labels.append(painting.stem)
        for name, image in photos.items():
            target = args.output / f"{painting.stem}-{name}.png"
            if not target.is_file():
                generator = torch.Generator().manual_seed(args.seed)
                (picture,) = stylize_portraits(pipe, image, faces[name], strength=args.strength, generator=generator)
                save_image(picture, target)
            rows.append(load_image(target))
            labels.append("")
        pipe.unload_style()
    blank = rows[0].copy()
    blank.paste((255, 255, 255), (0, 0, *blank.size))
    tiles = [image.resize((THUMBNAIL, THUMBNAIL)) for image in (blank, *rows)]
    save_image(contact_sheet(tiles, len(photos) + 1, labels), args.output / "sheet.png")


def _fit(painting: Path, args: argparse.Namespace, base: object) -> Style:
    """The painting's style, from an earlier start or fitted with all photographs."""
    path = args.output / f"{painting.stem}.safetensors"
    if path.is_file():
        return Style.load(path)
    config = FitConfig(
        style_path=str(painting), face_paths=tuple(map(str, args.photos)), max_steps=args.max_steps, seed=args.seed
    )
    start = time.monotonic()
    style = fit_style(config, base=base)
    print(f"{painting.stem}: {time.monotonic() - start:.1f} s", flush=True)
    style.save(path)
    return style


if __name__ == "__main__":
    main()
