# SPDX-License-Identifier: Apache-2.0
"""The formats of recorded data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A format of recorded data.

    Attributes:
        title: its usual name.
        reader: its `FrameDataset` as ``module:class``, imported on use since it may need an extra.
        protocol: evaluation protocol of published results on it.
        options: keyword arguments of the reader that `Source` passes on.
        marks: glob patterns, one of which matches inside a folder of this format.
        several: whether several paths, separated by commas, are read as one.
    """

    title: str
    reader: str
    protocol: str
    options: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    several: bool = False


# A new format is one line here and one file with its reader. A folder is recognised in this order.
FORMATS: dict[str, Format] = {
    'v2v4real': Format(
        'V2V4Real',
        'diffkd_ros.sources.opv2v:V2v4RealDataset',
        'v2v4real',
        ('split', 'communication_range'),
        ('testoutput_CAV_data_*', '*/testoutput_CAV_data_*'),
    ),
    'v2xreal': Format(
        'V2X-Real',
        'diffkd_ros.sources.opv2v:V2xRealDataset',
        'v2v4real',
        ('split', 'communication_range'),
        ('*/*/[0-9]*.bin', '*/*/*/[0-9]*.bin'),
    ),
    'opv2v': Format(
        'OPV2V',
        'diffkd_ros.sources.opv2v:Opv2vDataset',
        'opencood',
        ('split', 'pose', 'communication_range'),
        ('*/*/[0-9]*.yaml', '*/*/*/[0-9]*.yaml'),
    ),
    'dair': Format(
        'DAIR-V2X-C',
        'diffkd_ros.sources.dair_v2x:DairV2xDataset',
        'heal_dair',
        ('split', 'split_file', 'labels'),
        ('cooperative', 'cooperative-vehicle-infrastructure'),
    ),
    'bag': Format(
        'rosbag2',
        'diffkd_ros.sources.rosbag:RosbagDataset',
        'sim',
        ('topics', 'base_to_lidar', 'intensity_scale'),
        ('metadata.yaml', '*.mcap', '*.db3'),
        several=True,
    ),
}
