"""`deeprec serve`: the server as a process, from its first check to its last answer."""

import logging
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from deeprec.console import console
from deeprec.device import choose_device
from deeprec.errors import ConfigError, Interrupted
from deeprec.verb import ServeConfig

if TYPE_CHECKING:
    from uvicorn import Server

BACKLOG = 2_048  # connections that wait to be accepted; more would be reset, and not be told why
NEEDED = "deeprec serve needs fastapi, uvicorn and prometheus_client: pip install 'deeprec[serve]'"


def serve(config: ServeConfig) -> None:
    """Serves a bundle until a signal ends it; requests that are being answered are answered.

    Raises:
        ConfigError: the bundle, the address or the installation is not what it must be.
        IntegrityError: the bundle is damaged, or answers its golden requests otherwise.
        Interrupted: a signal ended it, in good order.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    server = server_of(config)
    listening = bound(server, config)
    host, port = listening.getsockname()[:2]
    console.print(
        f"http://{host}:{port}/ serves {config.bundle}; SIGTERM or Ctrl-C ends it", soft_wrap=True
    )

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted("the server has ended; every request that was here is answered", number)

    # uvicorn raises the signal again once it has shut down, and then it is ours
    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def bound(server: "Server", config: ServeConfig) -> socket.socket:
    """The socket it listens on from now on; who connects before it runs waits."""
    try:
        bound = server.config.bind_socket()
    except SystemExit:
        raise ConfigError(f"port={config.port}: cannot be bound on {config.host}") from None
    bound.listen(BACKLOG)
    return bound


def server_of(config: ServeConfig) -> "Server":
    """The server with its bundle loaded, before it is bound to an address.

    Raises:
        ConfigError: the bundle or the installation is not what it must be.
        IntegrityError: the bundle is damaged, or answers its golden requests otherwise.
    """
    try:
        import uvicorn

        from deeprec.server.app import Service, application
        from deeprec.server.batcher import Batcher
        from deeprec.server.held import Held
        from deeprec.server.intake import Intake
        from deeprec.server.measured import Measured
        from deeprec.server.question import Limits
    except ModuleNotFoundError as error:
        raise ConfigError(f"{NEEDED} ({error})") from error
    measured = Measured()
    held = Held(Path(config.bundle), config.name, choose_device(config.device).name, measured)
    most = held.served.bundle.policy["limits"]
    batcher = Batcher(
        max_waiting=config.max_waiting,
        batch_users=min(config.batch_users, most["max_users"]),
        max_events=most["max_events"],
        told=measured.batch_users.observe,
    )
    limits = Limits(config.max_events, config.max_users, config.max_k)
    intake = Intake(max_bytes=config.max_bytes, max_at_once=2 * config.max_waiting)
    service = Service(held, batcher, intake, limits, measured, config.reload_seconds)
    return uvicorn.Server(
        uvicorn.Config(
            application(service, page=config.page),
            host=config.host,
            port=config.port,
            log_level="error",
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(config.shutdown_seconds),
        )
    )
