# SPDX-License-Identifier: Apache-2.0
"""Messages between OpenCDA and the gateway, byte by byte."""

from __future__ import annotations

import json
import socket
import struct

import numpy as np

from diffkd_ros.cosim.opencda.diffkd_opencda import receive_message, send_message


def test_arrays_of_any_layout_arrive_in_order():
    """Float64, a transposed view, every second row, and no rows at all, as for no detections."""
    arrays = [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(16, dtype=np.float32).reshape(4, 4)[::2],
        np.zeros((0, 8), np.float32),
    ]
    sender, receiver = socket.socketpair()
    with sender, receiver:
        send_message(sender, {'frame': 7}, arrays)
        whole = receiver.recv(10_000)
        values = [float(value) for array in arrays for row in array for value in row]
        (size,) = struct.unpack('<I', whole[:4])
        line, _, data = whole[4:].partition(b'\n')
        assert size == len(whole) - 4
        assert json.loads(line) == {'frame': 7}
        assert data == struct.pack(f'<{len(values)}f', *values)
        sender.sendall(whole)
        head, data = receive_message(receiver)
        assert (head, bytes(data)) == ({'frame': 7}, struct.pack(f'<{len(values)}f', *values))
