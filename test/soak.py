# SPDX-License-Identifier: Apache-2.0
"""A long run of the cooperative set-up with vehicles that join, leave, crash and have a wrong clock.

    python test/soak.py --minutes 10 --rate 10 --out soak

The ego (cav_1) and its neighbour cav_2 run throughout. cav_3 leaves and joins, cav_4 is killed and
restarted, and cav_9, played by this script with the features of cav_2, has a clock that is 3 s ahead. The
script prints and writes to soak.json: the memory of each process over time, the balance of the
ego's sweeps, published = fused + overwritten + refused + failed + missing, and of the link, sent = fused +
refused + overwritten + lost. It exits with 1 if memory grows by more than 5 % after the first minute, if a
balance does not hold, or if the ego stops answering.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

from diffkd_ros.msg import BevChunk, BevFeature
from observer import Memory, Observer, memory_of, sweeps_of, unbalanced
from rclpy.publisher import Publisher

from diffkd_ros.launching import graph
from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.launching.processes import NodeGroup, NodeProcess
from diffkd_ros.nodes.base import qos
from diffkd_ros.share import share_directory

EGO, STEADY, LEAVING, DYING = 1, 2, 3, 4
AHEAD = 3
GROWTH_LIMIT = 0.05


class Neighbours(Observer):
    """Also counts what the neighbours send, and plays the one whose clock is ahead.

    Attributes:
        heard: sweeps sent by each agent.
        shifted: sweeps sent by the played neighbour.
    """

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        self.shifted = 0
        self.heard: Counter[str] = Counter()
        self._highest: dict[str, int] = {}
        for kind, topic, profile in (
            (BevFeature, graph.V2X_TOPIC, qos.FEATURES),
            (BevChunk, graph.V2X_CHUNKS_TOPIC, qos.CHUNKS),
        ):
            publisher = self.node.create_publisher(kind, topic, profile)
            self.node.create_subscription(kind, topic, partial(self._shift, publisher), profile)
        self.start()

    def _shift(self, publisher: Publisher, message: BevFeature | BevChunk) -> None:
        # By sequence numbers, equal in the chunks of a sweep; they start again at 0 after a restart.
        agent, sequence = message.agent_id, int(message.sequence)
        before = self._highest.get(agent, -1)
        fresh = sequence - before if sequence >= before else sequence + 1
        self.heard[agent] += fresh
        self._highest[agent] = sequence
        if message.agent_id == 'cav_2':
            self.shifted += bool(fresh)
            message.agent_id, message.sequence = 'cav_9', self.shifted - 1
            message.header.stamp.sec += AHEAD
            publisher.publish(message)

    @property
    def longest_pause(self) -> float:
        """Seconds between two answers of the ego."""
        times = [answer.at for answer in self.answers]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


class Soak:
    """One run."""

    def __init__(self, group: NodeGroup, observer: Neighbours, options: argparse.Namespace) -> None:
        self.group, self.observer, self.options = group, observer, options
        self.memory: dict[str, list[Memory]] = {}
        self.sent: Counter[str] = Counter()
        self.killed = 0
        self.starts = 0
        self._specs = {
            int(re.sub(r'\D', '', spec.namespace)): spec
            for spec in graph.vehicle_specs([EGO, STEADY, LEAVING, DYING], EGO, {'model': options.model})
        }
        self._vehicles: dict[int, NodeProcess] = {}

    def start(self, vehicle: int) -> None:
        self.starts += 1
        label = f'{self._specs[vehicle].label}.{self.starts}'
        self._vehicles[vehicle] = self.group.start(self._specs[vehicle], label=label)

    def leave(self, vehicle: int) -> None:
        process = self._vehicles.pop(vehicle)
        self.group.stop([process], patience=10.0)
        found = re.search(r'(\d+) features sent', process.tail())
        assert found, process.tail()
        self.sent[f'cav_{vehicle}'] += int(found[1])

    def kill(self, vehicle: int) -> None:
        """Kill a vehicle: the number of messages it sent is then known only from those received."""
        process = self._vehicles.pop(vehicle)
        process.signal(signal.SIGKILL)
        process.wait(5.0)
        self.group.stop([process])
        self.killed += 1

    def sample(self, since: float) -> None:
        running = {f'cav_{number}': process for number, process in self._vehicles.items()}
        for name, process in running.items():
            memory = memory_of(process, time.monotonic() - since)
            if memory is not None:
                self.memory.setdefault(f'{name} ({process.label.rpartition(".")[2]})', []).append(memory)

    def run(self) -> dict[str, object]:
        for vehicle in self._specs:
            self.start(vehicle)
        self.group.wait_ready(120.0)
        seconds = 60.0 * self.options.minutes
        player = self.group.start(
            graph.player_spec(
                {
                    'vehicles': len(self._specs),
                    'mode': 'realtime',
                    'rates': [self.options.rate],
                    'seconds': seconds,
                    'seed': 3,
                    'out': str(self.options.out / 'player.json'),
                }
            )
        )
        begin = time.monotonic()
        step = 0
        while not player.wait(1.0):
            step += 1
            passed = time.monotonic() - begin
            self.sample(begin)
            if step % 30 == 10:
                self.leave(LEAVING)
            elif step % 30 == 20:
                self.start(LEAVING)
            if step % 40 == 15:
                self.kill(DYING)
            elif step % 40 == 18:
                self.start(DYING)
            if step % 30 == 0:
                answers, messages = len(self.observer.answers), self.observer.messages
                print(f'{passed:5.0f} s: {answers} answers, {messages}', flush=True)
            if passed > seconds + 120.0:
                raise TimeoutError('the player does not end')
        # Wait until the last messages have arrived and the ego has reported once more.
        time.sleep(3.0)
        balance = {k: int(v) for k, v in self.observer.diagnostics['neighbours'].items()}
        status, inputs = self.observer.status, self.observer.diagnostics['input']
        for vehicle in (*self._vehicles,):
            if vehicle != EGO:
                self.leave(vehicle)
        self.sent['cav_9'] = self.observer.shifted
        self.sent[f'cav_{DYING}'] = self.observer.heard[f'cav_{DYING}']
        assert status is not None
        return {
            'minutes': self.options.minutes,
            'rate': self.options.rate,
            'player': json.loads((self.options.out / 'player.json').read_text())['runs'],
            'ego_sweeps': {
                **sweeps_of(inputs),
                'longest pause between answers [s]': round(self.observer.longest_pause, 2),
            },
            'joins': self.starts - len(self._specs),
            'killed': self.killed,
            'sent': dict(self.sent),
            'link': balance,
            'warnings': dict(self.observer.warned),
            'clock': self.observer.messages['clock'],
            'memory': {name: summary(samples) for name, samples in self.memory.items()},
        }


def summary(samples: list[Memory]) -> dict[str, object]:
    """Own memory in MB, a minute after the start and at the end, and its growth if it ran long enough."""
    begin = samples[0].seconds
    settled = [m.own for m in samples if 60.0 <= m.seconds - begin < 75.0]
    last = statistics.median(m.own for m in samples[-10:])
    lived = samples[-1].seconds - begin
    result: dict[str, object] = {'seconds': round(lived, 1), 'last': round(last, 1)}
    if settled and lived > 90.0:
        after = statistics.median(settled)
        result |= {'after a minute': round(after, 1), 'growth': round(last / after - 1.0, 4)}
        result['every 30 s'] = [round(m.own, 1) for m in samples[::30]]
    return result


def complaints(result: dict) -> list[str]:
    """The failed checks."""
    found = []
    for name, memory in result['memory'].items():
        if memory.get('growth', 0.0) > GROWTH_LIMIT:
            found.append(f'{name} grew by {memory["growth"]:.1%}')
    link, sweeps = result['link'], result['ego_sweeps']
    found += unbalanced(sweeps, link)
    published = sum(run['sent'] for run in result['player'])
    # A sweep lost before the first one, after the last one or between two scenarios is not known.
    if not 0 <= published - sweeps['received'] - sweeps['missing'] <= sweeps['pauses'] + 2:
        found.append(
            f'{published} sweeps published, {sweeps["received"] + sweeps["missing"]} known to the ego'
        )
    known = link['received'] + link['lost'] + link['sent before they were heard']
    sent = sum(result['sent'].values())
    # The ego cannot know of messages that an agent sent just before it left or was killed.
    link['sent last, not missed'] = sent - known
    if abs(sent - known) > 2 * (result['joins'] + 1):
        found.append(f'{sent} features sent, the ego knows of {known}')
    if 'cav_9 is ahead' not in result['clock']:
        found.append(f'the wrong clock is not reported: {result["clock"]!r}')
    if sweeps['longest pause between answers [s]'] > 10.0:
        found.append('the ego stopped answering')
    return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--rate', type=float, default=10.0, help='sweeps per second')
    parser.add_argument('--model', default='sim_edge')
    parser.add_argument('--domain', type=int, default=93, help='DDS domain')
    parser.add_argument('--out', type=Path, default=None, help='folder for soak.json and logs')
    options = parser.parse_args()
    options.out = (options.out or Path(tempfile.mkdtemp(prefix='soak'))).resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    environment = {
        **fast_dds_environment(share_directory(), loopback=True),
        'ROS_DOMAIN_ID': str(options.domain),
        'ROS_LOG_DIR': str(options.out / 'ros'),
        'OMP_NUM_THREADS': '1',
        'OPENBLAS_NUM_THREADS': '1',
    }

    os.environ.update(environment)
    observer = Neighbours(options.domain)
    try:
        with NodeGroup([share_directory() / 'config' / 'coop.yaml'], options.out, environment) as group:
            result = Soak(group, observer, options).run()
    finally:
        observer.close()
    result['complaints'] = complaints(result)
    (options.out / 'soak.json').write_text(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))
    return 1 if result['complaints'] else 0


if __name__ == '__main__':
    sys.exit(main())
