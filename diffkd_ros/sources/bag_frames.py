# SPDX-License-Identifier: Apache-2.0
"""Finds the frames of a recording from the stamps of its messages: which clouds and poses belong together."""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field

from diffkd_ros.geometry.lidar_pose import supporting_stamps
from diffkd_ros.messages.names import TRUTH_TOPIC, agent_name
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.sources.bag_contents import Contents
from diffkd_ros.sources.bag_files import Recording, recorded_stamp

# A neighbour's sweep belongs to the ego's if they are less than half a revolution at 10 Hz apart.
SWEEP_TOLERANCE = NANOSECONDS // 20 - 1
# As the nodes' default `pose_tolerance`.
POSE_TOLERANCE = NANOSECONDS // 20
# A recording is cut into scenarios, the unit of parallel work and of resampling, at gaps longer than this
# and at this length.
_GAP = 1 * NANOSECONDS
_LENGTH = 10 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Message:
    """A message's stamp, the number of its channel, and when it was recorded, nanoseconds."""

    stamp: int
    channel: int
    logged: int


@dataclass(slots=True)
class Track:
    """The messages of one kind of one agent by stamp; of several with the same stamp the last one.

    Attributes:
        topic: where they were recorded.
        messages: by stamp.
        stamps: ascending; set once all messages were added.
        repeated: number of messages whose stamp another one had.
    """

    topic: str = ''
    messages: dict[int, Message] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)
    repeated: int = 0

    def add(self, message: Message) -> None:
        """Add a message."""
        earlier = self.messages.get(message.stamp)
        self.repeated += earlier is not None
        if earlier is None or earlier.logged <= message.logged:
            self.messages[message.stamp] = message

    def around(self, stamp: int, tolerance: int) -> list[Message]:
        """The messages from which `pose_at` computes the pose at a stamp, nearest first."""
        return [self.messages[known] for known in supporting_stamps(self.stamps, stamp, tolerance)]

    def until(self, stamp: int, after: int) -> list[Message]:
        """The messages after one stamp and up to another."""
        rows = slice(bisect.bisect_right(self.stamps, after), bisect.bisect_right(self.stamps, stamp))
        return [self.messages[known] for known in self.stamps[rows]]

    def apart(self, other: Track) -> str:
        """A clause with both ranges of stamps if these do not overlap; else empty."""
        if not self.stamps or not other.stamps:
            return ''
        (first, last), (start, end) = ((t.stamps[0], t.stamps[-1]) for t in (self, other))
        if first <= end and start <= last:
            return ''
        a, b, c, d = (stamp / NANOSECONDS for stamp in (first, last, start, end))
        return (
            f'; {self.topic} is stamped {a:.3f} to {b:.3f} s, {other.topic} {c:.3f} to {d:.3f} s: '
            'do their clocks differ?'
        )


@dataclass(frozen=True, slots=True)
class Tracks:
    """The messages of a recording.

    Attributes:
        clouds: by agent, of all agents that can be used.
        poses: of the same agents.
        truth: ground truth.
        unusable: the other agents, and why.
    """

    clouds: dict[int, Track]
    poses: dict[int, Track]
    truth: Track
    unusable: dict[int, str]


def read_tracks(recording: Recording, contents: Contents) -> Tracks:
    """Read the stamps of all messages; those that are not used are added to the remarks of the contents."""
    tracks: dict[tuple[int | None, str], Track] = {(None, 'truth'): Track()}
    of_channel = dict.fromkeys(contents.truth, tracks[None, 'truth'])
    for agent, topics in contents.agents.items():
        for part, channels in (('clouds', topics.points), ('poses', topics.poses)):
            tracks[agent, part] = Track(channels[0].topic if channels else '')
            of_channel |= dict.fromkeys(channels, tracks[agent, part])
    numbers = {channel: number for number, channel in enumerate(recording.channels)}
    short: Counter[str] = Counter()
    for channel, logged, data in recording.messages(of_channel.keys()):
        stamp = recorded_stamp(data)
        if stamp is None:
            short[channel.topic] += 1
        else:
            of_channel[channel].add(Message(stamp, numbers[channel], logged))
    contents.remarks += [
        f'{topic}: {count} messages are too short for a header' for topic, count in short.items()
    ]
    for track in tracks.values():
        track.stamps = sorted(track.messages)
        if track.repeated:
            contents.remarks.append(
                f'{track.topic or TRUTH_TOPIC}: {track.repeated} messages have the stamp of a later one, '
                'which is used instead'
            )
    unusable = {}
    for agent, topics in contents.agents.items():
        both = tracks[agent, 'clouds'], tracks[agent, 'poses']
        silent = ' and '.join(track.topic for track in both if not track.stamps)
        if topics.problem or silent:
            unusable[agent] = topics.problem or f'no message on {silent}'
    usable = [agent for agent in contents.agents if agent not in unusable]
    clouds, poses = ({agent: tracks[agent, part] for agent in usable} for part in ('clouds', 'poses'))
    return Tracks(clouds, poses, tracks[None, 'truth'], unusable)


@dataclass(frozen=True, slots=True)
class Row:
    """The messages of a frame by agent: clouds, the messages their poses are computed from, nearest first,
    and all those since the frame before; and why agents are left out, as in `CoopFrame`.
    """

    stamp: int
    clouds: dict[int, Message]
    poses: dict[int, list[Message]]
    poses_since: dict[int, list[Message]]
    truth: Message | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The frames of a recording.

    Attributes:
        rows: of the frames, in order.
        incomplete: number of instants at which an agent or the ground truth is missing.
        without_pose: number of the ego's clouds without a pose, which are no frames.
        truth_alone: number of ground truths without a cloud of the ego.
    """

    rows: list[Row]
    incomplete: int
    without_pose: int
    truth_alone: int


def assemble(ego: int, tracks: Tracks) -> Assembled:
    """Find the messages of every frame.

    Args:
        ego: agent that fuses, one that can be used.
        tracks: of the recording.
    """
    clouds, poses, truth = tracks.clouds, tracks.poses, tracks.truth
    rows: list[Row] = []
    missing = set()
    without_pose = 0
    last = dict.fromkeys(clouds, -1)
    always = [f'{agent_name(agent)}: {reason}' for agent, reason in sorted(tracks.unusable.items())]
    no_cloud, no_pose = {}, {}
    for agent, track in clouds.items():
        name, own = agent_name(agent), agent_name(ego)
        no_cloud[agent] = f'{name}: no cloud within 0.05 s of that of {own}{track.apart(clouds[ego])}'
        no_pose[agent] = f'{name}: no pose within 0.05 s of its cloud{poses[agent].apart(track)}'
    for stamp in clouds[ego].stamps:
        found: dict[int, Message] = {}
        support: dict[int, list[Message]] = {}
        left_out = list(always)
        for agent, track in clouds.items():
            near = track.around(stamp, 0 if agent == ego else SWEEP_TOLERANCE)
            if not near:
                left_out.append(no_cloud[agent])
                continue
            supporting = poses[agent].around(near[0].stamp, POSE_TOLERANCE)
            if supporting:
                found[agent], support[agent] = near[0], supporting
            else:
                left_out.append(no_pose[agent])
        if ego in found:
            since = {}
            for agent, messages in support.items():
                end = max(message.stamp for message in messages)
                # A message that two frames need belongs to both.
                needed = {*poses[agent].until(end, last[agent]), *messages}
                since[agent] = sorted(needed, key=lambda message: message.stamp)
                last[agent] = end
            rows.append(Row(stamp, found, support, since, truth.messages.get(stamp), tuple(left_out)))
        else:
            without_pose += 1
        if left_out or (truth.stamps and stamp not in truth.messages):
            missing.add(stamp)
    alone = truth.messages.keys() - clouds[ego].messages.keys()
    return Assembled(rows, len(missing | alone), without_pose, len(alone))


def scenario_starts(stamps: list[int]) -> list[int]:
    """Numbers of the frames at which scenarios start, from the ascending stamps of all frames."""
    starts: list[int] = []
    for number, stamp in enumerate(stamps):
        if not starts or stamp - stamps[number - 1] > _GAP or stamp - stamps[starts[-1]] >= _LENGTH:
            starts.append(number)
    return starts
