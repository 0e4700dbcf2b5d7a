"""A process that has imported deeprec and runs its commands in forks, each of which begins at once.

To import torch and Lightning takes a command eight seconds, and pages have many commands. What runs
is `deeprec.cli.main` in a process of its own, with the words, the folder, the environment, the
input and the outputs of whoever called, who has its exit code; a signal is handed on.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

CLIENT = """\
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [asked], [0, 1, 2])
    process = int(server.recv(16))
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, _: os.kill(process, number))
    sys.exit(int(server.recv(16)))
"""


@contextmanager
def command(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """An executable `deeprec` in `folder`, as long as the process lives that runs it."""
    folder.mkdir(exist_ok=True)
    address = folder / "asked"
    code = f"import forked; forked.serve({str(address)!r})"
    server = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with server, server.stdout:
        assert server.stdout.readline() == "ready\n"
        client = folder / "client.py"
        client.write_text(CLIENT.format(address=str(address)))
        path = folder / "deeprec"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{client}" "$@"\n')
        path.chmod(0o755)
        try:
            yield path
        finally:
            server.terminate()


def serve(address: str) -> NoReturn:
    """Answers until it is ended."""
    import deeprec.evaluate
    import deeprec.export
    import deeprec.prepare
    import deeprec.recommend
    import deeprec.sweep
    import deeprec.train  # noqa: F401

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
        while True:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    answer(connection)


def answer(connection: socket.socket) -> NoReturn:
    """Runs what one caller asks for, and says how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, files, _, _ = socket.recv_fds(connection, 2**20, 3)
    words, folder, environment = json.loads(asked)
    process = os.fork()
    if process == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        run(words)
    connection.send(str(process).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    connection.send(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def run(words: list[str]) -> NoReturn:
    """The command, and what a process does at its end."""
    from deeprec.cli import main

    sys.argv, code = ["deeprec", *words], 1
    try:
        code = main(words)
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
