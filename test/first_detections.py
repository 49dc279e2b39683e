# SPDX-License-Identifier: Apache-2.0
"""How long a vehicle that starts its ego node waits for the first detections.

    python test/first_detections.py --starts 5

Sweeps of one simulated instant are published at 10 Hz, all the time; the node, with the shipped model and
parameters, is started as a process again and again. Prints the seconds from the start of the process to the
first detections that arrive here, and their median. Numeric functions have been compiled before.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from diffkd_ros.msg import Boxes3D
from ros_partner import SECOND, Partner

from diffkd_ros.launching import graph
from diffkd_ros.launching.middleware import free_domain
from diffkd_ros.launching.processes import NodeGroup
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

PERIOD = 0.1
DETECTIONS = '/cav_1/detections'


def seconds_to_first(partner: Partner, folder: Path) -> float:
    """Start an ego, and stop it when its first detections arrive.

    Args:
        partner: receives them.
        folder: for the node's log.
    """
    (spec,) = graph.vehicle_specs([1], 1, {})
    environment = {'ROS_DOMAIN_ID': str(partner.domain), 'ROS_LOG_DIR': str(folder / 'ros')}
    with NodeGroup([share_directory() / 'config' / 'coop.yaml'], folder, environment) as group:
        partner.received.clear()
        begun = time.monotonic()
        group.start(spec)
        partner.until(lambda: partner.received[DETECTIONS], DETECTIONS)
        return time.monotonic() - begun


def send_sweeps(partner: Partner, ended: threading.Event) -> None:
    """Publish sweeps of the ego until the end."""
    simulator = Simulator(SimulatorConfig(agents=2, frames_per_scenario=1), seed=77)
    sweep = simulator.scenario(0).frame(0).agents[1]
    for k in itertools.count():
        partner.sweep('cav_1', round(k * PERIOD * SECOND), sweep)
        if ended.wait(PERIOD):
            return


def main() -> None:
    """Start nodes and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--starts', type=int, default=5)
    starts = parser.parse_args().starts
    partner, ended = Partner(free_domain()), threading.Event()
    partner.listen(Boxes3D, DETECTIONS)
    sender = threading.Thread(target=send_sweeps, args=(partner, ended))
    sender.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = [seconds_to_first(partner, Path(folder)) for _ in range(starts)]
    finally:
        ended.set()
        sender.join()
        partner.close()
    print(*(f'{each:.2f}' for each in seconds), f'median {median(seconds):.2f} s', sep='  ')


if __name__ == '__main__':
    main()
