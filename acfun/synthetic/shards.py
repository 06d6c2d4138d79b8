"""Shards: arrays of labelled portraits on disk, written once by many processes and read by every training script."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acfun.errors import DataError
from acfun.paths import atomic_write
from acfun.synthetic.data import NUM_LANDMARKS, FloatArray

IMAGES_FILE, LANDMARKS_FILE = "images.npy", "landmarks.npy"
LABELS_FILE, CAPTIONS_FILE = "labels.json", "captions.json"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of one portrait.

    Attributes:
        caption: training caption.
        renderer: name of the renderer family; empty for a photograph.
        parents: keys of the photographs it was made from.
        attributes: what can truly be said, by name, e.g. {"gender": "woman", "glasses": True}; not what is unknown.
    """

    caption: str
    renderer: str
    parents: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled portrait: image (S, S, 3) float32 in [0, 1], landmarks (189, 2) pixels, labels."""

    image: FloatArray
    landmarks: FloatArray
    labels: Labels


@dataclass(frozen=True)
class Shards:
    """Arrays opened for reading.

    Attributes:
        images: (N, S, S, 3) uint8, memory-mapped.
        landmarks: (N, 189, 2) float32 pixels.
        labels: N labels.
    """

    images: NDArray[np.uint8]
    landmarks: FloatArray
    labels: list[Labels]


def write_shards(
    folder: Path, build_sampler: Callable[[], Callable[[int], Sample]], *, count: int, size: int, workers: int
) -> None:
    """Write `count` samples; sample i is `build_sampler()(i)`, whatever the number of workers.

    Args:
        folder: created; an earlier run's files are replaced, and until all are, the folder counts as not complete.
        build_sampler: called once in each process; picklable.
        count: number of samples, at least one.
        size: width and height, pixels.
        workers: number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LABELS_FILE, CAPTIONS_FILE):
        (folder / name).unlink(missing_ok=True)
    images = np.lib.format.open_memmap(folder / IMAGES_FILE, "w+", np.uint8, (count, size, size, 3))
    landmarks = np.zeros((count, NUM_LANDMARKS, 2), np.float32)
    labels: list[Labels] = []
    chunks = np.array_split(np.arange(count), min(count, max(workers, count // 64)))
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (build_sampler,)) as pool:
        for chunk, (pixels, points, chunk_labels) in zip(chunks, pool.map(_work, chunks), strict=True):
            images[chunk], landmarks[chunk] = pixels, points
            labels.extend(chunk_labels)
    images.flush()
    np.save(folder / LANDMARKS_FILE, landmarks)
    _write_json(folder / CAPTIONS_FILE, [label.caption for label in labels])
    _write_json(folder / LABELS_FILE, [asdict(label) for label in labels])


def open_shards(folder: Path) -> Shards:
    """Open what `write_shards` wrote.

    Raises:
        DataError: the folder is not complete.
    """
    missing = [name for name in (IMAGES_FILE, LANDMARKS_FILE, LABELS_FILE) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}; write the shards with train/make_shards.py")
    labels = json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))
    return Shards(
        images=np.load(folder / IMAGES_FILE, mmap_mode="r"),
        landmarks=np.load(folder / LANDMARKS_FILE),
        labels=[Labels(**{**label, "parents": tuple(label["parents"])}) for label in labels],
    )


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


_sampler: Callable[[int], Sample] | None = None


def _start_worker(build_sampler: Callable[[], Callable[[int], Sample]]) -> None:
    global _sampler
    _sampler = build_sampler()


def _work(indices: Sequence[int]) -> tuple[NDArray[np.uint8], FloatArray, list[Labels]]:
    assert _sampler is not None
    samples = [_sampler(int(index)) for index in indices]
    pixels = np.stack([np.round(np.clip(sample.image, 0, 1) * 255).astype(np.uint8) for sample in samples])
    return pixels, np.stack([sample.landmarks for sample in samples]), [sample.labels for sample in samples]
