# SPDX-License-Identifier: Apache-2.0
"""`diffkd bench`: duration of each part on this machine, median milliseconds in one process.

Compare rows of one run rather than runs, because other processes may use the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from diffkd_ros.files import check_results_file
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.raycast import Solids, cast, face_planes
from diffkd_ros.sources.simulator.shapes import upright_box

SEED = 3
AGENTS = 5
TRAINED_AGENTS = SimulatorConfig().agents


def median_ms(job: Callable[[], object], repetitions: int) -> float:
    """Median duration of a job in milliseconds, after two runs to warm up."""
    durations = []
    for _ in range(repetitions + 2):
        started = time.perf_counter()
        job()
        durations.append(1e3 * (time.perf_counter() - started))
    return float(np.median(durations[2:]))


def _ray_casting() -> Callable[[], object]:
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


def _suppression() -> Callable[[], object]:
    """1,000 boxes over the range of the shipped grid."""
    draw = np.random.default_rng(SEED)
    boxes = draw.uniform([-51, -25, -1, 3.5, 1.6, 1.4, -3], [51, 25, 0, 5.5, 2.2, 2.0, 3], (1000, 7))
    scores = draw.random(1000)
    return lambda: nms(boxes, scores, 0.15)


def _drawing() -> Callable[[], object]:
    """A new scenario and one frame of it, with the default settings of the recipes."""
    simulator, numbers = Simulator(SimulatorConfig(agents=TRAINED_AGENTS), SEED), itertools.count(1)
    return lambda: simulator.scenario(next(numbers)).frame(50)


def run(model: Path, threads: int, device: str, repetitions: int, out: Path | None) -> dict[str, float]:
    """Time every part, print a table and optionally write it as JSON.

    Args:
        model: model folder.
        threads: CPU threads of ONNX Runtime.
        device: `cpu`, `cuda` or `tensorrt`.
        repetitions: runs whose median is reported.
        out: JSON file to write, or None.

    Returns:
        Median milliseconds by part, and the payload's size in kB.

    Raises:
        ModelError: if the model does not load.
        DiffkdError: if the file cannot be written.
    """
    if out is not None:
        check_results_file(out)
    card = ModelCard.load(model)
    encoder = FeatureEncoder(card, threads, device)
    detector = CooperativeDetector(card, threads, device)
    scenario = Simulator(SimulatorConfig(agents=AGENTS), SEED).scenario(0)
    frame = scenario.frame(0)
    agents = [frame.ego, *frame.neighbours]
    sweeps = [frame.agents[agent] for agent in agents]
    features = [encoder.encode(sweep.points) for sweep in sweeps]
    poses = [sweep.pose for sweep in sweeps]
    encoded = codec.encode(features[1])
    shape = features[1].feature.shape

    jobs: dict[str, Callable[[], object]] = {
        'cast 64 x 1800 rays, 100 boxes': _ray_casting(),
        f'simulate a frame of {AGENTS} agents': lambda: scenario.frame(1),
        # Every training sample is from another scenario.
        f'create a scenario of {TRAINED_AGENTS} agents and simulate a frame': _drawing(),
        'suppress 1,000 boxes': _suppression(),
        f'encode a sweep of {len(sweeps[0].points)} points': lambda: encoder.encode(sweeps[0].points),
        'encode a feature for the link': lambda: codec.encode(features[1]),
        'decode it': lambda: codec.decode(encoded, *shape),
    }
    for count in range(1, AGENTS + 1):
        jobs[f'restore, fuse, detect: {count} agent{"s" if count > 1 else ""}'] = partial(
            detector.detect, features[:count], poses[:count]
        )
    results = {name: median_ms(job, repetitions) for name, job in jobs.items()}
    table = Table(title=f'{card.model_id}, {device}, {threads} thread(s), median of {repetitions}')
    table.add_column('part')
    table.add_column('ms', justify='right')
    for name, duration in results.items():
        table.add_row(name, f'{duration:.2f}')
    Console().print(table)
    results['payload kB'] = len(encoded.data) / 1e3
    print(f'a feature of {shape} is sent as {results["payload kB"]:.0f} kB')
    if out is not None:
        write_json(out, results)
    return results
