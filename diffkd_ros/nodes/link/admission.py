# SPDX-License-Identifier: Apache-2.0
"""Limits what anybody may send on the V2X link, before a message is read, stored or decoded.

Any participant can publish on the link: any number of messages, of any size and under any name. A message is
refused unread if it is larger than the largest that the model's codec makes, or if there are too many. The
names in those that are read must be short. What is wrong with a sweep of a neighbour is found later, when a
sweep of the ego picks it, so that nothing is checked that is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rclpy.serialization import deserialize_message

from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.link.allowance import Allowance
from diffkd_ros.nodes.link.refusal import Objection, Refusal
from diffkd_ros.nodes.link.sweep_clock import SweepClock
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.codec import largest_payload
from diffkd_ros.runtime.link.chunk import LARGEST

if TYPE_CHECKING:  # of an extra
    from diffkd_ros.nodes.link.signing import SignatureCheck

Message = TypeVar('Message', BevFeature, BevChunk)

LONGEST_NAME = 255
"""Characters of an agent, model or frame."""
# Bytes of a serialised message without names, scales and data, and of a signature. Maps have two covariances.
_ENVELOPE = 1000
# A character takes up to four bytes.
_NAMES = 4 * 4 * LONGEST_NAME
# Of the messages in a second, the share of one participant.
_SHARE = 0.5
_MOST_PUBLISHERS = 256
# A larger message counts as several: the bytes of one, and how many the model's largest map is at most.
_BYTES, _LARGEST = 10_000, 30
# Messages that a wrong signature counts as, by the time that its check takes.
_VERIFICATION = 10.0
# Sends a GUID: the participant in 12 bytes, and the entity of it in 4. Cyclone DDS sends a number instead.
_RTPS = 'fastrtps'


def publisher_of(info: Mapping[str, Any]) -> bytes:
    """The participant that published a message; empty if unknown, as with rclpy before Kilted.

    Args:
        info: `MessageInfo` of rclpy.

    Returns:
        An identifier that is the same for all publishers of a participant; with another middleware than
        Fast DDS, of one publisher only.
    """
    gid = info.get('publisher_gid')
    if not gid:
        return b''
    return bytes(gid['data'][: 12 if _RTPS in gid['implementation_identifier'] else None])


class Admission:
    """Reads messages that are neither too large nor too many.

    A participant may use half of the messages, so that one that floods the link leaves the other half.

    Args:
        card: of the ego's model.
        rate: messages taken in a second from all senders.
        sweeps: the ego's own.
        signatures: refuses messages that are not signed; None: signatures are ignored.
    """

    def __init__(
        self, card: ModelCard, rate: float, sweeps: SweepClock, signatures: SignatureCheck | None = None
    ) -> None:
        self._sweeps, self._signatures = sweeps, signatures
        payload = largest_payload(card.channels, card.grid.height, card.grid.width)
        fixed = _ENVELOPE + _NAMES
        self._largest = {BevFeature: fixed + 4 * card.channels + payload, BevChunk: fixed + LARGEST}
        self._bytes = max(_BYTES, payload / _LARGEST)
        self._rate = rate
        self._all = Allowance(rate, rate)
        self._shares: OrderedDict[bytes, Allowance] = OrderedDict()

    def admit(self, kind: type[Message], data: bytes, publisher: bytes) -> Message | Objection:
        """Read a message, unless it is refused.

        Args:
            kind: its class.
            data: the serialised message.
            publisher: from `publisher_of`.
        """
        share, now = self._share_of(publisher), self._sweeps.seconds()
        # One that is too large counts as the largest, so that it leaves no longer debt than others.
        cost = max(1.0, min(len(data), self._largest[BevFeature]) / self._bytes)
        if not (share.take(now, cost) and self._all.take(now, cost)):
            return Objection(Refusal.FLOOD, f'at most {self._rate:g} messages per second are read')
        if len(data) > self._largest[kind]:
            return Objection(Refusal.SIZE, f'{len(data)} bytes, at most {self._largest[kind]}')
        content = data if self._signatures is None else self._signatures.content(data)
        if isinstance(content, Objection):
            return content
        try:
            message = deserialize_message(content, kind)
        # rclpy raises different errors for bytes that are no message.
        except Exception as error:
            return Objection(Refusal.PAYLOAD, f'{type(error).__name__}: {error}')
        wrong = _wrong_name(message)
        if wrong is None and self._signatures is not None:
            wrong = self._signatures.objection(message, data, self._sweeps.now())
            # Where participants are not known, others would pay for it.
            if publisher and wrong is not None and wrong.refusal is Refusal.SIGNATURE:
                share.charge(_VERIFICATION)
        return wrong or message

    def _share_of(self, publisher: bytes) -> Allowance:
        # A participant that is not known is not limited apart from the others.
        rate = _SHARE * self._rate if publisher else self._rate
        share = self._shares.pop(publisher, None) or Allowance(rate, rate)
        self._shares[publisher] = share
        if len(self._shares) > _MOST_PUBLISHERS:
            self._shares.popitem(last=False)
        return share


def _wrong_name(message: BevFeature | BevChunk) -> Objection | None:
    names = message.agent_id, message.model_id, message.map_frame, message.header.frame_id
    longest = max(map(len, names))
    if longest > LONGEST_NAME:
        return Objection(Refusal.NAME, f'{longest} characters, at most {LONGEST_NAME}')
    if not message.agent_id or not ''.join(names).isprintable():
        return Objection(Refusal.NAME, 'empty, or with characters that cannot be printed')
    return None
