# SPDX-License-Identifier: Apache-2.0
"""Verbs for data sets and recordings: data check, bag convert, bag page."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from diffkd_ros.cli.verbs import counting_frames, group, interruptible, say
from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import check_results_file

SOURCES = 'sim, sim:SEED, opv2v:DIR, v2v4real:DIR, v2xreal:DIR, dair:DIR or bag:FILE[,FILE...].'

Split = Annotated[str | None, typer.Option(help='Split of a data set; all of it by default.')]
SplitFile = Annotated[Path | None, typer.Option(help='File that lists the splits of DAIR-V2X-C.')]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Folder of DAIR-V2X-C labels used instead of the set's own; original: without additions."
    ),
]
Pose = Annotated[
    str | None, typer.Option(help='Pose of OPV2V used: lidar_pose, true_ego_pos or predicted_ego_pos.')
]

Topics = Annotated[
    list[str] | None,
    typer.Option(
        '--topic',
        help='Topic of a bag with another name than the standard one: cav_1/points=[BAG:]/topic, also '
        'odometry, pose, ground_truth. Repeatable.',
    ),
]
Mountings = Annotated[
    list[str] | None,
    typer.Option(
        '--base-to-lidar',
        help='[cav_1=]x,y,z,roll,pitch,yaw (m, rad) of the LiDAR in the frame whose pose a bag has; by '
        'default from its /tf_static. Repeatable.',
    ),
]
Intensities = Annotated[
    str | None,
    typer.Option(
        '--intensity-scale',
        help='Range of the intensities in a bag: auto, 0..1, 0..255; ignore sets those of any recorded '
        'source to 0.',
    ),
]

data = group('Data sets on disk.')
bag = group('Recordings (rosbag2), without ROS.')


class Target(str, Enum):
    """A format that `bag convert` writes."""

    bag = 'bag'
    opv2v = 'opv2v'


@data.command('check')
def data_check(
    source: Annotated[str, typer.Argument(help='Folder of a data set, or a source as opv2v:DIR.')],
    workers: Annotated[int, typer.Option(min=0, help='Processes that read; 0: this one.')] = 0,
    topic: Topics = None,
    base_to_lidar: Mountings = None,
    intensity_scale: Intensities = None,
) -> None:
    """Read a whole data set, count what it holds and list all broken files."""
    from diffkd_ros.sources.check import check
    from diffkd_ros.sources.source import Source, recognise

    with counting_frames() as on_frame:
        chosen = Source(
            recognise(source),
            topics=tuple(topic or ()),
            base_to_lidar=tuple(base_to_lidar or ()),
            intensity_scale=intensity_scale,
        )
        report = check(chosen, say, on_frame, workers)
    say(
        f'{report.format}: {report.scenarios} scenarios, {report.frames - report.broken_frames} frames, '
        f'{report.agents} agents, {report.sweeps} sweeps, {report.points} points, {report.boxes} boxes'
    )
    if report.problems:
        raise DiffkdError(f'{len(report.problems)} problems; {report.broken_frames} frames cannot be used')


@bag.command('convert')
def bag_convert(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Argument(help='Folder to write; must not exist yet.')],
    to: Annotated[
        Target, typer.Option(help='Write a rosbag2 or a folder in the layout of OPV2V.')
    ] = Target.bag,
    scenarios: Annotated[
        int | None, typer.Option(min=1, help='The first so many; by default 3 of sim, all of a recording.')
    ] = None,
    frames_per_scenario: Annotated[int | None, typer.Option(min=1, help='The first so many.')] = None,
    vehicles: Annotated[
        int | None, typer.Option(min=1, max=5, help='Connected vehicles of sim, including the ego; 3.')
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, max=300, help='Frames that a scenario of sim lasts, 10 per s; 100.')
    ] = None,
    split: Split = None,
    split_file: SplitFile = None,
    labels: Labels = None,
    pose: Pose = None,
    topic: Topics = None,
    base_to_lidar: Mountings = None,
    intensity_scale: Intensities = None,
) -> None:
    """Write the frames of a source as a rosbag2 or in the layout of OPV2V."""
    from diffkd_ros.bags.convert import convert
    from diffkd_ros.sources.dataset import account
    from diffkd_ros.sources.source import SIMULATOR, Source

    simulated = source.partition(':')[0] == SIMULATOR
    given = {'agents': vehicles, 'frames_per_scenario': length}
    simulator = {name: value for name, value in given.items() if value is not None}
    if simulator and not simulated:
        raise DiffkdError(f'--vehicles and --length are options of sim, but the source is {source}')
    scenarios = scenarios or (3 if simulated else None)
    chosen = Source(
        *(source, scenarios, None, split, split_file, labels, pose),
        topics=tuple(topic or ()),
        base_to_lidar=tuple(base_to_lidar or ()),
        intensity_scale=intensity_scale,
        simulator=simulator,
    )
    total = chosen.length(frames_per_scenario)
    for line in chosen.remarks():
        say(line)
    with interruptible(f'{out} was not written'), counting_frames() as on_frame:
        frames = chosen.frames(frames_per_scenario)
        written = convert(frames, out, to.value, lambda done: on_frame(done, total))
    say(
        f'{out}: {written.frames} of {total} frames, {len(written.scenarios)} scenarios, '
        f'{len(written.agents)} agents'
    )
    for line in account(written.left_out):
        say(line)


@bag.command('page')
def bag_page(
    recording: Annotated[list[Path], typer.Argument(help='Bag, or several that are read as one.')],
    out: Annotated[Path, typer.Option(help='HTML file to write.')] = Path('page.html'),
    frames: Annotated[int, typer.Option(min=1, max=5000, help='At most so many, evenly spaced.')] = 600,
    topic: Topics = None,
    base_to_lidar: Mountings = None,
) -> None:
    """Draw a recording as one HTML page: the scene from above, gate weights and latency over time."""
    from diffkd_ros.bags.page import write_page

    check_results_file(out)
    with counting_frames() as on_frame:
        shown, answered = write_page(recording, out, frames, topic or (), base_to_lidar or (), on_frame)
    say(f'{out}: {shown} frames, {answered} with detections, {out.stat().st_size / 1e6:.1f} MB')
