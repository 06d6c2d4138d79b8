"""One style file for everybody against a style fitted for each photograph.

`python -m benchmarks.fit_once --output RUN`

The scenes are those of the suite `paired` of `acfun benchmark`. The first person of each is fitted with and not
counted: `once` has seen nobody who is, `unseen` no photograph at all, `per pair` each of them. A second start goes on
where the first one ended.
"""

import argparse
from pathlib import Path

import torch

from acfun.base import Base, load_base
from acfun.evaluation.contract import Method, Painter
from acfun.evaluation.methods import METHODS, AcfunVariant
from acfun.evaluation.runner import Ledger, read_rows, run
from acfun.evaluation.suites import RENDERERS, Scene, build_paired
from acfun.evaluation.table import compare, tabulate
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder

STYLES = ("caricature", "etching", "fauvist", "oil")
COLUMNS = ("identity", "clip_face", "style_distance", "colour_distance", "to_truth", "ssim_truth")
REFERENCE = "per pair"


def prepare_pairs(base: Base, scene: Scene, seed: int) -> Painter:
    """A style for each of the faces."""
    painters = [AcfunVariant()(base, scene.select(index), seed) for index in range(len(scene.people))]
    return lambda setting: torch.cat([painter(setting) for painter in painters])


OWN = {
    REFERENCE: Method(prepare_pairs, "none", (1.0,), 1.0, is_seeded=True),
    "once": Method(AcfunVariant(), "none", (1.0,), 1.0, is_seeded=True),
    "unseen": Method(AcfunVariant(num_fitted=0), "none", (1.0,), 1.0, is_seeded=True),
}


def main() -> None:
    """Parse the command line, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=sorted(RENDERERS))
    parser.add_argument("--people", type=int, default=5, help="of whom the first is only fitted with")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    base = load_base(args.base)
    scenes = (build_paired(name, index, base.resolution, args.people) for index, name in enumerate(args.styles))
    methods = {name: METHODS[name] for name in ("photograph", "truth")} | OWN
    ledger = Ledger(args.output, {"base": base.fingerprint, "styles": args.styles, "people": args.people})
    run(base, load_identity_encoder(), scenes, methods, [args.seed], ledger, print, finder=load_face_finder())
    rows = [row for row in read_rows(args.output) if row["person"] != "person 0"]
    print(f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|", sep="\n")
    for lines, suffix in ((tabulate(rows, methods), ""), (compare(rows, methods, REFERENCE), f" less {REFERENCE}")):
        for name, line in lines.items():
            print(f"| {name}{suffix} | {' | '.join(str(line.cells.get(column, '')) for column in COLUMNS)} |")


if __name__ == "__main__":
    main()
