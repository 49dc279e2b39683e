# SPDX-License-Identifier: Apache-2.0
"""Writes a bag in a separate thread, so that a slow disk does not block callbacks."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

from diffkd_ros.bags.writer import BagError, BagWriter

# Seconds after which messages are in the file: what is lost at most if the process is killed, in addition to
# the queue.
FLUSH_PERIOD = 1.0
# Bytes of messages queued while the disk is busy: single sweeps are large, chunks small and many.
_QUEUED = 300_000_000


class BagThread:
    """A bag that messages can be written to from one thread.

    Args:
        path: folder of the bag, must not exist yet.

    Attributes:
        counts: messages written, by topic.
        dropped: messages not written because the queue was full.

    Raises:
        BagError: if the folder exists or cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._writer = BagWriter(path)
        self.counts = self._writer.counts
        self.dropped = 0
        self._queue: queue.SimpleQueue[tuple[str, str, int, bytes] | None] = queue.SimpleQueue()
        # Bytes put in the queue, by one thread, and taken from it, by another.
        self._put = self._taken = 0
        self._error: BagError | None = None
        self._thread = threading.Thread(target=self._run, name='bag', daemon=True)
        self._thread.start()

    def write(self, topic: str, message_type: str, stamp: int, data: bytes) -> None:
        """Queue one message for `BagWriter.write`; if the queue is full it is dropped and counted.

        Raises:
            BagError: if an earlier message could not be written.
        """
        if self._error is not None:
            raise self._error
        if self._put - self._taken > _QUEUED:
            self.dropped += 1
            return
        self._put += len(data)
        self._queue.put((topic, message_type, stamp, data))

    def close(self) -> None:
        """Write the queued messages and finish the bag.

        Raises:
            BagError: if that fails.
        """
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        due = time.monotonic() + FLUSH_PERIOD
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                if item is None:
                    return
                self._writer.write(*item)
                self._taken += len(item[-1])
            except queue.Empty:
                pass
            if time.monotonic() >= due:
                self._writer.flush()
                due = time.monotonic() + FLUSH_PERIOD

    def _run(self) -> None:
        # An error is raised by the next call of write or close.
        try:
            self._write_all()
        except BagError as error:
            self._error = error
            while self._queue.get() is not None:
                self.dropped += 1
            return
        try:
            self._writer.close()
        except BagError as error:
            self._error = error
