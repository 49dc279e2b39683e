# SPDX-License-Identifier: Apache-2.0
"""`diffkd bench`: duration of each part on this machine, median milliseconds in one process.

Compare rows of one run rather than runs, because other processes may use the machine.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from diffkd_ros.files import check_results_file
from diffkd_ros.frame import AgentSweep
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET, Packed, Packer
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.plausibility.examination import Examination
from diffkd_ros.runtime.plausibility.judge import VIEWS, Judge
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.raycast import Solids, cast, face_planes
from diffkd_ros.sources.simulator.shapes import upright_box
from diffkd_ros.sources.source import Scenario

SEED = 3
AGENTS = 5
TRAINED_AGENTS = SimulatorConfig().agents
POINTS = 10_000, 30_000, 100_000, 300_000
STAGES = {
    'restore': 'decode and restore',
    'examine': 'examine neighbours',
    'fuse': 'warp, fuse, head',
    'decode': 'boxes and suppression',
    'merge': 'merge with sent boxes',
}
"""The ego's stages, by their names in `Detection.latency_ms`."""
IDLE_SHARE = 0.9
"""Of a core; a process that gets less shares it with others."""


Job = Callable[[], object]


class Clock:
    """Times jobs, and notes how much of a core they got.

    Args:
        repetitions: runs of each job whose median is reported.
    """

    def __init__(self, repetitions: int) -> None:
        self._repetitions = repetitions
        self._computed = self._elapsed = 0.0

    def median_ms(self, job: Job, serial: bool = False) -> float:
        """Median duration of a job in milliseconds, after two runs to warm up.

        `serial`: the job computes all the time, in this thread, so that it shows how busy the machine is.
        """
        durations = []
        for _ in range(self._repetitions + 2):
            started, computed = time.perf_counter(), time.thread_time()
            job()
            durations.append(1e3 * (time.perf_counter() - started))
            if serial:
                self._computed += time.thread_time() - computed
                self._elapsed += durations[-1] / 1e3
        return float(np.median(durations[2:]))

    @property
    def share(self) -> float:
        """Share of a core that the serial jobs got; 1 on an idle machine."""
        return self._computed / self._elapsed


def _ray_casting() -> Job:
    """64 x 1800 rays against 100 vehicle-sized boxes on flat ground."""
    draw = np.random.default_rng(SEED)
    corners = np.array(
        [
            upright_box((x, y), yaw, 4.5, 1.8, (0.0, 1.6))
            for x, y, yaw in draw.uniform([-60, -60, -3], [60, 60, 3], (100, 3))
            if np.hypot(x, y) > 4
        ]
    )
    count = len(corners)
    solids = Solids(
        face_planes(corners),
        np.zeros((0, 6)),
        corners,
        np.arange(count),
        np.full(count, 0.5, np.float32),
        np.zeros(count, np.float32),
    )
    pose = pose_from_euler([0, 0, 1.9])
    ground = HeightField(np.zeros((2, 2), np.float32))
    elevations = np.radians(np.linspace(-25, 5, 64))
    return lambda: cast(pose, -np.pi, 1800, elevations, 100.0, solids, ground)


def _suppression() -> Job:
    """1,000 boxes over the range of the shipped grid."""
    draw = np.random.default_rng(SEED)
    boxes = draw.uniform([-51, -25, -1, 3.5, 1.6, 1.4, -3], [51, 25, 0, 5.5, 2.2, 2.0, 3], (1000, 7))
    scores = draw.random(1000)
    return lambda: nms(boxes, scores, 0.15)


def _drawing() -> Job:
    """A new scenario and one frame of it, with the default settings of the recipes."""
    simulator, numbers = Simulator(SimulatorConfig(agents=TRAINED_AGENTS), SEED), itertools.count(1)
    return lambda: simulator.scenario(next(numbers)).frame(50)


def _resampled(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A cloud of `count` points that lie within centimetres of a sweep's."""
    draw = np.random.default_rng(SEED)
    points = draw.permutation(points)
    larger = np.resize(points, (count, 4))
    larger[:, :3] += draw.normal(0, 0.02, (count, 3))
    return larger


def _simulation(scenario: Scenario) -> dict[str, Job]:
    return {
        'cast 64 x 1800 rays, 100 boxes': _ray_casting(),
        f'simulate a frame of {AGENTS} agents': lambda: scenario.frame(1),
        # Every training sample is from another scenario.
        f'create a scenario of {TRAINED_AGENTS} agents and simulate a frame': _drawing(),
        'suppress 1,000 boxes': _suppression(),
    }


class _Vehicles:
    """Vehicles of one frame and the ego among them, with whole maps or, if the model has them, layers."""

    def __init__(self, card: ModelCard, threads: int, device: str, sweeps: Sequence[AgentSweep]) -> None:
        self._card = card
        self._encoder = FeatureEncoder(card, threads, device)
        self._detector = CooperativeDetector(card, threads, device)
        self._clouds, self._poses = ([getattr(s, name) for s in sweeps] for name in ('points', 'pose'))
        self._maps = [self._encoder.encode(points) for points in self._clouds]
        self._whole = codec.encode(self._maps[1])
        self.stages: dict[str, list[float]] = defaultdict(list)
        self._chunks: list[Packed] = []
        if card.link:
            self._sender, self._receiver = (
                MapSender(card, threads, device),
                MapReceiver(card, threads, device),
            )
            tables = self._receiver.tables
            self._packer, self._unpacker = Packer(tables), Unpacker(tables)
            self._judge, self._stamp = Judge(VIEWS), 0
            self._outgoing = [self._sender.prepare(each) for each in self._maps]
            self._chunks = [self._packer.pack(each, DEFAULT_BUDGET) for each in self._outgoing]

    @property
    def sent_kb(self) -> dict[str, float]:
        """What a vehicle sends of a sweep, by kind of message."""
        layers = {'layers kB': sum(map(len, self._chunks[1])) / 1e3} if self._chunks else {}
        return {'payload kB': len(self._whole.data) / 1e3, **layers}

    def jobs(self) -> dict[str, Job]:
        """What one vehicle computes, and the ego with 1 to `AGENTS` agents."""
        encode = self._encoder.encode
        own = self._clouds[0]
        jobs: dict[str, Job] = {f'encode a sweep of {len(own)} points': partial(encode, own)}
        for count in POINTS:
            jobs[f'encode {count // 1000},000 points'] = partial(encode, _resampled(own, count))
        jobs['encode a feature for the link'] = partial(codec.encode, self._maps[1])
        jobs['decode it'] = partial(codec.decode, self._whole, *self._maps[1].feature.shape)
        if self._chunks:
            jobs['detect in the own map, code and rank its tiles'] = partial(
                self._sender.prepare, self._maps[1]
            )
            jobs['pack layers'] = partial(self._packer.pack, self._outgoing[1], DEFAULT_BUDGET)
            jobs['unpack them'] = partial(self._unpacker.unpack, self._chunks[1])
        for count in range(1, AGENTS + 1):
            agents = f'{count} agent{"s" if count > 1 else ""}'
            jobs[f'restore, fuse, detect: {agents}'] = partial(self._detect, count, agents)
        return jobs

    def _examination(self, count: int) -> Examination:
        """Of the next sweep, a tenth of a second after the one before."""
        self._stamp += 100_000_000
        names = [f'cav_{number}' for number in range(2, count + 1)]
        return Examination(self._sender, self._judge, names, [self._stamp] * count, self._card.grid)

    def _detect(self, count: int, agents: str) -> None:
        """As the ego node does; maps arrive in layers if the model has them."""
        maps, poses = self._maps[:count], self._poses[:count]
        if self._chunks:
            received = [self._unpacker.unpack(chunks) for chunks in self._chunks[1:count]]
            found = detect_layered(
                self._card,
                self._receiver,
                self._detector.detect,
                maps[0],
                received,
                poses,
                examination=self._examination(count),
            )
        else:
            found = self._detector.detect(maps, poses)
        for stage, duration in found.latency_ms.items():
            self.stages[f'  {STAGES[stage]}: {agents}'].append(duration)


def run(model: Path, threads: int, device: str, repetitions: int, out: Path | None) -> dict[str, float]:
    """Time every part, print a table and optionally write it as JSON.

    Args:
        model: model folder.
        threads: CPU threads of ONNX Runtime.
        device: `cpu`, `cuda` or `tensorrt`.
        repetitions: runs whose median is reported.
        out: JSON file to write, or None.

    Returns:
        Median milliseconds by part, sizes of messages in kB, most memory of this process in MB, and the share
        of a core that it got.

    Raises:
        ModelError: if the model does not load.
        DiffkdError: if the file cannot be written.
    """
    if out is not None:
        check_results_file(out)
    card = ModelCard.load(model)
    scenario = Simulator(SimulatorConfig(agents=AGENTS), SEED).scenario(0)
    frame = scenario.frame(0)
    vehicles = _Vehicles(
        card, threads, device, [frame.agents[agent] for agent in (frame.ego, *frame.neighbours)]
    )
    clock = Clock(repetitions)
    results = {name: clock.median_ms(job, serial=True) for name, job in _simulation(scenario).items()}
    for name, job in vehicles.jobs().items():
        results[name] = clock.median_ms(job)
        parts, vehicles.stages = vehicles.stages, defaultdict(list)
        results |= {part: float(np.median(durations[2:])) for part, durations in parts.items()}
    table = Table(title=f'{card.model_id}, {device}, {threads} thread(s), median of {repetitions}')
    table.add_column('part')
    table.add_column('ms', justify='right')
    for name, duration in results.items():
        table.add_row(name, f'{duration:.2f}')
    Console().print(table)
    sizes = vehicles.sent_kb
    print(', '.join(f'{name[:-3]}: {size:.1f} kB a sweep' for name, size in sizes.items()))
    results |= sizes
    results['most memory MB'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results['share of a core'] = clock.share
    print(f'most memory: {results["most memory MB"]:.0f} MB')
    if clock.share < IDLE_SHARE:
        print(f'the machine is busy (this process got {clock.share:.0%} of a core): compare rows of one run')
    if out is not None:
        write_json(out, results)
    return results
