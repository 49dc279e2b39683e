# SPDX-License-Identifier: Apache-2.0
"""Small recordings, message by message."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from diffkd_ros.bags.writer import BagWriter, serialised
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import inverse, pose_from_euler
from diffkd_ros.messages.building import header_message, make_from, pose_message, transform_message
from diffkd_ros.messages.poses import pose_of_odometry
from diffkd_ros.sources.bag_files import message_types

TYPES = message_types()
MAKE = make_from(TYPES.types)
STEP = 100_000_000
Message = namedtuple('Message', 'topic message_type data')


def frames(count, agents=(2, 5, -1), ego=5):
    rng = np.random.default_rng(3)
    for index in range(count):
        sweeps = {
            agent: AgentSweep(
                rng.uniform(0.1, 1, (20, 4)).astype(np.float32),
                pose_from_euler([agent, index, 1.0], yaw=0.3 * agent),
            )
            for agent in agents
        }
        truth = Boxes3D(
            np.array([[agent, index, 0.8, 4.0, 2.0, 1.5, 0.1] for agent in agents]),
            track_ids=np.array(agents),
            num_points=np.arange(len(agents)),
        )
        yield CoopFrame(sweeps, ego, (index + 1) * STEP, truth)


def messages_of(frame):
    """Stamp and message of everything in a frame but TF."""
    messages = map(Message._make, serialised(frame, TYPES))
    return [(frame.stamp, message) for message in messages if message.topic != '/tf']


def write(path, messages):
    with BagWriter(path) as bag:
        for stamp, message in messages:
            bag.write(*message[:2], stamp, message.data)
    return path


def write_sqlite(path, messages):
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as bag:
        connections = {}
        for stamp, (topic, kind, data) in messages:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=TYPES)
            bag.write(connections[topic], stamp, data)
    return path


def changed(message, change):
    """The same message, decoded, changed and serialised again."""
    content = TYPES.deserialize_cdr(bytearray(message.data), message.message_type)
    change(content)
    return message._replace(data=TYPES.serialize_cdr(content, message.message_type))


def made(topic, message_type, /, **fields):
    """A message of any type."""
    content = MAKE(message_type, **fields)
    return Message(topic, message_type, TYPES.serialize_cdr(content, message_type))


def of_a_car(items, name, mounting):
    """An agent's messages as a car records them: odometry of base_link, clouds in velodyne, other topics."""
    topics = {f'/{name}/points': '/velodyne_points', f'/{name}/odometry': '/localization/odom'}

    def convert(message):
        def base(odometry):
            pose = pose_of_odometry(odometry).pose @ inverse(mounting)
            odometry.child_frame_id = 'base_link'
            odometry.pose.pose = pose_message(pose, MAKE)

        def velodyne(cloud):
            cloud.header.frame_id = 'velodyne'

        change = base if message.topic.endswith('odometry') else velodyne
        return changed(message, change)._replace(topic=topics[message.topic])

    return [(stamp, convert(message)) for stamp, message in items if message.topic in topics]


def static_transforms(*transforms):
    """A message on /tf_static, from (parent, child, matrix)."""
    content = [
        transform_message(header_message(0, parent, MAKE), child, matrix, MAKE)
        for parent, child, matrix in transforms
    ]
    return 0, made('/tf_static', 'tf2_msgs/msg/TFMessage', transforms=content)
