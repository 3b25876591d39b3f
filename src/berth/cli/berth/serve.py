"""`berth serve`: the server alone, on a database that somebody else runs. Start as many as needed."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Annotated, Final

import typer

import berth
from berth.cli.berth._settings import service_settings
from berth.cli.berth._supervised import Supervisor, SupervisorFd, quick_imports, run_alone
from berth.errors import SetupError
from berth.settings import ServiceSettings

# After SIGTERM: how long requests may take to end.
GRACE_SECONDS: Final = 30
BACKLOG: Final = 2048
SWITCH_SECONDS: Final = 0.0005


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [BERTH_HOST, 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.  [BERTH_PORT, 8080]")] = None,
    proxy_headers: Annotated[
        bool, typer.Option("--proxy-headers", help="Believe X-Forwarded-* of the proxies below.")
    ] = False,
    forwarded_allow_ips: Annotated[str, typer.Option(help="Addresses of those proxies.")] = "127.0.0.1",
    listen_fd: Annotated[int | None, typer.Option("--listen-fd", hidden=True)] = None,
    supervisor_fd: SupervisorFd = None,
) -> None:
    """Start the server: API, registry and web pages. Needs BERTH_DATABASE_URL; `berth up` brings its own database.

    Example: berth serve --host 0.0.0.0 --port 8080
    """
    settings = service_settings(host=host, port=port)
    supervisor = Supervisor(supervisor_fd)
    database_needed(settings)

    with quick_imports():
        import uvicorn
        import uvloop

        from berth import telemetry, wiring

        wiring.preload("server")

    telemetry.configure_logging(process="server", log_format=settings.log_format, level=settings.log_level)
    if settings.sentry_dsn is not None:
        telemetry.start_sentry(settings.sentry_dsn.get_secret_value(), process="server", release=berth.__version__)
    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else listen(settings.host, settings.port)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                supervisor.say_ready()

    # The event loop hands work to the depot's threads thousands of times a second. With Python's default of 5 ms a
    # thread that comes back waits that long for the interpreter: downloads became 1.8 times as fast with this.
    sys.setswitchinterval(SWITCH_SECONDS)

    async def main() -> bool:
        await wiring.prepare(settings)
        config = uvicorn.Config(
            await wiring.server_app(settings),
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=proxy_headers,
            forwarded_allow_ips=forwarded_allow_ips,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        server = Server(config)
        await server.serve(sockets=[listener])
        return server.started

    supervisor.wait_for_go()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(main()):
            raise SetupError("The server did not start; the lines above say why.")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SetupError when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SetupError(
            f"Berth cannot listen on {host}, port {port}: {reason}.",
            hint="Choose another one with --port (0 = any free one), or stop the program that uses it.",
        ) from error


def database_needed(settings: ServiceSettings) -> str:
    """URL of the database. Raises SetupError without one."""
    if settings.database_url is None:
        raise SetupError(
            "BERTH_DATABASE_URL is not set.",
            hint="Set it to postgresql://user:password@host/name, or say `berth up`, which brings its own database.",
        )
    return settings.database_url.get_secret_value()


if __name__ == "__main__":
    run_alone("serve")
