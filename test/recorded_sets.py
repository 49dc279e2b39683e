# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the layouts of OPV2V and DAIR-V2X, with numbers computed by hand."""

import json

import numpy as np
from pypcd4 import Encoding, PointCloud

TURN_LEFT = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
STRAIGHT = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
# 4 x 2 x 1.5 m around (105, 210, 0.75), heading +y: front left, front right, rear right, rear left.
CAR = [[104, 212], [106, 212], [106, 208], [104, 208]]
NAN = float('nan')


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_dair_cloud(path, rows, encoding=Encoding.BINARY_COMPRESSED):
    """With the fields of the data set: intensity as a byte and a timestamp of 8 bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.array(rows, np.float64).reshape(-1, 4)
    types = (np.float32, np.float32, np.float32, np.uint8, np.float64)
    arrays = [columns[:, k].astype(dtype) for k, dtype in enumerate(types[:4])]
    arrays.append(np.full(len(columns), 1626155123.75))
    PointCloud.from_points(arrays, ('x', 'y', 'z', 'intensity', 'timestamp'), types).save(path, encoding)


def dair_label(corners=CAR, kind='Car', z=(0.0, 1.5)):
    points = [[float(x), float(y), level] for level in z for x, y in corners]
    # The documentation says that the other values of cooperative labels are unusable; these are wrong on
    # purpose.
    return {'type': kind, 'world_8_points': points, 'rotation': 9.9, '3d_location': {'x': 0, 'y': 0, 'z': 0}}


def write_dair(
    root, frames=(('000010', '000500', '7'), ('000009', '000501', '7'), ('000020', '000502', '12'))
):
    vehicle_info, infrastructure_info, pairs = [], [], []
    for k, (vehicle, infrastructure, batch) in enumerate(frames):
        side = root / 'vehicle-side'
        write_json(
            side / f'calib/lidar_to_novatel/{vehicle}.json',
            {'transform': {'rotation': STRAIGHT, 'translation': [[1.0], [0.5], [1.5]]}, 'header': {}},
        )
        write_json(
            side / f'calib/novatel_to_world/{vehicle}.json',
            {'rotation': TURN_LEFT, 'translation': [[100.0], [200.0], [0.5]]},
        )
        write_dair_cloud(
            side / f'velodyne/{vehicle}.pcd', [(9, -5.5, -1, 51), (NAN, 0, 0, 9), (30, 0, 0, 255)]
        )
        vehicle_info.append(
            {
                'pointcloud_path': f'velodyne/{vehicle}.pcd',
                'pointcloud_timestamp': str(1626155123000000 + 100000 * k),
                'calib_lidar_to_novatel_path': f'calib/lidar_to_novatel/{vehicle}.json',
                'calib_novatel_to_world_path': f'calib/novatel_to_world/{vehicle}.json',
                'batch_id': batch,
            }
        )
        side = root / 'infrastructure-side'
        write_json(
            side / f'calib/virtuallidar_to_world/{infrastructure}.json',
            {'rotation': STRAIGHT, 'translation': [[110.0], [210.0], [6.0]], 'relative_error': {}},
        )
        write_dair_cloud(side / f'velodyne/{infrastructure}.pcd', [(-7, 3, -5, 102), (0, 0, NAN, 1)])
        infrastructure_info.append({'pointcloud_path': f'velodyne/{infrastructure}.pcd'})
        pairs.append(
            {
                'vehicle_pointcloud_path': f'vehicle-side/velodyne/{vehicle}.pcd',
                'infrastructure_pointcloud_path': f'infrastructure-side/velodyne/{infrastructure}.pcd',
                'cooperative_label_path': f'cooperative/label_world/{vehicle}.json',
                'system_error_offset': {'delta_x': 2.0, 'delta_y': -3.0},
            }
        )
        write_json(
            root / f'cooperative/label_world/{vehicle}.json', [dair_label(), dair_label(kind='Pedestrian')]
        )
    write_json(root / 'vehicle-side/data_info.json', vehicle_info)
    write_json(root / 'infrastructure-side/data_info.json', infrastructure_info)
    write_json(root / 'cooperative/data_info.json', pairs)
    return root


def write_opv2v_cloud(path, points):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.tile(np.array([[20.0, 0.0, 0.0, 0.5]], np.float32), (points, 1))
    PointCloud.from_points(rows, ('x', 'y', 'z', 'intensity'), (np.float32,) * 4).save(path)


def write_opv2v_frame(drive, agent, number, x=0, vehicles=(90,), points=3):
    write_opv2v_cloud(drive / str(agent) / f'{number:06d}.pcd', points)
    entries = ''.join(
        f'  {track}: {{angle: [0, 0, 0], center: [0, 0, 1], extent: [2, 1, 1], location: [{track}, 0, 0]}}\n'
        for track in vehicles
    )
    text = f'lidar_pose: [{x}, 0, 2, 0, 0, 0]\nvehicles:\n{entries}'
    (drive / str(agent) / f'{number:06d}.yaml').write_text(text)
