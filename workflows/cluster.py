"""The Dask cluster a batch runs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.workflows.memory import share_pools

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, SpecCluster

CONNECT_SECONDS = 5
# Dask's web pages cannot be switched off, and by default are open to the network on one port of the machine.
LOOPBACK = "127.0.0.1:0"
# Of logging: errors come as results, and what Dask says of its own starting and ending is nobody's concern.
SILENT: Any = 50
# Dask samples the stacks of its threads and keeps them with the source they are of: 100 MB in five minutes.
UNOBSERVED = {"distributed.worker.profile.enabled": False}


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at that address, or of a cluster on this machine.

    Without an address each worker is a thread of this process: nothing is copied, one network serves all, and
    memory grows only by the tiles each holds. Where there are several CUDA devices, each gets a process of
    its own, which sees that device alone, and the threads are shared out among them. `workers`: threads in
    all, None for one per core. Raises RequestError when the scheduler does not answer.
    """
    # Imported here: distributed takes a second, and most commands do without.
    from dask.config import set as configured
    from distributed import Client

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise RequestError(
                scheduler, f"no Dask scheduler answers ({error})", "start one with: dask scheduler"
            ) from error
        with client:
            yield client
        return
    share_pools()  # before there are threads
    threads, devices = workers or os.cpu_count() or 1, cuda_devices()
    with (
        configured(UNOBSERVED),
        device_cluster(devices, threads) if len(devices) > 1 else _thread_cluster(threads) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _thread_cluster(threads: int) -> LocalCluster:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=1,
        threads_per_worker=threads,
        processes=False,
        dashboard_address=LOOPBACK,
        worker_dashboard_address=LOOPBACK,
        silence_logs=SILENT,
    )


def device_cluster(devices: Sequence[str], threads: int) -> SpecCluster:
    """Worker processes on this machine, one for each device; see `device_workers`."""
    from distributed import Nanny, Scheduler, SpecCluster

    host = LOOPBACK.partition(":")[0]
    options = {"host": host, "dashboard_address": LOOPBACK}
    workers = {
        name: {"cls": Nanny, "options": {**layout, **options, "silence_logs": SILENT}}
        for name, layout in device_workers(devices, threads).items()
    }
    scheduler = {"cls": Scheduler, "options": {**options, "port": 0}}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=SILENT)


def device_workers(devices: Sequence[str], threads: int) -> dict[str, dict[str, Any]]:
    """Threads, share of the memory and environment of one worker process per device, as in dask-cuda.

    >>> device_workers(["0", "3"], 5)["cuda-3"]
    {'nthreads': 2, 'memory_limit': 0.5, 'env': {'CUDA_VISIBLE_DEVICES': '3'}}
    """
    each = {"nthreads": max(1, threads // len(devices)), "memory_limit": 1 / len(devices)}
    return {f"cuda-{device}": {**each, "env": {"CUDA_VISIBLE_DEVICES": device}} for device in devices}


def cuda_devices() -> tuple[str, ...]:
    """The devices this process may use, by the names that `CUDA_VISIBLE_DEVICES` takes; () without any."""
    # Asked first, since importing torch takes seconds: where there is a device, so is its driver's tool.
    if shutil.which("nvidia-smi") is None or find_spec("torch") is None:
        return ()
    return device_names(os.environ.get("CUDA_VISIBLE_DEVICES"), require("torch").cuda.device_count())


def device_names(visible: str | None, count: int) -> tuple[str, ...]:
    """The first `count` devices of what `CUDA_VISIBLE_DEVICES` says, or by number where it says nothing.

    >>> device_names("GPU-1f, 2", 2), device_names(None, 2)
    (('GPU-1f', '2'), ('0', '1'))
    """
    if visible is None:
        return tuple(str(number) for number in range(count))
    return tuple(name.strip() for name in visible.split(","))[:count]
