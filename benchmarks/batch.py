"""A batch of small photographs, some of them broken, killed half-way and gone on with: is each of them accounted for?

`python -m benchmarks.batch --style STYLE.safetensors --output RUN -- OPTIONS OF acfun apply`

Writes RUN/photos (synthetic faces of 128 px; every twentieth file is empty, cut off, a text, huge, or shows no face),
starts `acfun apply` on them, kills its process group (SIGKILL) once half of the pictures are there, and starts it twice
more. Prints what came of it, and draws RUN/memory.png: what the processes held.
"""

import argparse
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet

from acfun.face.finder import find_faces
from acfun.images import array_to_tensor, load_image, save_image, tensor_to_pil
from acfun.synthetic.backgrounds import sample_background
from acfun.synthetic.data import require_data_dir
from acfun.synthetic.samples import build_sampler

SIDE, HUGE_SIDE, BROKEN_EVERY = 128, 30_000, 20
SAMPLE_SECONDS = 2.0
SETTLING_SECONDS = 30

Memory = dict[str, int]
"""Bytes of each process, by what it does."""


def leave_empty(path: Path) -> None:
    """0 bytes."""
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    """The first half of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_text(path: Path) -> None:
    """No picture at all."""
    path.write_text("this is no picture\n" * 50)


def hide_face(path: Path) -> None:
    """A background with nobody in front of it."""
    save_image(tensor_to_pil(array_to_tensor(sample_background(SIDE, np.random.default_rng(0)))), path)


def blow_up(path: Path) -> None:
    """900 megapixels in a file of one megabyte."""
    Image.new("L", (HUGE_SIDE, HUGE_SIDE)).save(path, format="PNG")


BREAKERS = (leave_empty, cut_off, write_text, hide_face, blow_up)


def build_photos(folder: Path, count: int) -> set[str]:
    """Write photographs; returns the paths of the broken ones."""
    sampler = build_sampler(require_data_dir(), SIDE, is_held_out=False, rendering_probability=0, seed=0)
    faces = (array_to_tensor(sampler(index).image) for index in itertools.count())
    # A few morphs turn so far that no face is found; a good photograph is one that can be painted.
    good = (face for face in faces if find_faces(face))
    breakers, broken = itertools.cycle(BREAKERS), set()
    for index in range(count):
        path = folder / f"{index // 100:02d}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(tensor_to_pil(next(good)), path)
        if index % BROKEN_EVERY == 0:
            next(breakers)(path)
            broken.add(str(path))
    return broken


def measure(pid: int) -> Memory:
    """Resident bytes of the command and of what it started, now."""
    found: Memory = {}
    try:
        driver = psutil.Process(pid)
        for process in (driver, *driver.children(recursive=True)):
            kind = "worker" if "MapWorker" in process.name() + "".join(process.cmdline()[:1]) else "Ray itself"
            name = "command" if process == driver else f"worker {process.pid}" if kind == "worker" else kind
            found[name] = found.get(name, 0) + process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # ended while it was looked at; the next look finds the others
    return found


def watch(command: list[str], log: Path, should_kill: Callable[[], bool]) -> list[tuple[float, Memory]]:
    """Run a command to its end, or until it is to be killed; memory with the seconds since its start."""
    samples, start = [], time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    family: list[psutil.Process] = []
    while process.poll() is None:
        samples.append((time.monotonic() - start, measure(process.pid)))
        if should_kill():
            family = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(SAMPLE_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=SETTLING_SECONDS)
    if alive:
        raise RuntimeError(f"{len(alive)} processes outlived the command by {SETTLING_SECONDS} s: {alive}")
    return samples


def check(photos: Path, painted: Path, broken: set[str]) -> dict[str, Any]:
    """Hold the manifest against what is on disk, and both against what should be there."""
    rows = parquet.read_table(painted / "manifest.parquet").to_pylist()
    files = {str(path) for path in photos.rglob("*.jpg")}
    outputs = Counter(name for row in rows for name in row["outputs"])
    pictures = {str(path.relative_to(painted)) for path in painted.rglob("*.png")}
    for name in pictures:
        load_image(painted / name)
    good = {row["path"] for row in rows if row["status"] == "painted"}
    listed = {row["path"] for row in rows if row["status"] == "set_aside" and row["reason"]}
    return {
        "every_file_has_one_row": sorted(row["path"] for row in rows) == sorted(files),
        "every_good_one_painted": good == files - broken,
        "every_broken_one_listed": listed == broken,
        "every_picture_once": set(outputs.values()) == {1} and outputs.keys() == pictures,
        "pictures": len(pictures),
        "reasons": Counter(re.split("[(:;]", row["reason"])[0].strip() for row in rows if row["reason"]),
        "median_seconds": round(statistics.median(row["seconds"] for row in rows if row["status"] == "painted"), 2),
    }


def plot(runs: dict[str, list[tuple[float, Memory]]], path: Path) -> None:
    """Memory over time, one panel a run."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (title, samples) in zip(figure.subplots(1, len(runs), sharey=True), runs.items(), strict=True):
        names = sorted({name for _, memory in samples for name in memory})
        for name in names:
            points = [(seconds / 60, memory[name] / 2**20) for seconds, memory in samples if name in memory]
            axes.plot(*zip(*points, strict=True), label=name.partition(" ")[0] if "worker" in name else name)
        axes.set(title=title, xlabel="minutes", ylabel="resident, MiB")
        axes.set_ylim(bottom=0)
        axes.label_outer()
        axes.legend()
    figure.savefig(path, dpi=80)


def measure_growth(samples: list[tuple[float, Memory]]) -> dict[str, list[int]]:
    """MiB of each process in the second and in the last quarter of a run: means."""
    quarter = len(samples) // 4
    growth = {}
    for name in sorted({name for _, memory in samples for name in memory}):
        parts = samples[quarter : 2 * quarter], samples[-quarter:]
        held = [[memory[name] for _, memory in part if name in memory] for part in parts]
        if all(held):
            growth[name] = [round(statistics.mean(part) / 2**20) for part in held]
    return growth


def main() -> None:
    """Build, run, kill, go on, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder; must not exist")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("options", nargs="*", help="for acfun apply, after --")
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    photos, painted = args.output.absolute() / "photos", args.output.absolute() / "painted"
    broken = build_photos(photos, args.count)

    def is_half_done() -> bool:
        return sum(1 for _ in painted.rglob("*.png")) >= args.count // 2

    common = ["-o", str(painted), "--workers", str(args.workers), "--json", *args.options]
    command = [sys.executable, "-m", "acfun", "apply", str(args.style), str(photos), *common]
    killed = watch(command, args.output / "first.log", is_half_done)
    before = {path: path.stat().st_mtime for path in painted.rglob("*.png")}
    resumed = watch(command, args.output / "second.log", lambda: False)
    after = {path: path.stat().st_mtime for path in painted.rglob("*.png")}
    nothing = watch(command, args.output / "third.log", lambda: False)
    last = {path: path.stat().st_mtime for path in painted.rglob("*.png")}
    plot({"killed half-way": killed, "gone on with": resumed}, args.output / "memory.png")
    figures = check(photos, painted, broken) | {
        "pictures_when_killed": len(before),
        "painted_twice": sum(before[path] != after[path] for path in before),
        "painted_by_the_third_start": sum(last[path] != after.get(path) for path in last),
        "seconds": [round(samples[-1][0]) for samples in (killed, resumed, nothing)],
        "memory_mib": [measure_growth(killed), measure_growth(resumed)],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
