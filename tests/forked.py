"""Commands in processes of their own that need not import everything again: most of a short command's time.

A server imports once what commands use and forks a process for each that a client asks for, with the client's
arguments, folder, environment and standard streams. The client is called `coverslip`, for scripts to find.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLIENT = """#!{python} -IS
import array, json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = array.array("i", [0, 1, 2])
connection.sendmsg([len(asked).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
connection.sendall(asked)
answer = connection.recv(4)
sys.exit(int.from_bytes(answer, "big") if len(answer) == 4 else 70)
"""
IMPORTED = (
    *("coverslip.workflows.run", "coverslip.workflows.tile_classes", "coverslip.workflows.slide_calls"),
    *("coverslip.workflows.cells", "coverslip.workflows.embedding", "coverslip.workflows.ihc.workflow"),
    *("coverslip.models.training", "coverslip.models.library", "torch", "timm", "rich.progress"),
)
STARTS_WITHIN = 120


@contextmanager
def served(folder: Path) -> Iterator[Path]:
    """Start a server; gives the folder that holds the client `coverslip`."""
    path = folder / "commands.sock"
    server = subprocess.Popen([sys.executable, __file__, str(path)], stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + STARTS_WITHIN
        while not path.exists():
            assert server.poll() is None, "the server of commands ended"
            assert time.monotonic() < until, "the server of commands did not start"
            time.sleep(0.02)
        client = folder / "coverslip"
        client.write_text(CLIENT.format(python=sys.executable, path=str(path)))
        client.chmod(0o755)
        yield folder
    finally:
        server.terminate()
        server.wait()


def serve(path: str) -> None:
    """Answer until told to end. Nothing imported here may begin a thread: a fork would lack it."""
    import importlib

    for name in IMPORTED:
        importlib.import_module(name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path + ".new")
    listening.listen()
    os.rename(path + ".new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Between the client and the command: waits for the command's process and passes on its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    streams = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(ancillary[0][2])
    length, asked = int.from_bytes(head, "big"), b""
    while len(asked) < length:
        asked += connection.recv(length - len(asked))
    command = os.fork()
    if command == 0:
        connection.close()
        perform(*json.loads(asked), streams.tolist())
    _, status = os.waitpid(command, 0)
    with suppress(OSError):
        connection.sendall(abs(os.waitstatus_to_exitcode(status)).to_bytes(4, "big"))
    os._exit(0)


def perform(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """The command itself."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    from coverslip.workflows.cli import main

    sys.argv = ["coverslip", *arguments]
    code: object = 1
    try:
        main(arguments)
    except SystemExit as ended:
        code = ended.code
    except:  # noqa: E722 - whatever it is, an interpreter would print it and exit with 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Pools of threads and processes are joined as an interpreter that ends would do.
        import threading

        threading._shutdown()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
