"""What client and scheduler spend on a task that does nothing, sent as the batch sends its own: TASKS

Both are in this process, the workers in two of their own, so that its CPU seconds are those of both.
"""

from __future__ import annotations

import sys

from clock import report
from distributed import Client, LocalCluster, as_completed

# As large as a slide's job when it crosses processes.
JOB = {"id": "x" * 64, "settings": list(range(200))}
UNDER_WAY = 64


def main() -> None:
    count = int(sys.argv[1])
    local = "127.0.0.1:0"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=local) as cluster,
        Client(cluster) as client,
    ):
        stream = as_completed(loop=client.loop)

        def send(number: int) -> None:
            stream.add(client.submit(len, JOB, pure=False, priority=-number))

        def tasks() -> int:
            for number in range(UNDER_WAY):
                send(number)
            for number in range(count):
                next(stream).result()
                if number + UNDER_WAY < count:
                    send(number + UNDER_WAY)
            return count

        report(tasks)


if __name__ == "__main__":
    main()
