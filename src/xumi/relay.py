"""How do bytes get from one socket to another? A plain relay between a Unix socket and a TCP port.

A container without a network is reached by a Unix socket in a folder that it shares with the host. In the container
the relay serves programs that know TCP only; on the host it gives the socket an address on loopback.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Callable, Tuple

_BUFFER = 64 * 1024


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket that every user who can reach its folder may connect to. Raises OSError."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):
        path.unlink()
    found.bind(str(path))
    path.chmod(0o666)
    found.listen(128)
    return found


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises OSError."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found


def connect_unix(path: Path) -> socket.socket:
    """Raises OSError."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.connect(str(path))
    except OSError:
        found.close()
        raise
    return found


def connect_tcp(address: Tuple[str, int]) -> socket.socket:
    """Raises OSError."""
    return socket.create_connection(address, timeout=30)


def forward(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Joins every connection that comes in with a new one to the other side, until the listener is closed."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_join, args=(client, connect), daemon=True).start()


def start_beside(path: Path, port: int) -> None:
    """Starts a child process that relays the Unix socket `path` to a port of this machine. Raises OSError."""
    listener = listen_unix(path)
    if os.fork() == 0:
        try:
            forward(listener, lambda: connect_tcp(("127.0.0.1", port)))
        finally:
            os._exit(0)
    listener.close()


def _join(client: socket.socket, connect: Callable[[], socket.socket]) -> None:
    try:
        other = connect()
    except OSError:
        client.close()
        return
    for end in (client, other):
        end.settimeout(None)
    back = threading.Thread(target=_copy, args=(other, client), daemon=True)
    back.start()
    _copy(client, other)
    back.join()
    client.close()
    other.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while True:
            piece = source.recv(_BUFFER)
            if not piece:
                break
            target.sendall(piece)
    except OSError:
        pass
    finally:
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
