"""A TCP proxy in front of a real registry: counts what passes, slows it down, breaks it off, or changes bytes."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BLOB = re.compile(rb"GET (/v2/\S+/blobs/(sha256:[0-9a-f]{64}))\S* HTTP")


class Proxy:
    """Passes bytes between a free loopback port and `target`; its attributes may be changed at any time.

    Attributes:
        down: connections are refused, and open ones broken.
        break_after: a connection is broken once so many bytes of answers have passed it, and all later ones at once.
        lie_after: in every connection the byte at this place of the answers is changed.
        pause: seconds to wait after each piece of an answer.
        blobs: digest of every blob that was asked for, in order.
        answered: bytes of all answers.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self.down = False
        self.break_after: int | None = None
        self.lie_after: int | None = None
        self.pause = 0.0
        self.blobs: list[str] = []
        self.answered = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection(self._target)
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.down:
                    break
                self.blobs += [match.group(2).decode() for match in _BLOB.finditer(data)]
                server.sendall(data)
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.down:
                    break
                if self.break_after is not None and passed + len(data) > self.break_after:
                    self.down = True
                    break
                if self.lie_after is not None and passed <= self.lie_after < passed + len(data):
                    at = self.lie_after - passed
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                passed += len(data)
                self.answered += len(data)
                client.sendall(data)
                if self.pause:
                    time.sleep(self.pause)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    """A proxy in front of host:port for as long as the block lasts."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
