# SPDX-License-Identifier: Apache-2.0
"""Measures how many of its sweeps an ego answers, and its memory, while the V2X link is flooded.

    python test/faults/floods.py --seconds 20 --rate 5

For each flood the ego gets sweeps for some seconds without it, during it (from 5 s after its start on), and
after it, and poses at 100 Hz. For the flood of wrongly signed messages the ego checks signatures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from diffkd_ros.msg import FusionStatus
from flooder import FLOODS, FORGED
from ros_partner import Partner

from diffkd_ros.frame import CoopFrame
from diffkd_ros.launching import graph
from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.launching.processes import NodeGroup
from diffkd_ros.messages.building import cloud_message, header_message, odometry_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

LIDAR = lidar_frame('cav_1')
# Poses per second.
POSES = 100.0


class Drive:
    """Sends the ego sweeps and poses, and counts its answers."""

    def __init__(self, partner: Partner, scene: CoopFrame, rate: float) -> None:
        self._partner, self._sweep, self._rate = partner, scene.agents[scene.ego], rate
        self._closed = threading.Event()
        self._poses = threading.Thread(target=self._send_poses, daemon=True)
        self._poses.start()

    def close(self) -> None:
        """Send no more poses."""
        self._closed.set()
        self._poses.join()

    def _send_poses(self) -> None:
        due = time.monotonic()
        while not self._closed.wait(max(0.0, due - time.monotonic())):
            header = header_message(time.time_ns(), MAP_FRAME)
            pose = odometry_message(header, LIDAR, self._sweep.pose, self._sweep.velocity)
            self._partner.publish('/cav_1/odometry', pose)
            due += 1 / POSES

    def answered(self, seconds: float) -> float:
        """Share of the sweeps of the next seconds that are answered."""
        before, sent = len(self._partner.received['/cav_1/fusion_status']), round(seconds * self._rate)
        due = time.monotonic()
        for _ in range(sent):
            due += 1 / self._rate
            cloud = cloud_message(header_message(time.time_ns(), LIDAR), self._sweep.points)
            self._partner.publish('/cav_1/points', cloud)
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(1.0)
        return (len(self._partner.received['/cav_1/fusion_status']) - before) / sent


@contextmanager
def flooded(flood: str, domain: int) -> Iterator[None]:
    """Flood the link."""
    command = [sys.executable, Path(__file__).with_name('flooder.py'), '--flood', flood]
    process = subprocess.Popen(['nice', *map(str, command), '--domain', str(domain), '--seconds', '3600'])
    time.sleep(5.0)
    yield
    process.terminate()
    process.wait()


def keys(folder: Path) -> Path:
    """A list with a key of the name under which wrongly signed messages are sent."""
    key = Ed25519PrivateKey.generate().public_key()
    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (folder / 'keys').write_text(f'cav_9 {text}\n')
    return folder / 'keys'


def megabytes(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGESIZE') / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--rate', type=float, default=5.0, help='sweeps per second')
    parser.add_argument('--domain', type=int, default=63)
    parser.add_argument('--model', default='sim_edge')
    parser.add_argument('floods', nargs='*', default=list(FLOODS))
    options = parser.parse_args()
    scene = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), seed=77).scenario(0).frame(0)
    logs = Path(tempfile.mkdtemp(prefix='floods'))
    environment = {
        **fast_dds_environment(share_directory(), loopback=True),
        'ROS_DOMAIN_ID': str(options.domain),
        'ROS_LOG_DIR': str(logs / 'ros'),
    }
    partner = Partner(options.domain)
    partner.listen(FusionStatus, '/cav_1/fusion_status')
    drive = Drive(partner, scene, options.rate)
    print('flood        before  during  after   MB before, during, after', flush=True)
    for signed in (False, True):
        floods = [flood for flood in options.floods if (flood == FORGED) == signed]
        with NodeGroup([share_directory() / 'config' / 'coop.yaml'], logs, environment) as group:
            (spec,) = graph.vehicle_specs([1], 1, {'model': options.model, 'threads': 1})
            if signed:
                spec = replace(spec, parameters={**spec.parameters, 'neighbour_keys': str(keys(logs))})
            ego = group.start(spec)
            group.wait_ready(240.0)
            drive.answered(5.0)
            for flood in floods:
                before, memory = drive.answered(options.seconds), [megabytes(ego.pid)]
                with flooded(flood, options.domain):
                    during = drive.answered(options.seconds)
                    memory.append(megabytes(ego.pid))
                after = drive.answered(options.seconds)
                memory.append(megabytes(ego.pid))
                sizes = ', '.join(f'{size:.0f}' for size in memory)
                print(f'{flood:12} {before:6.2f}  {during:6.2f}  {after:6.2f}  {sizes}', flush=True)
    drive.close()
    partner.close()


if __name__ == '__main__':
    main()
