# SPDX-License-Identifier: Apache-2.0
"""The messages between OpenCDA and the gateway node.

A message is its length (u32, little-endian), a line of JSON, and float32 arrays in the order given in the
JSON. Everything in it is in CARLA's convention: left-handed, metres, degrees.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

PROTOCOL = 2
DEFAULT_GATEWAY = '127.0.0.1:7410'
# x, y, z and intensity.
POINT_BYTES = 16
# A line of JSON, and an answer of 30,000 detections.
LARGEST_ANSWER = 1 << 20


class GatewayError(RuntimeError):
    """The gateway is absent, does not answer, or refused a message."""


def send_message(connection: socket.socket, head: dict, arrays: Iterable = ()) -> None:
    """Send a message.

    Args:
        connection: a connected socket; its timeout is that of the whole message.
        head: object for the line of JSON.
        arrays: float32 arrays that the head describes.
    """
    parts: list = [json.dumps(head).encode() + b'\n']
    parts += [np.ascontiguousarray(array, '<f4').reshape(-1).view('u1').data for array in arrays]
    connection.sendall(b''.join([struct.pack('<I', sum(map(len, parts))), *parts]))


def receive_message(
    connection: socket.socket, largest: int = LARGEST_ANSWER, timeout: float = 5.0
) -> tuple[Any, memoryview]:
    """Receive a message.

    Args:
        connection: a connected socket.
        largest: size limit in bytes.
        timeout: longest wait for the whole message, seconds.

    Returns:
        The head (an object if the peer follows the protocol) and the bytes of all arrays.

    Raises:
        GatewayError: if the peer closed the connection or sent an invalid message.
        OSError: if the message does not arrive in time, or the connection fails.
    """
    end = time.monotonic() + timeout
    (size,) = struct.unpack('<I', _receive(connection, 4, end))
    if size > largest:
        raise GatewayError(f'the announced size of a message is {size} bytes, the limit is {largest}')
    data = _receive(connection, size, end)
    line = data.find(b'\n')
    head = data[:line] if line >= 0 else data
    try:
        return json.loads(head.decode()), memoryview(data)[len(head) + 1 :]
    except (ValueError, RecursionError) as error:
        raise GatewayError(f'a message does not begin with a line of JSON: {error}') from error


def _receive(connection: socket.socket, size: int, end: float) -> bytearray:
    data = bytearray(size)
    received = 0
    while received < size:
        left = end - time.monotonic()
        if left <= 0.0:
            raise TimeoutError(f'received {received} of {size} bytes in time')
        connection.settimeout(left)
        part = connection.recv_into(memoryview(data)[received:])
        if not part:
            raise GatewayError('the peer has closed the connection')
        received += part
    return data


def address_of(text: str) -> tuple[str, int]:
    """Split 'host:port'.

    Raises:
        ValueError: if the text does not have that form.
    """
    host, _, port = text.rpartition(':')
    if not (host and port.isdigit()):
        raise ValueError(f'expected the gateway as host:port, got {text!r}')
    return host, int(port)
