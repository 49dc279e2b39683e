# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the folder layout of the OPV2V data set, which others share.

A set is a folder of splits (`SPLITS`), a split a folder of scenarios, and a scenario holds a
`data_protocol.yaml` and `<agent id>/<number>.{pcd,yaml}`, where the number counts simulation steps. Values
of OPV2V and V2XSet are in CARLA's left-handed coordinates and degrees, and are converted in this package;
V2V4Real and V2X-Real are right-handed. A cloud's intensity is in a field `intensity` or, as Open3D writes it,
in the red channel of `rgb`. Cameras and planned trajectories are not read.
"""

from diffkd_ros.sources.opv2v.layout import SPLITS
from diffkd_ros.sources.opv2v.reading import Opv2vDataset
from diffkd_ros.sources.opv2v.real import V2v4RealDataset, V2xRealDataset
from diffkd_ros.sources.opv2v.writing import write_opv2v

__all__ = ['SPLITS', 'Opv2vDataset', 'V2v4RealDataset', 'V2xRealDataset', 'write_opv2v']
