# SPDX-License-Identifier: Apache-2.0
"""Publishes as many messages on the V2X link as it is asked for, under names of its own.

python test/faults/flooder.py --flood names --domain 7 --seconds 10
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import rclpy
from diffkd_ros.msg import BevChunk, BevFeature
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions

from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC
from diffkd_ros.nodes.base import qos

FORGED = 'forged'
"""The flood of wrongly signed messages."""


def _feature(name: str, size: int = 0) -> BevFeature:
    message = BevFeature(agent_id=name)
    message.data.frombytes(bytes(size))
    return message


def _chunk(number: int) -> BevChunk:
    message = BevChunk(agent_id=f'liar_{number}', chunks=255, chunk=number % 255)
    message.data.frombytes(bytes(100))
    return message


def _forged(message: BevFeature) -> bytes:
    """The serialised message with a wrong signature."""
    data = serialize_message(message)
    return data + bytes(-len(data) % 4) + bytes(64) + b'dkS1'


# What is sent, by number, and messages per second.
FLOODS: dict[str, tuple[Callable[[int], BevFeature | BevChunk], float]] = {
    'name': (lambda _: _feature('liar'), 500.0),
    'names': (lambda k: _feature(f'liar_{k}'), 500.0),
    'chunks': (_chunk, 500.0),
    'fleet': (lambda k: _feature(f'liar_{k % 50}', 95_000), 500.0),
    'payloads': (lambda _: _feature('liar', 8_000_000), 5.0),
    'long_names': (lambda _: _feature('x' * 1_000_000), 20.0),
    'two_topics': (lambda k: _chunk(k) if k % 2 else _feature(f'liar_{k % 50}', 95_000), 1000.0),
    FORGED: (lambda _: _feature('cav_9', 10_000), 500.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--flood', choices=FLOODS, required=True)
    parser.add_argument('--domain', type=int, required=True)
    parser.add_argument('--seconds', type=float, default=10.0)
    parser.add_argument('--share', type=float, default=1.0, help='of the rate')
    options = parser.parse_args()
    # It ends at once.
    rclpy.init(domain_id=options.domain, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('flooder')
    links = {
        BevFeature: node.create_publisher(BevFeature, f'/{FEATURES_TOPIC}', qos.FEATURES),
        BevChunk: node.create_publisher(BevChunk, f'/{CHUNKS_TOPIC}', qos.CHUNKS),
    }
    make, rate = FLOODS[options.flood]
    begun = time.monotonic()
    for sequence in itertools.count():
        message = make(sequence)
        now = node.get_clock().now().to_msg()
        message.header.stamp, message.sequence = now, sequence
        links[type(message)].publish(_forged(message) if options.flood == FORGED else message)
        due = begun + sequence / (rate * options.share)
        if due - begun > options.seconds:
            break
        time.sleep(max(0.0, due - time.monotonic()))
    print(f'{sequence + 1} messages in {time.monotonic() - begun:.1f} s', flush=True)


if __name__ == '__main__':
    main()
