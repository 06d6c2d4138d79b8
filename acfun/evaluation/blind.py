"""The blind comparison of a run: pairs of results for the same person and style, shown without names."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageOps

from acfun.evaluation.contract import Method
from acfun.evaluation.pages import embed_image, fill_page, read_page
from acfun.evaluation.runner import Row, Trial, name_picture
from acfun.images import load_image

PICTURE_SIDE = 384
# What paints nothing: the photograph would win every question about the person, the truth every one about the style.
ANCHORS = frozenset({"photograph", "truth"})


def build_blind_page(folder: Path, rows: Sequence[Row], methods: Mapping[str, Method], seed: int) -> str | None:
    """The page as HTML; None where there are no two methods with pictures of one person.

    Methods have codes, drawn from the run, in everything that is shown; which is which stands in the page's data only.

    Args:
        folder: of the run, with its pictures.
        rows: of the run.
        methods: by name; each at its default is compared.
        seed: whose pictures are shown.
    """
    data = collect_pairs(folder, rows, methods, seed)
    if not data["pairs"]:
        return None
    # `</` would end the script element.
    return fill_page("blind.html", data=json.dumps(data).replace("</", "<\\/"), script=read_page("blind.js"))


def collect_pairs(folder: Path, rows: Sequence[Row], methods: Mapping[str, Method], seed: int) -> dict[str, Any]:
    """What the page needs.

    Returns:
        run: digest of what is compared, under which a browser keeps the answers;
        names: code → method;
        styles: scene → picture;
        items: a person of a scene each: scene, person, style, face and pictures by code;
        pairs: [number of the item, code, code], every two methods that have painted the person.
    """
    people: dict[str, list[str]] = {}
    for row in rows:
        known = people.setdefault(row["scene"], [])
        if row["person"] not in known:
            known.append(row["person"])
    painters = [name for name in methods if name not in ANCHORS]
    run = hashlib.sha256(json.dumps([people, painters, seed]).encode()).hexdigest()[:16]
    codes = list(map(str, range(1, len(painters) + 1)))
    Random(run).shuffle(codes)
    names = dict(sorted(zip(codes, painters, strict=True), key=lambda pair: int(pair[0])))
    items = []
    for scene, members in people.items():
        stems = {code: Trial(scene, name, methods[name].default, seed).stem for code, name in names.items()}
        for index, person in enumerate(members):
            face = folder / name_picture(f"{scene}-face", index)
            paths = {code: folder / name_picture(stem, index) for code, stem in stems.items()}
            pictures = {code: _embed(path) for code, path in paths.items() if path.is_file()}
            if face.is_file() and len(pictures) > 1:
                items.append(
                    {"scene": scene, "person": person, "style": scene, "face": _embed(face), "pictures": pictures}
                )
    used = {item["scene"] for item in items}
    return {
        "run": run,
        "names": names,
        "styles": {scene: _embed(folder / f"{scene}-style.png") for scene in people if scene in used},
        "items": items,
        "pairs": [[i, *pair] for i, item in enumerate(items) for pair in combinations(item["pictures"], 2)],
    }


def _embed(path: Path) -> str:
    image: Image.Image = ImageOps.contain(load_image(path), (PICTURE_SIDE, PICTURE_SIDE))
    return embed_image(image)
