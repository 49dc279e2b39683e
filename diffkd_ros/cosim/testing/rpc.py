# SPDX-License-Identifier: Apache-2.0
"""The two TCP protocols of a CARLA server: calls (msgpack-rpc, as rpclib speaks it) and sensor streams.

A call is `[0, id, name, [metadata, *arguments]]`, its answer `[1, id, error, result]`. The client of a stream
sends the stream's number (u32) and then receives messages, each its size (u32) followed by its bytes.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from diffkd_ros.errors import DiffkdError

Method = Callable[..., Any]
_LARGEST_MESSAGE = 2**30


class CallError(DiffkdError):
    """A call failed; the client receives the message like an error of CARLA's own."""


def value(result: Any) -> list:
    """CARLA's `Response<T>` with a result."""
    return [[1, result]]


def error(text: str) -> list:
    """CARLA's `Response<T>` with an error."""
    return [[0, [text]]]


DONE = [[False]]
"""CARLA's `Response<void>` without error."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _without_delay(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _unpacker() -> msgpack.Unpacker:
    return msgpack.Unpacker(
        raw=False,
        strict_map_key=False,
        unicode_errors='surrogateescape',
        max_buffer_size=_LARGEST_MESSAGE,
    )


class RpcServer:
    """Answers calls, each connection in its own thread.

    Args:
        host: address to listen on.
        port: to listen on; 0: any free one.
        methods: by name; called with the arguments without the metadata.

    Attributes:
        port: in use.
        calls: number of calls by method, unknown methods included.
        unknown: number of calls by unknown method.
        failed: number of failures by method and error.
    """

    def __init__(self, host: str, port: int, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self.calls: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                server._serve(self.request)

        self._server = _Server((host, port), Handler)
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Start to listen, in a thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        _without_delay(connection)
        unpacker, packer = _unpacker(), msgpack.Packer()
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                unpacker.feed(data)
                for _, number, name, params in unpacker:
                    connection.sendall(packer.pack([1, number, *self._answer(name, params[1:])]))

    def _answer(self, name: str, arguments: list) -> tuple[str | None, Any]:
        """Error and result of one call."""
        self.calls[name] += 1
        method = self._methods.get(name)
        if method is None:
            self.unknown[name] += 1
            return (
                f"rpclib: server could not find function '{name}' with argument count {len(arguments)}.",
                None,
            )
        try:
            return None, method(*arguments)
        except CallError as failure:
            return None, error(str(failure))
        except Exception as failure:  # a bug in the stand-in: reported to the client and counted for tests
            self.failed[f'{name}: {failure!r}'] += 1
            return None, error(f'stand-in: {failure!r}')


class StreamServer:
    """Sends the messages of numbered streams to their subscribers.

    Args:
        host: address to listen on, at a free port.
    """

    def __init__(self, host: str) -> None:
        self._subscribers: dict[int, list[socket.socket]] = defaultdict(list)
        self._lock = threading.Lock()
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                server._serve(self.request)

        self._server = _Server((host, 0), Handler)
        self.host, self.port = host, int(self._server.server_address[1])

    def start(self) -> None:
        """Start to listen, in a thread."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def token(self, stream: int) -> bytes:
        """The address of a stream for a client: number, port, TCP, IPv4, address in 16 bytes."""
        return struct.pack('<IHBB4s12x', stream, self.port, 1, 1, socket.inet_aton(self.host))

    def wanted(self, stream: int) -> bool:
        """Returns whether the stream has a subscriber."""
        return bool(self._subscribers[stream])

    def send(self, stream: int, message: bytes) -> None:
        """Send a message to all subscribers."""
        with self._lock:
            subscribers = list(self._subscribers[stream])
        for connection in subscribers:
            self._send_to(connection, stream, struct.pack('<I', len(message)) + message)

    def _send_to(self, connection: socket.socket, stream: int, data: bytes) -> None:
        try:
            connection.sendall(data)
        except OSError:
            self._remove(stream, connection)

    def _serve(self, connection: socket.socket) -> None:
        _without_delay(connection)
        with contextlib.suppress(OSError):
            asked = connection.recv(4, socket.MSG_WAITALL)
            if len(asked) < 4:
                return
            (stream,) = struct.unpack('<I', asked)
            with self._lock:
                self._subscribers[stream].append(connection)
            try:
                while connection.recv(1):
                    pass
            finally:
                self._remove(stream, connection)

    def _remove(self, stream: int, connection: socket.socket) -> None:
        with self._lock:
            if connection in self._subscribers[stream]:
                self._subscribers[stream].remove(connection)


def call(host: str, port: int, name: str, *arguments: Any, timeout: float = 5.0) -> Any:
    """Call a server's method without a CARLA client, and return its bare result.

    Raises:
        OSError: if the server does not answer in time.
        CallError: if the call fails.
    """
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(msgpack.packb([0, 0, name, [[False], *arguments]]))
        unpacker = _unpacker()
        while data := connection.recv(65536):
            unpacker.feed(data)
            for _, _, failure, result in unpacker:
                if failure is not None:
                    raise CallError(failure)
                return result
    raise ConnectionError(f'{host}:{port} closed the connection during {name}')
