# SPDX-License-Identifier: Apache-2.0
"""Writes frames as an OPV2V set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pypcd4 import Encoding, PointCloud

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.carla import box_to_carla, flip_points, pose_to_carla
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v.layout import FRAME_INTERVAL, file_path, first_by_name, write_yaml


def write_opv2v(frames: Iterable[CoopFrame], root: str | Path) -> None:
    """Write frames with ground truth in the layout that `Opv2vDataset` reads, a folder per scenario.

    Intensity is written with 8 bits to the red channel, as in the data set, and in full to a field of its
    own, as are `ring` and `time`. A vehicle's number of returns, if known, is written as `num_points`, a key
    which the data set does not have. Planned trajectories, cameras and the vehicles' speeds are not written.

    Raises:
        DatasetError: if a frame has no ground truth or no track ids, its scenario is not a folder name, its
            ego would not be read as the ego, or the frames of a scenario are not evenly spaced in time.
    """
    root = Path(root)
    first: dict[str, CoopFrame] = {}
    interval: dict[str, float] = {}
    for frame in frames:
        where = f'frame {frame.index} of scenario {frame.scenario!r}'
        if frame.scenario in ('', '..') or Path(frame.scenario).name != frame.scenario:
            raise DatasetError(f'{where}: the scenario must be a plain folder name')
        if frame.ground_truth is None or frame.ground_truth.track_ids is None:
            raise DatasetError(f'{where}: ground truth with track ids is needed, got {frame.ground_truth!r}')
        if (read_as_ego := first_by_name(frame.agents)) != frame.ego:
            raise DatasetError(f'{where}: agent {read_as_ego} would be read as the ego, which is {frame.ego}')
        start = first.setdefault(frame.scenario, frame)
        if frame.index != start.index:
            spacing = (frame.stamp - start.stamp) / (frame.index - start.index) / 1e9
            known = interval.setdefault(frame.scenario, spacing)
            if spacing <= 0 or abs(spacing - known) > 0.01 * known:
                raise DatasetError(f'{where}: stamps {spacing:.6g} s apart, {known:.6g} s before')
        for agent, sweep in frame.agents.items():
            (root / frame.scenario / str(agent)).mkdir(parents=True, exist_ok=True)
            _write_sweep(file_path(root / frame.scenario, agent, frame.index, 'pcd'), sweep)
            document = _document(frame, agent)
            write_yaml(file_path(root / frame.scenario, agent, frame.index, 'yaml'), document)
    for scenario in first:
        step = interval.get(scenario, FRAME_INTERVAL)
        write_yaml(root / scenario / 'data_protocol.yaml', {'world': {'fixed_delta_seconds': step}})


def _document(frame: CoopFrame, agent: int) -> dict[str, object]:
    sweep, truth = frame.agents[agent], frame.ground_truth
    assert truth is not None
    assert truth.track_ids is not None
    pose = pose_to_carla(sweep.pose)
    return {
        'lidar_pose': pose,
        'true_ego_pos': list(pose),
        'predicted_ego_pos': list(pose),
        'ego_speed': 0.0 if sweep.velocity is None else 3.6 * float(np.linalg.norm(sweep.velocity)),
        'vehicles': {
            int(track): dict(box_to_carla(box))
            | ({} if truth.num_points is None else {'num_points': int(truth.num_points[k])})
            for k, (track, box) in enumerate(zip(truth.track_ids, truth.boxes, strict=True))
            if track != agent
        },
    }


def _write_sweep(path: Path, sweep: AgentSweep) -> None:
    points = flip_points(sweep.points)
    red = np.round(255 * np.clip(points[:, 3], 0, 1)).astype(np.uint32)
    # Other readers of the format look for intensity in the red channel only, which holds 8 bits.
    columns = [*points[:, :3].T, (red << 16).view(np.float32), points[:, 3]]
    fields = ['x', 'y', 'z', 'rgb', 'intensity']
    types: list[type[np.generic]] = [np.float32] * 5
    for name, dtype in (('ring', np.uint16), ('time', np.float32)):
        column = getattr(sweep, name)
        if column is not None:
            columns.append(column)
            fields.append(name)
            types.append(dtype)
    PointCloud.from_points(columns, fields, types).save(path, Encoding.BINARY)
