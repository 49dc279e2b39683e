# SPDX-License-Identifier: Apache-2.0
"""Measures how faults of a vehicle's own LiDAR and pose are found in simulated drives, and what they cost.

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
DRIVES = (('basic', 301, 8), ('varied', 302, 12))
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


def posed(change: Callable[[np.ndarray, int], np.ndarray]) -> Change:
    """Change the pose of the ego, given the number of the frame."""

    def apply(frame: CoopFrame, first: CoopFrame) -> CoopFrame:
        sweep = frame.agents[1]
        return replace(
            frame, agents={**frame.agents, 1: replace(sweep, pose=change(sweep.pose, frame.index))}
        )

    return apply


def jumping(deviation: float) -> Change:
    """Add an error to x and y of the ego's pose, another one in each sweep."""
    return posed(lambda pose, k: shifted(pose, *np.random.default_rng(k).normal(0, deviation, 2)))


def swinging(amplitude: float) -> Change:
    """Turn the pose to both sides with a period of 4 s, degrees."""
    return posed(lambda pose, k: headed(pose, amplitude * np.sin(np.pi * k / 20)))


def noisy(deviation: float) -> Change:
    """Turn the pose by another angle in each sweep, degrees."""
    return posed(lambda pose, k: headed(pose, np.random.default_rng(k).normal(0, deviation)))


def shifted(pose: np.ndarray, x: float, y: float) -> np.ndarray:
    """The pose at another place."""
    pose = pose.copy()
    pose[:2, 3] += x, y
    return pose


def headed(pose: np.ndarray, degrees: float) -> np.ndarray:
    """The pose with another heading."""
    turn = pose_from_euler(pose[:3, 3], yaw=np.radians(degrees))
    turn[:3, :3] = turn[:3, :3] @ pose[:3, :3]
    return turn


def ahead(change: Change) -> Change:
    """The change, of a LiDAR that sees 120 degrees."""

    def apply(frame: CoopFrame, first: CoopFrame) -> CoopFrame:
        def seen(cloud: np.ndarray) -> np.ndarray:
            return cloud[cloud[:, 0] > np.abs(cloud[:, 1]) / np.tan(np.pi / 3)]

        return points(seen)(change(frame, first) if frame.index >= BEGINS else frame, first)

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
    'turned by 5 degrees, always': turned(yaw=5),
}
POSES: dict[str, Change] = {
    'position corrected by 1 m to the left': posed(lambda pose, k: pose @ pose_from_euler([0, 1, 0])),
    'the same, 120 degrees': ahead(posed(lambda pose, k: pose @ pose_from_euler([0, 1, 0]))),
    'heading wrong by 3 degrees': posed(lambda pose, k: headed(pose, 3)),
    'heading wrong by 5 degrees': posed(lambda pose, k: headed(pose, 5)),
    'heading wrong by 5 degrees, always': posed(lambda pose, k: headed(pose, 5)),
    'poses late by 0.2 s, always': lambda frame, first: frame,  # see `find`
    **{f'heading with noise of {angle} degrees, always': noisy(angle) for angle in (0.5, 1, 2)},
    'heading swings by 2 degrees, always': swinging(2),
    **{f'position with noise of {metres} m, always': jumping(metres) for metres in (0.1, 0.3)},
}
OTHERS: dict[str, Change] = {
    'in order': lambda frame, first: frame,
    'turned by 2 degrees': turned(yaw=2),
    'pitched by 5 degrees': turned(pitch=5),
    'rolled by 5 degrees': turned(roll=5),
    'sweeps shifted by 0.3 m': corrupted('motion_blur'),
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


def watched(frames: list[CoopFrame], name: str, change: Change, took: list[float]) -> list[set[str]]:
    """The faults reported after each sweep from the one on in which the fault begins."""
    begins = 0 if name.endswith('always') else BEGINS
    monitor, found = SensorMonitor(), []
    for frame in frames:
        broken = change(frame, frames[begins]) if frame.index >= begins or '120' in name else frame
        if name.startswith('poses late'):
            broken = posed(lambda _, k: frames[max(0, k - 2)].agents[1].pose)(frame, frame)
        sweep = broken.agents[1]
        started = time.thread_time()
        monitor.examine(sweep.points, sweep.pose, 'map', frame.stamp)
        if name == 'in order':
            took.append((time.thread_time() - started) * 1e3)
        found.append({fault.value for fault in monitor.faults})
    return found[begins:]


def find() -> None:
    """Print what is reported from the sweep on in which each fault begins."""
    reports: dict[str, list[list[set[str]]]] = {name: [] for name in FAULTS | POSES | OTHERS}
    took: list[float] = []
    returns: list[int] = []
    ways: list[np.ndarray] = []
    for frames in drives():
        returns.append(len(frames[0].agents[1].points))
        places = np.array([frame.agents[1].pose[:2, 3] for frame in frames])
        ways.append(np.append(0.0, np.cumsum(np.hypot(*np.diff(places, axis=0).T))))
        for name, change in (FAULTS | POSES | OTHERS).items():
            # In some drives of the world `varied` there are no intensities, which wet ground needs.
            if name != 'wet_ground' or frames[0].agents[1].points[:, 3].any():
                reports[name].append(watched(frames, name, change, took))
    print('metres driven from the sweep 40 on:', [round(float(way[-1] - way[BEGINS])) for way in ways])
    for name, each in reports.items():
        sweeps = sum(map(len, each))
        print(f'{name}:')
        for kind in sorted({fault for found in each for faults in found for fault in faults}):
            firsts = [next((k + 1 for k, faults in enumerate(f) if kind in faults), None) for f in each]
            share = sum(kind in faults for found in each for faults in found) / sweeps
            drives_ = sum(first is not None for first in firsts)
            print(f'    {kind}: {drives_} of {len(each)} drives, {share:.1%} of the sweeps, after {firsts}')
            if name.endswith('always') and 'noise' not in name:
                driven = [
                    None if k is None else round(float(w[k - 1])) for k, w in zip(firsts, ways, strict=True)
                ]
                print(f'        after metres: {driven}')
    print(
        f'{np.median(took):.2f} ms a sweep (median), {np.quantile(took, 0.95):.2f} (95 %), '
        f'of {min(returns)} to {max(returns)} points'
    )


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

    def detected(
        self, cloud: np.ndarray | None, pose: np.ndarray | None = None, alone: bool = False
    ) -> FrameResults:
        """Detect with these points, None for none, and with this pose if given, and score."""
        model, poses = self._model, list(self._poses)
        poses[0] = poses[0] if pose is None else pose
        own = model.nothing() if cloud is None else model.encode(cloud).feature or model.nothing()
        if alone:
            found = model.detect([own], poses[:1])
        else:
            found = detect_layered(model.card, model.receiver, model.detect, own, self._received, poses)
        return score_frame(self._frame, found.boxes, protocol_named('sim'))


def cost() -> None:
    """Print AP@0.3, 0.5 and 0.7 on 20 frames with two neighbours."""
    model, simulator = Model(model_folder('sim_edge')), Simulator(SimulatorConfig(agents=3), 3)
    results: dict[tuple[str, str], list[FrameResults]] = {}
    changes = {
        'in order': OTHERS['in order'],
        **{name: change for name, change in FAULTS.items() if not name.endswith('always')},
        **{
            f'heading wrong by {angle} degrees': POSES[f'heading wrong by {angle} degrees']
            for angle in (3, 5)
        },
        'pitched by 5 degrees': turned(pitch=5),
    }
    for scenario in map(simulator.scenario, range(4)):
        for frame in map(scenario.frame, np.linspace(20, len(scenario) - 1, 5).astype(int).tolist()):
            ego = Ego(model, frame)
            # The cloud of a second before.
            before = scenario.frame(frame.index - 10)
            for name, change in changes.items():
                sweep = change(frame, before).agents[1]
                for way, found in (
                    ('with two neighbours', ego.detected(sweep.points, sweep.pose)),
                    ('own map left out', ego.detected(None, sweep.pose)),
                    ('alone', ego.detected(sweep.points, sweep.pose, alone=True)),
                ):
                    results.setdefault((name, way), []).append(found)
    for (name, way), frames in results.items():
        joined = join(frames)
        print(name, way, *(f'{100 * joined.average_precision(iou):.1f}' for iou in (0.3, 0.5, 0.7)), sep=', ')


if __name__ == '__main__':
    {'find': find, 'cost': cost}[sys.argv[1]]()
