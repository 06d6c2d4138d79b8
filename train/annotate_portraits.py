"""Find the landmarks of photographs that come without, with the face finder, for shards and for its own next round.

`python -m train.annotate_portraits --output LANDMARKS.npz --sheet SHEET.png`

They are the portraits in the wild and the smiling studio photographs. One whose face is missed, or found with less than
`--min-score`, is left out. Look at the sheet: it shows the least certain ones.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from acfun.face.finder import FaceFinder, find_faces, load_face_finder
from acfun.images import contact_sheet, load_image, pil_to_tensor, save_image
from acfun.paths import atomic_write
from acfun.synthetic.data import FloatArray, list_faces, list_portraits, load_landmarks, require_data_dir
from train import pretraining

SHEET_ROWS, SHEET_COLUMNS = 8, 10


def draw_landmarks(image: Image.Image, landmarks: FloatArray) -> Image.Image:
    """A copy of the image with one dot a landmark."""
    marked = image.convert("RGB")
    draw = ImageDraw.Draw(marked)
    radius = max(1, image.width // 200)
    for x, y in landmarks.tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(80, 255, 80))
    return marked


def main() -> None:
    """Parse the command line, find, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="contact sheet of the least certain faces that are kept")
    parser.add_argument("--finder", type=Path, help="folder of a face finder; the embedded one when left out")
    parser.add_argument("--min-score", type=float, default=0.7)
    args = parser.parse_args()
    pretraining.prepare_process(num_threads=1)
    finder = load_face_finder() if args.finder is None else FaceFinder.from_pretrained(args.finder)
    data_dir = require_data_dir()
    known = load_landmarks(data_dir)
    photos = [photo for photo in (*list_faces(data_dir), *list_portraits(data_dir)) if photo.key not in known]
    found: list[tuple[float, str, Path, FloatArray]] = []
    for photo in photos:
        faces = find_faces(pil_to_tensor(load_image(photo.path)), finder, max_faces=1, min_score=args.min_score)
        found += [(face.score, photo.key, photo.path, face.landmarks.numpy().astype(np.float32)) for face in faces]
    print(f"{len(found)} of {len(photos)} photographs have a face with a score of at least {args.min_score:g}")
    with atomic_write(args.output) as temporary, temporary.open("wb") as file:
        np.savez(file, keys=[key for _, key, _, _ in found], landmarks=np.stack([points for *_, points in found]))
    if args.sheet is not None:
        doubtful = sorted(found, key=lambda entry: entry[0])[: SHEET_ROWS * SHEET_COLUMNS]
        images = [draw_landmarks(load_image(path), points).resize((160, 160)) for _, _, path, points in doubtful]
        save_image(contact_sheet(images, SHEET_COLUMNS, [f"{score:.2f}" for score, *_ in doubtful]), args.sheet)


if __name__ == "__main__":
    main()
