# SPDX-License-Identifier: Apache-2.0
"""Measures how faults of a vehicle's own LiDAR are found in simulated drives, and what they cost.

    python test/faults/own_sensor.py find      # detected, delays and false alarms of each fault
    python test/faults/own_sensor.py cost      # average precision with and without the ego's map

Of each drive 40 sweeps are in order, then the fault begins and stays. Poses are wrong from the first on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from diffkd_ros.corruptions import LinkConditions, corrupt_frame
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler, transform_points
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.runtime.sensor.monitor import SensorMonitor
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

BEGINS = 40
# Scenarios of each world, by seed.
DRIVES = (('basic', 301, 6), ('varied', 302, 12))
Change = Callable[[CoopFrame, CoopFrame], CoopFrame]
"""Of a frame, given the one in which the fault began."""


def points(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the points of the ego."""

    def apply(frame: CoopFrame, first: CoopFrame) -> CoopFrame:
        sweep = replace(frame.agents[1], ring=None, time=None)
        return replace(frame, agents={**frame.agents, 1: replace(sweep, points=change(sweep.points))})

    return apply


def turned(**angles: float) -> Change:
    """Turn the points, degrees."""
    turn = pose_from_euler([0, 0, 0], **{axis: np.radians(angle) for axis, angle in angles.items()})
    return points(lambda cloud: transform_points(turn, cloud))


def corrupted(name: str, severity: int = 3, profile: str = 'graded') -> Change:
    """Corrupt the sweep of the ego."""
    return lambda frame, first: corrupt_frame(frame, name, severity, 0, 'ego', profile)  # type: ignore[arg-type]


def jumping(deviation: float) -> Change:
    """Add an error to x and y of the ego's pose, another one in each sweep."""

    def apply(frame: CoopFrame, first: CoopFrame) -> CoopFrame:
        pose = frame.agents[1].pose.copy()
        pose[:2, 3] += np.random.default_rng(frame.index).normal(0, deviation, 2)
        return replace(frame, agents={**frame.agents, 1: replace(frame.agents[1], pose=pose)})

    return apply


def frozen(frame: CoopFrame, first: CoopFrame) -> CoopFrame:
    """The first sweep again."""
    return points(lambda cloud: first.agents[1].points)(frame, first)


def ground_only(cloud: np.ndarray) -> np.ndarray:
    """Without what stands, as when a tunnel ends in an open field."""
    return cloud[cloud[:, 2] < np.percentile(cloud[:, 2], 5) + 0.6]


def thinned(cloud: np.ndarray) -> np.ndarray:
    """A tenth of the returns."""
    return cloud[np.random.default_rng(len(cloud)).random(len(cloud)) < 0.1]


FAULTS: dict[str, Change] = {
    'frozen': frozen,
    'turned by 5 degrees': turned(yaw=5),
    'turned by 3 degrees': turned(yaw=3),
    'half of the field': points(lambda cloud: cloud[cloud[:, 1] > 0]),
    'a tenth of the points': points(thinned),
    'returns scattered by 0.2 m': corrupted('motion_blur', 1, 'lab'),
}
OTHERS: dict[str, Change] = {
    'in order': lambda frame, first: frame,
    'turned by 2 degrees': turned(yaw=2),
    'pitched by 5 degrees': turned(pitch=5),
    'rolled by 5 degrees': turned(roll=5),
    'sweeps shifted by 0.3 m': corrupted('motion_blur'),
    'poses off by 0.1 m': jumping(0.1),
    'poses off by 0.3 m': jumping(0.3),
    'walls end': points(ground_only),
    **{name: corrupted(name) for name in ('fog', 'wet_ground', 'snow', 'crosstalk', 'beam_missing')},
}


def drives() -> Iterator[list[CoopFrame]]:
    """The drives, without neighbours."""
    for world, seed, count in DRIVES:
        simulator = Simulator(SimulatorConfig(world=world, agents=1), seed)  # type: ignore[arg-type]
        for number in range(count):
            scenario = simulator.scenario(number)
            yield [scenario.frame(k) for k in range(len(scenario))]


def find() -> None:
    """Print what is reported from the sweep on in which each fault begins."""
    reports: dict[str, list[list[set[str]]]] = {name: [] for name in FAULTS | OTHERS}
    always: list[int | None] = []
    milliseconds: list[float] = []

    def watched(frames: list[CoopFrame], change: Change, begins: int = BEGINS) -> list[set[str]]:
        monitor, found = SensorMonitor(), []
        for frame in frames:
            broken = frame if frame.index < begins else change(frame, frames[begins])
            sweep = broken.agents[1]
            started = time.thread_time()
            monitor.examine(sweep.points, sweep.pose, 'map', frame.stamp)
            milliseconds.append((time.thread_time() - started) * 1e3)
            found.append({fault.value for fault in monitor.faults})
        return found[begins:]

    for frames in drives():
        for name, change in (FAULTS | OTHERS).items():
            # In some drives of the world `varied` there are no intensities, which wet ground needs.
            if name != 'wet_ground' or frames[0].agents[1].points[:, 3].any():
                begins = 0 if name.startswith('poses') else BEGINS
                reports[name].append(watched(frames, change, begins))
        found = watched(frames, turned(yaw=5), 0)
        first = next((k for k, faults in enumerate(found) if 'turned' in faults), None)
        way = np.array(
            [frame.agents[1].pose[:2, 3] for frame in frames[: None if first is None else first + 1]]
        )
        driven = float(np.hypot(*np.diff(way, axis=0).T).sum())
        always.append(None if first is None else round(driven))
        print(
            f'turned from the beginning: {"not found" if first is None else "found"} after {driven:.0f} m',
            flush=True,
        )
    for name, each in reports.items():
        firsts = [next((k for k, faults in enumerate(found) if faults), None) for found in each]
        kinds = sorted({fault for found in each for faults in found for fault in faults})
        sweeps = sum(map(len, each))
        shares = {
            kind: f'{sum(kind in faults for found in each for faults in found) / sweeps:.1%} of the sweeps, '
            f'{sum(any(kind in faults for faults in found) for found in each)} of {len(each)} drives'
            for kind in kinds
        }
        print(f'{name}: reported after {[None if k is None else k + 1 for k in firsts]} sweeps; {shares}')
    print(f'{np.median(milliseconds):.2f} ms a sweep (median), {np.quantile(milliseconds, 0.95):.2f} (95 %)')


class Ego:
    """The ego of one frame, with what its neighbours send.

    Args:
        model: of all vehicles.
        frame: in order.
    """

    def __init__(self, model: Model, frame: CoopFrame) -> None:
        self._model, self._frame = model, frame
        layered, clean = LayeredCooperation(model), CleanFrame(frame)
        messages = [layered.message(clean, k, frame.agents[k], LinkConditions()) for k in frame.neighbours]
        sent = [message for message in messages if message is not None]
        unpacker = Unpacker(model.receiver.tables)
        self._received = [unpacker.unpack(message.chunks) for message in sent]
        self._poses = [frame.agents[1].pose, *(message.pose for message in sent)]

    def detected(self, cloud: np.ndarray | None, alone: bool = False) -> FrameResults:
        """Detect with these points, None for none, and score."""
        model = self._model
        own = model.nothing() if cloud is None else model.encode(cloud).feature or model.nothing()
        if alone:
            found = model.detect([own], self._poses[:1])
        else:
            found = detect_layered(model.card, model.receiver, model.detect, own, self._received, self._poses)
        return score_frame(self._frame, found.boxes, protocol_named('sim'))


def cost() -> None:
    """Print AP@0.3, 0.5 and 0.7 on 20 frames with two neighbours."""
    model, simulator = Model(model_folder('sim_edge')), Simulator(SimulatorConfig(agents=3), 3)
    results: dict[tuple[str, str], list[FrameResults]] = {}
    others = 'in order', 'turned by 2 degrees', 'pitched by 5 degrees', 'rolled by 5 degrees'
    changes = FAULTS | {name: OTHERS[name] for name in others}
    for scenario in map(simulator.scenario, range(4)):
        for frame in map(scenario.frame, np.linspace(20, len(scenario) - 1, 5).astype(int).tolist()):
            ego = Ego(model, frame)
            results.setdefault(('any', 'left out'), []).append(ego.detected(None))
            # The cloud of a second before.
            before = scenario.frame(frame.index - 10)
            for name, change in changes.items():
                cloud = change(frame, before).agents[1].points
                results.setdefault((name, 'with two neighbours'), []).append(ego.detected(cloud))
                results.setdefault((name, 'alone'), []).append(ego.detected(cloud, alone=True))
    for (name, way), frames in results.items():
        joined = join(frames)
        print(name, way, *(f'{100 * joined.average_precision(iou):.1f}' for iou in (0.3, 0.5, 0.7)), sep=', ')


if __name__ == '__main__':
    {'find': find, 'cost': cost}[sys.argv[1]]()
