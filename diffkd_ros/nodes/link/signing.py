# SPDX-License-Identifier: Apache-2.0
"""Signatures of the messages on the V2X link, with Ed25519 (RFC 8032).

A signed message is a serialised one, zeros up to a multiple of four bytes, the signature (64 bytes) and
`_MARK`. What is signed is all before the signature, and the class of the message. Receivers that do not check
signatures ignore what follows the message, and bags keep it.

Keys are those of OpenSSH: `ssh-keygen -t ed25519 -N '' -f cav_2` makes a pair. The receivers' list has a line
for each agent: its name and the contents of `cav_2.pub`.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from diffkd_ros.errors import DiffkdError
from diffkd_ros.messages.reading import NANOSECONDS, stamp_of
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.link.refusal import Objection, Refusal

_MARK = b'dkS1'
_SIGNATURE = 64
_TRAILER = _SIGNATURE + len(_MARK)
LARGEST_TRAILER = 3 + _TRAILER
"""Most bytes that signing adds to a message."""
# Messages of an agent in the window, each some 150 bytes of memory.
_MOST_SEEN = 10_000
# Nanoseconds of stamps within which messages may arrive in another order.
_WINDOW = 2 * NANOSECONDS

_UNREADABLE = OSError, UnicodeDecodeError, ValueError, UnsupportedAlgorithm


class Signer:
    """Signs an agent's messages.

    Args:
        path: private key of OpenSSH, without a passphrase.

    Raises:
        DiffkdError: if it cannot be read, or is of another kind.
    """

    def __init__(self, path: Path) -> None:
        try:
            key = load_ssh_private_key(path.read_bytes(), None)
        except (*_UNREADABLE, TypeError) as error:
            raise DiffkdError(f'no private key of OpenSSH without a passphrase in {path}: {error}') from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DiffkdError(f'{path} is no key for Ed25519')
        self._key = key

    def sign(self, kind: type[BevFeature] | type[BevChunk], data: bytes) -> bytes:
        """A serialised message with its signature.

        Args:
            kind: class of the message.
            data: the serialised message.
        """
        data += bytes(-len(data) % 4)
        return data + self._key.sign(_domain(kind) + data) + _MARK


class SignatureCheck:
    """Checks signatures, and refuses messages that were received before.

    Args:
        path: the list of agents and their public keys.

    Raises:
        DiffkdError: if the list cannot be read, or a line is invalid.
    """

    def __init__(self, path: Path) -> None:
        self._keys = _read_keys(path)
        # Of each agent: the newest stamp, and the messages received in the window before it.
        self._newest: dict[str, int] = {}
        self._seen: dict[str, set[tuple[int, int, int]]] = {}

    def content(self, data: bytes) -> bytes | Objection:
        """The serialised message, with zeros that may follow it."""
        if len(data) < _TRAILER or not data.endswith(_MARK):
            return Objection(Refusal.UNSIGNED, 'only signed messages are taken')
        return data[:-_TRAILER]

    def objection(
        self, message: BevFeature | BevChunk, data: bytes, sweep_time: int | None
    ) -> Objection | None:
        """Why a message is refused: of an unknown agent, wrongly signed, or received before.

        Args:
            message: the message.
            data: as received, with its signature.
            sweep_time: stamp that a sweep of the receiver would have now; None if it had none yet.
        """
        agent = message.agent_id
        key = self._keys.get(agent)
        if key is None:
            return Objection(Refusal.UNSIGNED, f'no key of {agent}')
        signature = data[-_TRAILER : -len(_MARK)]
        try:
            key.verify(signature, _domain(type(message)) + data[:-_TRAILER])
        except InvalidSignature:
            return Objection(Refusal.SIGNATURE, f'not by the key of {agent}')
        # One of the future is not used before its time. To remember it would refuse all until then.
        stamp = stamp_of(message.header)
        ahead = sweep_time is None or stamp > sweep_time + _WINDOW
        return None if ahead else self._replay(message, stamp)

    def _replay(self, message: BevFeature | BevChunk, stamp: int) -> Objection | None:
        agent, chunk = message.agent_id, message.chunk if isinstance(message, BevChunk) else -1
        newest = max(stamp, self._newest.get(agent, stamp))
        seen = self._seen.setdefault(agent, set())
        this = stamp, int(message.sequence), chunk
        if stamp < newest - _WINDOW or this in seen:
            return Objection(
                Refusal.REPLAYED, f'stamped {(newest - stamp) / NANOSECONDS:.2f} s before the newest'
            )
        if newest != self._newest.get(agent):
            self._seen[agent] = {each for each in seen if each[0] >= newest - _WINDOW}
        if len(self._seen[agent]) >= _MOST_SEEN:
            detail = f'more than {_MOST_SEEN} messages of {agent} in {_WINDOW / NANOSECONDS:g} s'
            return Objection(Refusal.FLOOD, detail)
        self._seen[agent].add(this)
        self._newest[agent] = newest
        return None

    def forget_after(self, stamp: int) -> None:
        """Forget the messages of agents that sent a later one, after time has jumped back."""
        for agent in [agent for agent, newest in self._newest.items() if newest > stamp]:
            del self._newest[agent], self._seen[agent]


def _domain(kind: type) -> bytes:
    return f'diffkd_ros/{kind.__name__}\0'.encode()


def _read_keys(path: Path) -> dict[str, Ed25519PublicKey]:
    try:
        lines = path.read_text().splitlines()
    except _UNREADABLE as error:
        raise DiffkdError(f'cannot read the list of keys {path}: {error}') from error
    keys = {}
    for number, line in enumerate(lines, 1):
        agent, _, text = line.strip().partition(' ')
        if not agent or agent.startswith('#'):
            continue
        try:
            key = load_ssh_public_key(text.strip().encode())
        except _UNREADABLE as error:
            raise DiffkdError(f'{path}, line {number}: no public key of OpenSSH: {error}') from error
        if not isinstance(key, Ed25519PublicKey):
            raise DiffkdError(f'{path}, line {number}: the key of {agent} is not for Ed25519')
        keys[agent] = key
    return keys
