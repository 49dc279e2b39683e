# SPDX-License-Identifier: Apache-2.0
"""Times every part of a model in one process, and the classic design after it.

Compare rows of one run rather than runs, because other processes may use the machine.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffkd_ros.benchmark import floor, simulation
from diffkd_ros.benchmark.clock import Clock
from diffkd_ros.benchmark.comparison import Design, Opener, compare, scale
from diffkd_ros.benchmark.plot import draw
from diffkd_ros.benchmark.table import print_comparison, print_times
from diffkd_ros.benchmark.vehicles import Vehicles
from diffkd_ros.errors import DiffkdError, MissingExtra, require
from diffkd_ros.files import check_results_file
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.card import ModelCard

IDLE_SHARE = 0.9
"""Of a core; a process that gets less shares it with others."""


def run(
    model: Path, threads: int, device: str, repetitions: int, out: Path | None, open_classic: Opener
) -> dict[str, float]:
    """Time every part, print tables and optionally write them as JSON, with a plot beside it.

    Args:
        model: model folder.
        threads: CPU threads of ONNX Runtime, of torch and of what the machine does at most.
        device: `cpu`, `cuda` or `tensorrt`; the classic design is timed on `cpu` only.
        repetitions: runs whose median is reported.
        out: JSON file to write, or None. The plot has its name with the suffix `.png`.
        open_classic: makes the classic design.

    Returns:
        Median milliseconds by part, sizes of messages in kB, most memory of this process in MB without the
        classic design, the share of a core that it got, what the machine does at most, and the comparison.

    Raises:
        ModelError: if the model does not load.
        DiffkdError: if a file cannot be written.
    """
    if out is not None:
        if out.suffix == '.png':
            raise DiffkdError(f'{out} is where the plot would be: give a file such as {out.stem}.json')
        check_results_file(out)
    card = ModelCard.load(model)
    scenario = simulation.simulated()
    frame = scenario.frame(0)
    vehicles = Vehicles(
        card, threads, device, [frame.agents[agent] for agent in (frame.ego, *frame.neighbours)]
    )
    clock = Clock(repetitions)
    times = {name: clock.median_ms(job, serial=True) for name, job in simulation.jobs(scenario).items()}
    for name, job in vehicles.jobs().items():
        times[name] = clock.median_ms(job)
        parts, vehicles.stages = vehicles.stages, defaultdict(list)
        times |= {part: float(np.median(durations[2:])) for part, durations in parts.items()}
    # Before torch is loaded.
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    compared: dict[str, float] = {}
    if (classic := _opened(open_classic, card, threads, device)) is not None:
        times |= scale(classic, vehicles, clock)
        compared = compare(classic, vehicles, clock)
    most = floor.measure(threads)
    sizes = vehicles.sent_kb
    title = f'{card.model_id}, {device}, {threads} thread(s), median of {repetitions}'
    print_times(title, times)
    if compared:
        print_comparison(compared)
    print(', '.join(f'{name[:-3]}: {size:.1f} kB a sweep' for name, size in sizes.items()))
    print(f'most memory: {memory:.0f} MB' + ', without the classic design' * bool(compared))
    print(
        f'this machine at most: {most[floor.ARITHMETIC]:.0f} GFLOP/s in products of float32 matrices, '
        f'{most[floor.COPY]:.1f} GB/s read and written in copies'
    )
    if clock.share < IDLE_SHARE:
        print(f'the machine is busy (this process got {clock.share:.0%} of a core): compare rows of one run')
    further = {'most memory MB': memory, 'share of a core': clock.share}
    results = {**times, **sizes, **further, **most, **compared}
    if out is not None:
        write_json(out, results)
        _plot(out.with_suffix('.png'), title, times)
    return results


def _opened(open_classic: Opener, card: ModelCard, threads: int, device: str) -> Design | None:
    """The classic design; None, with a line that says why, where it is not timed."""
    try:
        if device == 'cpu':
            return open_classic(card.grid, threads)
        reason = f'it runs on cpu only, not on {device}'
    except MissingExtra as missing:
        reason = str(missing)
    print(f'the classic design is not timed: {reason}')
    return None


def _plot(path: Path, title: str, times: Mapping[str, float]) -> None:
    """Draw the plot, or say in a line why not."""
    try:
        require('matplotlib')
    except MissingExtra as missing:
        print(f'{path.name} is not drawn: {missing}')
    else:
        draw(path, title, times)
