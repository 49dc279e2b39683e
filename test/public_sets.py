# SPDX-License-Identifier: Apache-2.0
"""Frames written as miniature public data sets, with the keys, types and signs that published loaders read.

OpenCOOD 31ba160 (OPV2V, V2XSet), V2V4Real 932c748, V2X-Real 923c4b2 and DAIR-V2X c885c54. Nothing here uses
the package's own conversions of coordinates.
"""

import json

import numpy as np
import yaml
from pypcd4 import Encoding, PointCloud

NUMBERS = (69, 71)  # of the files of the first two frames


def angles_of(rotation):
    """Roll, pitch, yaw in degrees of Rz(yaw) Ry(pitch) Rx(roll)."""
    roll = np.arctan2(rotation[2, 1], rotation[2, 2])
    pitch = -np.arcsin(rotation[2, 0])
    return np.degrees([roll, pitch, np.arctan2(rotation[1, 0], rotation[0, 0])])


def published_matrix(x, y, z, roll, yaw, pitch):
    """The matrix that the loaders make of six values in degrees."""
    (cy, cr, cp), (sy, sr, sp) = (f(np.radians([yaw, roll, pitch])) for f in (np.cos, np.sin))
    return np.array([
        [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr, x],
        [sy * cp, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr, y],
        [sp, -cp * sr, cp * cr, z],
        [0, 0, 0, 1],
    ])  # fmt: skip


def write_coloured(path, points, encoding=Encoding.BINARY):
    """A cloud as Open3D writes it: the intensity in the red channel of a packed colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    red = np.round(255 * points[:, 3]).astype(np.uint32)
    columns = [*points[:, :3].T.astype(np.float32), (red << 16).view(np.float32)]
    PointCloud.from_points(columns, ('x', 'y', 'z', 'rgb'), (np.float32,) * 4).save(path, encoding)


def entry(centre, yaw, size, **more):
    """An object whose origin is on the ground below its centre; degrees."""
    x, y, z = map(float, centre)
    height = float(size[2])
    return {
        'angle': [0.0, float(yaw), 0.0],
        'center': [0.0, 0.0, height / 2],
        'extent': [float(v) / 2 for v in size],
        'location': [x, y, z - height / 2],
        **more,
    }


def dump(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(document))


def write_opv2v_like(root, frames, digits=6, more=lambda agent: {}):
    """Left-handed: y and yaw change sign. `more` gives further objects and keys of an agent."""
    mirror = np.diag([1.0, -1.0, 1.0])
    for frame, number in zip(frames, NUMBERS, strict=False):
        truth = frame.ground_truth
        for agent, sweep in frame.agents.items():
            roll, pitch, yaw = angles_of(sweep.pose[:3, :3])
            position = mirror @ sweep.pose[:3, 3]
            pose = [*map(float, position), float(roll), float(-yaw), float(-pitch)]
            vehicles = {
                int(track): entry(mirror @ box[:3], -np.degrees(box[6]), box[3:6], speed=0.0)
                for track, box in zip(truth.track_ids, truth.boxes, strict=True)
                if track != agent
            }
            # One list under three keys: PyYAML writes it as an anchor and two aliases.
            document = {
                'camera0': {'cords': pose, 'intrinsic': [[335.6, 0.0, 400.0]]}, 'ego_speed': 18.0,
                'lidar_pose': pose, 'plan_trajectory': [[140.0, -388.0, 87.0]],
                'predicted_ego_pos': pose, 'true_ego_pos': pose, 'vehicles': vehicles,
            }  # fmt: skip
            further = more(agent)
            document['vehicles'].update(further.pop('vehicles', {}))
            stem = root / '2021_08_23_19_27_57' / str(agent) / f'{number:0{digits}d}'
            dump(stem.with_suffix('.yaml'), {**document, **further})
            points = sweep.points.copy()
            points[:, 1] *= -1
            write_coloured(stem.with_suffix('.pcd'), points)
    protocol = (
        'world:\n  fixed_delta_seconds: 0.05\n  weather: !!python/object:carla.libcarla.Weather {sun: 3}\n'
    )
    (root / '2021_08_23_19_27_57' / 'data_protocol.yaml').write_text(protocol)


def write_v2v4real_like(root, frames):
    """Right-handed; a pose is a NumPy matrix, and objects are in the frame of the LiDAR that sees them."""
    for frame, number in zip(frames, NUMBERS, strict=False):
        truth = frame.ground_truth
        for agent, sweep in frame.agents.items():
            turn, shift = sweep.pose[:3, :3], sweep.pose[:3, 3]
            yaw = angles_of(turn)[2]
            vehicles = {
                # Each agent numbers its objects for itself; `ass_id` is common.
                500 * (agent + 1) + k: entry(
                    turn.T @ (box[:3] - shift), np.degrees(box[6]) - yaw, box[3:6],
                    ass_id=int(track), obj_type='Car',
                )
                for k, (track, box) in enumerate(zip(truth.track_ids, truth.boxes, strict=True))
            }  # fmt: skip
            vehicles[7] = entry((20, 5, -1), 0, (0.8, 0.8, 1.8), ass_id=-1, obj_type='Pedestrian')
            document = {
                'gps': {'lat': np.float64(37.9), 'lon': np.float64(-122.3)},
                'lidar_pose': sweep.pose, 'true_ego_pose': sweep.pose, 'vehicles': vehicles,
            }  # fmt: skip
            folder = root / 'testoutput_CAV_data_2022-03-15-09-54-40_1' / str(agent)
            dump(folder / f'{number:06d}.yaml', document)
            write_coloured(folder / f'{number:06d}.pcd', sweep.points)


def write_v2xreal_like(root, frames):
    """Right-handed; six values that the published matrix turns into a pose; a `.bin` of four float32."""
    for frame, number in zip(frames, NUMBERS, strict=False):
        truth = frame.ground_truth
        for agent, sweep in frame.agents.items():
            roll, pitch, yaw = angles_of(sweep.pose[:3, :3])
            pose = [*map(float, sweep.pose[:3, 3]), float(-roll), float(yaw), float(-pitch)]
            np.testing.assert_allclose(published_matrix(*pose), sweep.pose, atol=1e-6)
            vehicles = {
                int(track): entry(
                    box[:3], np.degrees(box[6]), box[3:6], obj_type=('Car', 'Truck', 'Van')[k % 3]
                )
                for k, (track, box) in enumerate(zip(truth.track_ids, truth.boxes, strict=True))
            }
            others = ('Pedestrian', 'TrashCan', 'FireHydrant', 'ConstructionCart', 'ScooterRider')
            for k, kind in enumerate(others):
                vehicles[9000 + k] = entry((20 + k, 5, -1), 0, (0.8, 0.8, 1.8), obj_type=kind)
            folder = root / '2023-03-17-15-53-02_1_0' / str(agent)
            dump(folder / f'{number:06d}.yaml', {'lidar_pose': pose, 'vehicles': vehicles})
            rows = np.vstack([sweep.points, np.full((1, 4), np.nan)]).astype('<f4')
            rows[:, 3] *= 255  # not used by the published loader
            rows.tofile(folder / f'{number:06d}.bin')


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_dair_like(root, frames):
    """Agent 1 is the vehicle; the intensities of agent -1, the road-side unit, are float32 in [0, 1]."""
    indices = {'vehicle': [], 'infrastructure': [], 'cooperative': []}
    for k, frame in enumerate(frames):
        names = {'vehicle': f'{15344 + k:06d}', 'infrastructure': f'{8000 + k:06d}'}
        clouds = {f'{side}_pointcloud_path': f'{side}-side/velodyne/{names[side]}.pcd' for side in names}
        for side, agent in (('vehicle', 1), ('infrastructure', -1)):
            sweep, name = frame.agents[agent], names[side]
            path = root / f'{side}-side/velodyne/{name}.pcd'
            path.parent.mkdir(parents=True, exist_ok=True)
            byte = side == 'vehicle'
            scaled = np.round(255 * sweep.points[:, 3]).astype(np.uint8) if byte else sweep.points[:, 3]
            PointCloud.from_points(
                [*sweep.points[:, :3].T, scaled],
                ('x', 'y', 'z', 'intensity'),
                (np.float32, np.float32, np.float32, np.uint8 if byte else np.float32),
            ).save(path, Encoding.BINARY_COMPRESSED)
            indices[side].append(
                {
                    'image_path': f'image/{name}.jpg',
                    'pointcloud_path': f'velodyne/{name}.pcd',
                    'pointcloud_timestamp': str(1626155123000000 + 100000 * k),
                    'batch_id': '24',
                }
            )
        turn, shift = frame.agents[1].pose[:3, :3], frame.agents[1].pose[:3, 3]
        calib = root / 'vehicle-side/calib'
        still = {'rotation': np.eye(3).tolist(), 'translation': [[0.0], [0.0], [0.0]]}
        write_json(calib / f'lidar_to_novatel/{names["vehicle"]}.json', {'transform': still})
        moved = {'rotation': turn.tolist(), 'translation': shift[:, None].tolist()}
        write_json(calib / f'novatel_to_world/{names["vehicle"]}.json', moved)
        pose = frame.agents[-1].pose
        write_json(
            root / f'infrastructure-side/calib/virtuallidar_to_world/{names["infrastructure"]}.json',
            {'rotation': pose[:3, :3].tolist(), 'translation': (pose[:3, 3:] - [[1.5], [0], [0]]).tolist()},
        )
        indices['cooperative'].append(
            {
                'vehicle_image_path': f'vehicle-side/image/{names["vehicle"]}.jpg',
                **clouds,
                'cooperative_label_path': f'cooperative/label_world/{names["vehicle"]}.json',
                'system_error_offset': {'delta_x': 1.5, 'delta_y': 0},
            }
        )
        labels = [label(box) for box in frame.ground_truth.boxes] + [
            label([5, 5, 1, 1, 1, 1, 0], 'Pedestrian')
        ]
        write_json(root / f'cooperative/label_world/{names["vehicle"]}.json', labels)
    for side, entries in indices.items():
        write_json(root / (side if side == 'cooperative' else f'{side}-side') / 'data_info.json', entries)


def label(box, kind='Car'):
    """An object of `label_world`: the lower face from the front left on, then the upper one."""
    x, y, z, length, width, height, yaw = map(float, box)
    cos, sin = np.cos(yaw), np.sin(yaw)
    sides = [(c, a, b) for c in (-1, 1) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    corners = [
        [
            x + (cos * a * length - sin * b * width) / 2,
            y + (sin * a * length + cos * b * width) / 2,
            z + c * height / 2,
        ]
        for c, a, b in sides
    ]
    return {
        'type': kind, 'occluded_state': 0, 'truncated_state': 0, 'alpha': 0, '2d_box': {},
        '3d_dimensions': {'l': length, 'w': width, 'h': height},
        '3d_location': {'x': x, 'y': y, 'z': z}, 'rotation': yaw,
        'world_8_points': np.asarray(corners).tolist(),
    }  # fmt: skip
