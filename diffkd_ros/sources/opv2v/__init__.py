# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the folder layout of the OPV2V data set.

A set is a folder of splits (`SPLITS`), a split a folder of scenarios, and a scenario holds a
`data_protocol.yaml` and `<agent id>/<6-digit number>.{pcd,yaml}`, where the number counts simulation steps.
All values are in CARLA's left-handed coordinates and degrees, and are converted in this package. A cloud's
intensity is in a field `intensity` or, as Open3D writes it, in the red channel of `rgb`. Cameras and planned
trajectories are not read.
"""

from diffkd_ros.sources.opv2v.layout import SPLITS
from diffkd_ros.sources.opv2v.reading import Opv2vDataset
from diffkd_ros.sources.opv2v.writing import write_opv2v

__all__ = ['SPLITS', 'Opv2vDataset', 'write_opv2v']
