"""Batches on Ray Data: painters as actors, on this machine or on a cluster."""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from acfun.errors import AcfunError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

    from acfun.batch.painter import Job, Painter
    from acfun.batch.photos import Photo

# Only paths and rows pass through Ray's shared memory.
OBJECT_STORE_BYTES = 1 << 28
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What a run tells of one photograph as it comes.

    Attributes:
        path: of the photograph.
        status: as in the manifest.
        reason: why there is no picture.
    """

    path: str
    status: str
    reason: str | None


def require_ray() -> None:
    """Before anything is read.

    Raises:
        MissingExtraError: Ray Data is not installed.
    """
    if missing := [name for name in ("ray", "pyarrow") if find_spec(name) is None]:
        raise MissingExtraError(
            f'batches and URLs need Ray Data, and {missing[0]} is missing: pip install "acfun-stylization[scale]"'
        )


def paint_photos(
    job: "Job", photos: "Sequence[Photo]", *, batch_size: int, workers: int | None, cluster: str | None
) -> Iterator[Answer]:
    """Paint photographs on workers that hold a pipeline each, and write the pictures and the manifest themselves.

    Photographs go to them in batches, by path. A batch whose worker died goes to another one.

    Args:
        job: what to paint, and where to.
        photos: at least one.
        batch_size: how many a worker paints before it adds them to the manifest.
        workers: how many; one a GPU, or a core where there is none, when None.
        cluster: address of a Ray cluster; None starts Ray on this machine, and stops it at the end.

    Raises:
        ConfigError: the cluster cannot be reached.
        AcfunError: style, base, face models or the output folder cannot be used where the workers are.
    """
    import pyarrow as pa
    import ray

    with connect(cluster, workers):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if job.session.device in {"auto", "cuda"} else 0
        count = workers or gpus or int(resources.get("CPU", 1))
        size = min(batch_size, -(-len(photos) // count))  # no worker idle
        batches = [photos[start : start + size] for start in range(0, len(photos), size)]
        dataset = ray.data.from_arrow([pa.Table.from_pylist([*map(asdict, batch)]) for batch in batches]).map_batches(
            Worker,
            batch_size=size,
            batch_format="pyarrow",
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=min(count, len(batches))),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast("pa.Table", table).to_pylist():
                if row["status"] == Worker.UNFIT:
                    raise AcfunError(row["reason"])
                yield Answer(**row)


class Worker:
    """An actor of Ray: loads its painter with the first batch and keeps it.

    Args:
        job: what to paint, and where to.
    """

    UNFIT = "unfit"

    def __init__(self, job: "Job") -> None:
        self.job = job
        self.painter: Painter | None = None

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        """Paint photographs; `Answer`s as a table, or one of status UNFIT where a run cannot go on."""
        import pyarrow as pa

        from acfun.batch.painter import Painter
        from acfun.batch.photos import Photo

        photos = [Photo(**record) for record in batch.to_pylist()]
        try:
            self.painter = self.painter or Painter(self.job)
            rows = self.painter.paint_batch(photos)
        except AcfunError as error:
            rows = [{"path": "", "status": self.UNFIT, "reason": str(error)}]
        schema = pa.schema([("path", pa.string()), ("status", pa.string()), ("reason", pa.string())])
        return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)


@contextmanager
def connect(cluster: str | None, workers: int | None) -> Iterator[None]:
    """Ray, started on this machine or joined at an address, for the time of the block.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster is None:
        cores = max(workers or 1, os.cpu_count() or 1)
        options |= {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        ray.init(address="local", **options)
    else:
        try:
            check_address(cluster)
            ray.init(address=cluster, **options)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {cluster!r} ({error}): start one with `ray start --head`, and give its "
                "host:port, or auto on one of its machines"
            ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of workers that died; stdout is for the result
            yield
    finally:
        ray.shutdown()


def check_address(cluster: str) -> None:
    """Whether somebody listens at host:port; Ray itself would ask for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    if cluster != "auto":
        host, _, port = cluster.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
