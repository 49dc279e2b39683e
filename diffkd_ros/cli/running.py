# SPDX-License-Identifier: Apache-2.0
"""Verbs that run a model on this machine: demo, demo-carla, bench, bench-opencda; and compile."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from diffkd_ros.cli.verbs import interruptible, say
from diffkd_ros.errors import require

if TYPE_CHECKING:
    from diffkd_ros.benchmark.comparison import Design
    from diffkd_ros.geometry.grid import BevGrid

Model = Annotated[str, typer.Option(help='Model folder, or the name of a shipped model.')]
Vehicles = Annotated[int, typer.Option(min=2, max=5, help='Connected vehicles, including the ego.')]
Seed = Annotated[int, typer.Option(min=0, help='Seed of the simulated traffic.')]

_ENDED = 'all processes have ended'


def demo(
    out: Annotated[
        Path, typer.Option(help='Folder for the results; the bag, logs and pictures in it are replaced.')
    ] = Path('demo'),
    model: Model = 'sim_edge',
    frames: Annotated[int, typer.Option(min=1, help='Frames played in lock-step.')] = 100,
    vehicles: Vehicles = 3,
    seed: Seed = 2_000_000,
    realtime_seconds: Annotated[
        float, typer.Option(min=0, help='Seconds played in real time; 0 leaves this part out.')
    ] = 20.0,
    rate: Annotated[float, typer.Option(min=1, max=10, help='Frames per second in real time.')] = 5.0,
) -> None:
    """Run connected vehicles, each a process, over ROS 2; prints a table, writes pictures and a rosbag2."""
    require('rclpy', 'rosbags', 'matplotlib', 'PIL')
    from diffkd_ros.demo import DemoOptions, run_demo

    with interruptible(_ENDED):
        run_demo(DemoOptions(out, model, frames, vehicles, seed, realtime_seconds, rate), Console())


def demo_carla(
    out: Annotated[Path, typer.Option(help='Folder for the results; the logs in it are replaced.')] = Path(
        'demo-carla'
    ),
    model: Model = 'sim_edge',
    frames: Annotated[int, typer.Option(min=1, help='Steps of the simulated world.')] = 60,
    vehicles: Vehicles = 3,
    seed: Seed = 2_000_000,
) -> None:
    """Run the co-simulation with CARLA against a stand-in for its server; prints a table, writes logs."""
    require('rclpy', 'carla', 'msgpack')
    from diffkd_ros.demo.carla import run_carla_demo

    with interruptible(_ENDED):
        run_carla_demo(out, model, frames, vehicles, seed, Console())


def bench(
    model: Model = 'sim_edge',
    threads: Annotated[int, typer.Option(min=1, help='CPU threads used by inference.')] = 1,
    device: Annotated[str, typer.Option(help='cpu, cuda or tensorrt.')] = 'cpu',
    repetitions: Annotated[int, typer.Option(min=1, help='Runs whose median is reported.')] = 30,
    out: Annotated[
        Path | None, typer.Option(help='Also write the times to this JSON file, and a plot beside it.')
    ] = None,
) -> None:
    """Time each stage of the model on this machine, beside PointPillars with attention fusion in torch."""
    from diffkd_ros.benchmark.run import run
    from diffkd_ros.runtime.model_folder import model_folder

    run(model_folder(model), threads, device, repetitions, out, _classic_design)


def _classic_design(grid: BevGrid, threads: int) -> Design:
    """What the model's times are compared with."""
    require('torch')
    from diffkd_ros.benchmark.classic import ClassicDesign

    return ClassicDesign(grid, threads)


def bench_opencda(
    checkout: Annotated[Path, typer.Argument(help='Folder of OpenCDA.', exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help='Folder for times.json; the logs in it are replaced.')] = Path(
        'bench-opencda'
    ),
    vehicles: Annotated[
        list[int], typer.Option(min=2, max=5, help='Connected vehicles; repeat it for further runs.')
    ] = [2, 3, 5],  # noqa: B006
    model: Model = 'sim_edge',
    device: Annotated[str, typer.Option(help='cpu, cuda or tensorrt.')] = 'cpu',
    steps: Annotated[int, typer.Option(min=1, help='Timed steps with, and without, the adapter.')] = 100,
    warm_up: Annotated[int, typer.Option(min=1, help='Steps of each kind before them.')] = 20,
    python: Annotated[Path, typer.Option(help="OpenCDA's interpreter.")] = Path(sys.executable),
    server: Annotated[str, typer.Option(help='host:port of a CARLA server; empty: its stand-in.')] = '',
) -> None:
    """Time the loop of an OpenCDA checkout with and without cooperative detections; prints a table."""
    require('rclpy')
    from diffkd_ros.demo.opencda import OpencdaBench

    bench = OpencdaBench(checkout, python, model, device, steps, warm_up, server)
    with interruptible(_ENDED):
        bench.run(vehicles, out, Console())


def compile_kernels() -> None:
    """Compile the numeric functions now instead of at their first use; needed once on a machine."""
    from diffkd_ros import kernels
    from diffkd_ros.precompile import compile_all

    started = time.monotonic()
    with Console().status('reading compiled functions') as status:
        kernels.on_compile(status.update)
        compile_all()
    say(f'ready after {time.monotonic() - started:.0f} s')
