# SPDX-License-Identifier: Apache-2.0
"""Kills subscribers of a topic and checks that its publisher goes on.

    python test/killed_neighbours.py --kills 500

A publisher and three neighbours exchange large messages; each neighbour is killed (SIGKILL) shortly after its
first message and started again. The script exits with 1 if the publisher publishes nothing for longer than
--patience. It uses the loopback profile that ships; --profile selects another one, for example to see shared
memory block the publisher.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from diffkd_ros.launching.middleware import fast_dds_environment, free_domain
from diffkd_ros.share import share_directory

NEIGHBOURS = 3
# Seconds from a neighbour's first message within which it is killed.
LIFE = 0.5
# Longest wait for its first message, seconds.
START = 15.0


@dataclass(frozen=True)
class Outcome:
    """What happened.

    Attributes:
        kills: neighbours killed.
        published: messages of the publisher.
        longest_pause: of the publisher, seconds, from its first message on.
        blocked: whether that exceeded the patience.
    """

    kills: int
    published: int
    longest_pause: float
    blocked: bool


def exchange(count: Callable[[int, int], None], size: int, rate: float) -> None:
    """Publish and receive until killed; `count` gets the numbers published and received."""
    rclpy.init()
    node = rclpy.create_node(f'neighbour_{os.getpid()}')
    publisher = node.create_publisher(Image, 'features', QoSProfile(depth=10))
    message = Image()
    message.data.frombytes(bytes(size))
    published = received = 0

    def receive(_: Image) -> None:
        nonlocal received
        received += 1
        count(published, received)

    node.create_subscription(Image, 'features', receive, QoSProfile(depth=10))
    due = time.monotonic()
    while True:
        rclpy.spin_once(node, timeout_sec=max(0.0, due - time.monotonic()))
        if time.monotonic() >= due:
            publisher.publish(message)
            published += 1
            count(published, received)
            due = max(due + 1.0 / rate, time.monotonic())


class Processes:
    """The publisher, number 0, and its neighbours; forked, since starting Python anew takes seconds."""

    def __init__(self, size: int, rate: float) -> None:
        self._size, self._rate = size, rate
        self._counts = mmap.mmap(-1, 16 * (1 + NEIGHBOURS))
        self._pids: dict[int, int] = {}
        for number in range(1 + NEIGHBOURS):
            self.start(number)

    def start(self, number: int) -> None:
        def count(published: int, received: int) -> None:
            struct.pack_into('2q', self._counts, 16 * number, published, received)

        count(0, 0)
        pid = os.fork()
        if pid == 0:
            try:
                exchange(count, self._size, self._rate)
            finally:
                os._exit(1)
        self._pids[number] = pid

    def published(self) -> int:
        return struct.unpack_from('2q', self._counts)[0]

    def received(self, number: int) -> int:
        return struct.unpack_from('2q', self._counts, 16 * number)[1]

    def kill(self, number: int) -> None:
        pid = self._pids.pop(number)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def close(self) -> None:
        for number in list(self._pids):
            self.kill(number)


def run(kills: int, *, size: int, rate: float, patience: float, seed: int = 1) -> Outcome:
    """Kill neighbours until the publisher is blocked or `kills` have been killed.

    Args:
        kills: number of kills.
        size: of a message, bytes.
        rate: messages per second of each process.
        patience: longest pause of the publisher, seconds.
        seed: of the times at which neighbours are killed.
    """
    draw = random.Random(seed)
    processes = Processes(size, rate)
    try:
        done, seen, longest = 0, 0, 0.0
        last = time.monotonic()
        started = dict.fromkeys(range(1, 1 + NEIGHBOURS), last)
        ends: dict[int, float] = {}
        while done < kills:
            time.sleep(0.002)
            now = time.monotonic()
            published = processes.published()
            if published != seen or not seen:
                seen, last = published, now
            longest = max(longest, now - last)
            if longest > patience:
                break
            for number, since in started.items():
                if number not in ends and (processes.received(number) or now > since + START):
                    ends[number] = now + draw.uniform(0.0, LIFE)
                if now > ends.get(number, now):
                    processes.kill(number)
                    processes.start(number)
                    started[number] = now
                    del ends[number]
                    done += 1
                    break
        return Outcome(done, seen, longest, longest > patience)
    finally:
        processes.close()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=500)
    parser.add_argument('--size', type=int, default=4_000_000, help='bytes of a message')
    parser.add_argument('--rate', type=float, default=20.0, help='messages per second of each process')
    parser.add_argument('--patience', type=float, default=15.0, help='longest pause of the publisher, s')
    parser.add_argument('--profile', type=Path, default=None, help='profile of Fast DDS')
    options = parser.parse_args()
    os.environ.update(fast_dds_environment(share_directory(), loopback=True))
    if options.profile is not None:
        os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = str(options.profile.resolve())
    os.environ['ROS_DOMAIN_ID'] = str(free_domain())
    begin = time.monotonic()
    outcome = run(options.kills, size=options.size, rate=options.rate, patience=options.patience)
    print(f'{outcome} in {time.monotonic() - begin:.0f} s')
    return 1 if outcome.blocked else 0


if __name__ == '__main__':
    sys.exit(main())
