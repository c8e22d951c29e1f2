"""The Dask cluster a batch runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coverslip.errors import RequestError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 5
# Dask's web pages cannot be switched off, and by default are open to the network on one port of the machine.
LOOPBACK = "127.0.0.1:0"


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at that address, or of a cluster in this process.

    In this process each worker is a thread: nothing is copied, one network serves all, and memory grows
    only by the tiles each holds. Raises RequestError when the scheduler does not answer.
    """
    # Imported here: distributed takes a second, and most commands do without.
    from distributed import Client, LocalCluster

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
    threads = workers or os.cpu_count() or 1
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
