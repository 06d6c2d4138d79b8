"""`acfun stylize` on every photograph with every painting, each a command of its own, laid out to be looked at.

`python -m benchmarks.paintings --styles FOLDER --photos FILE … --output RUN`

Writes RUN/<painting>-<photograph>.png, RUN/results.jsonl (seconds of each fit and sampling) and RUN/sheet.png:
photographs above, paintings on the left. What is there already is not made again. `--whole` paints whole photographs,
otherwise the largest face's portrait.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from acfun.images import contact_sheet, load_image, save_image

THUMBNAIL = 192


def main() -> None:
    """Parse the command line, run the commands, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=Path, required=True, help="folder of paintings")
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--whole", action="store_true", help="whole photographs instead of portraits")
    parser.add_argument("options", nargs="*", help="for acfun stylize, after --")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    tiles = [Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white"), *map(load_image, args.photos)]
    labels = ["", *(path.stem for path in args.photos)]
    for painting in sorted(path for path in args.styles.iterdir() if path.suffix in {".jpg", ".png"}):
        tiles.append(load_image(painting))
        labels.append(painting.stem)
        for photo in args.photos:
            target = args.output / f"{painting.stem}-{photo.stem}.png"
            if not target.is_file():
                row = stylize(photo, painting, target, args)
                with (args.output / "results.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            tiles.append(load_image(target))
            labels.append("")
    thumbnails = [tile.resize((THUMBNAIL, THUMBNAIL)) for tile in tiles]
    save_image(contact_sheet(thumbnails, len(args.photos) + 1, labels), args.output / "sheet.png")


def stylize(photo: Path, painting: Path, target: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the command; returns what it reports."""
    what = ["--paint", "photo" if args.whole else "portraits"]
    command = [sys.executable, "-m", "acfun", "stylize", str(photo), "--style", str(painting), "--output", str(target)]
    environment = os.environ | {"ACFUN_CACHE_DIR": str(args.output / "cache")}
    options = ["--faces", "largest", "--quiet", "--json", *what, *args.options]
    done = subprocess.run([*command, *options], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    answer = json.loads(done.stdout)
    print(f"{painting.stem}, {photo.stem}: fit {answer['fit_seconds']} s, {answer['sampling_seconds']} s", flush=True)
    return {"painting": painting.stem, "photo": photo.stem, **answer}


if __name__ == "__main__":
    main()
