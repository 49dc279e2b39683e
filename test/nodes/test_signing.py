# SPDX-License-Identifier: Apache-2.0
"""Signed messages on the V2X link: unsigned, wrongly signed and replayed ones are refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('cryptography', reason='signatures are an extra')

from diffkd_ros.msg import BevChunk, BevFeature
from patience import PATIENCE
from rclpy.serialization import deserialize_message, serialize_message
from ros_partner import until_fused

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching import graph
from diffkd_ros.messages.names import MAP_FRAME
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.nodes.link.signing import LARGEST_TRAILER, SignatureCheck, Signer

S = 1_000_000_000


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Keys of two vehicles, and the list of the first one's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    folder = tmp_path_factory.mktemp('keys')
    for name in ('cav_2', 'cav_3'):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (folder / name).write_bytes(private)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        (folder / f'{name}.pub').write_text(f'{public} {name}@garage\n')
    (folder / 'keys').write_text(f'# The only neighbour.\n\ncav_2 {(folder / "cav_2.pub").read_text()}')
    return folder


@pytest.fixture
def selector(card, folder):
    return NeighbourSelector(card, 'cav_1', 0.5, 0.05, 2000.0, signatures=SignatureCheck(folder / 'keys'))


@pytest.fixture(scope='module')
def sign(folder):
    """Signs a message with the key of a vehicle."""

    def sign(message, by='cav_2'):
        return Signer(folder / by).sign(type(message), serialize_message(message))

    return sign


def refused(selector):
    total = selector.buffer.totals()
    return total.refused + total.chunks_refused


def test_a_signed_message_is_fused(selector, sign, feature_of, scene):
    message = feature_of(2, 'cav_2', S)
    signed = sign(message)
    assert len(signed) <= len(serialize_message(message)) + LARGEST_TRAILER
    selector.receive(BevFeature, signed, {})
    (verdict,) = selector.select(S, scene.agents[1].pose, MAP_FRAME)
    assert verdict.accepted
    assert refused(selector) == {}


def test_receivers_that_do_not_check_ignore_the_signature(card, sign, feature_of, chunks_of):
    for message in (feature_of(2, 'cav_2', S), chunks_of(2, 'cav_2', S)[0]):
        assert deserialize_message(sign(message), type(message)) == message


@pytest.mark.parametrize('kind', [BevFeature, BevChunk])
def test_unsigned_and_wrongly_signed_messages_are_refused(selector, sign, feature_of, chunks_of, scene, kind):
    message = feature_of(2, 'cav_2', S) if kind is BevFeature else chunks_of(2, 'cav_2', S)[0]
    selector.receive(kind, serialize_message(message), {})
    selector.receive(kind, sign(message, by='cav_3'), {})
    signed = bytearray(sign(message))
    for place in (12, len(signed) // 2, len(signed) - 20):
        changed = signed.copy()
        changed[place] ^= 1
        selector.receive(kind, bytes(changed), {})
    stranger = message
    stranger.agent_id = 'cav_3'
    selector.receive(kind, sign(stranger, by='cav_3'), {})
    assert set(refused(selector)) <= {Refusal.UNSIGNED, Refusal.SIGNATURE, Refusal.PAYLOAD, Refusal.NAME}
    assert refused(selector).total() == 6
    assert refused(selector)[Refusal.SIGNATURE] >= 2
    assert selector.select(S, scene.agents[1].pose, MAP_FRAME) == []


def test_the_signature_of_one_class_is_not_one_of_another(selector, folder, feature_of):
    message = feature_of(2, 'cav_2', S)
    selector.receive(BevFeature, Signer(folder / 'cav_2').sign(BevChunk, serialize_message(message)), {})
    assert refused(selector) == {Refusal.SIGNATURE: 1}


def test_replayed_messages_are_refused_in_the_window_and_behind_it(selector, sign, feature_of):
    signed = [sign(feature_of(2, 'cav_2', S + k * S // 10, k)) for k in range(40)]
    selector.own_sweep(5 * S)
    for data in (signed[1], signed[0], *signed[2:]):  # another order is no replay
        selector.receive(BevFeature, data, {})
    assert refused(selector)[Refusal.REPLAYED] == 0
    for data in (signed[0], signed[19], signed[20], signed[39]):
        selector.receive(BevFeature, data, {})
    assert refused(selector)[Refusal.REPLAYED] == 4
    # What is remembered is limited.
    (seen,) = selector._admission._signatures._seen.values()
    assert len(seen) == 21


def test_more_messages_in_the_window_than_anybody_sends_are_refused(selector, sign, feature_of, monkeypatch):
    monkeypatch.setattr('diffkd_ros.nodes.link.signing._MOST_SEEN', 10)
    selector.own_sweep(5 * S)
    for k in range(20):
        selector.receive(BevFeature, sign(feature_of(2, 'cav_2', 5 * S, k)), {})
    assert refused(selector) == {Refusal.FLOOD: 10}
    # The next sweeps are taken, once these are behind the window.
    selector.own_sweep(8 * S)
    selector.receive(BevFeature, sign(feature_of(2, 'cav_2', 8 * S, 20)), {})
    assert refused(selector) == {Refusal.FLOOD: 10}


def test_after_time_has_jumped_back_messages_are_taken_again(selector, sign, feature_of, scene):
    """A recording in a loop, with /clock."""
    for turn in range(2):
        for k in range(30, 60, 10):
            selector.own_sweep(k * S // 10)
            selector.receive(BevFeature, sign(feature_of(2, 'cav_2', k * S // 10, k)), {})
            (verdict,) = selector.select(k * S // 10, scene.agents[1].pose, MAP_FRAME)
            assert verdict.accepted, (turn, k, verdict.reason)
        selector.forget_after(S)
    assert refused(selector) == {}


def test_wrong_signatures_are_checked_for_a_few_messages_only(card, folder, sign, feature_of, scene):
    """A check takes as long as several messages, and strangers pay for it."""
    check = SignatureCheck(folder / 'keys')
    selector = NeighbourSelector(card, 'cav_1', 0.5, 0.05, 200.0, signatures=check)
    forged = sign(BevFeature(agent_id='cav_2'), by='cav_3')
    gid = {'implementation_identifier': 'rmw_fastrtps_cpp', 'data': bytes(16)}
    for _ in range(100):
        selector.receive(BevFeature, forged, {'publisher_gid': gid})
    assert refused(selector).keys() == {Refusal.SIGNATURE, Refusal.FLOOD}
    assert refused(selector)[Refusal.SIGNATURE] < 20
    other = {**gid, 'data': bytes([1]) * 16}
    selector.receive(BevFeature, sign(feature_of(2, 'cav_2', S)), {'publisher_gid': other})
    (verdict,) = selector.select(S, scene.agents[1].pose, MAP_FRAME)
    assert verdict.accepted


def test_a_clock_that_was_wrong_for_a_moment_does_not_silence_its_vehicle(selector, sign, feature_of):
    selector.own_sweep(S)
    selector.receive(BevFeature, sign(feature_of(2, 'cav_2', 1_000_000 * S, 0)), {})
    selector.receive(BevFeature, sign(feature_of(2, 'cav_2', S, 1)), {})
    assert refused(selector)[Refusal.REPLAYED] == 0


def test_a_name_belongs_to_its_key_not_to_the_participant(selector, sign, feature_of, scene):
    for k in range(2):
        gid = {'implementation_identifier': 'rmw_fastrtps_cpp', 'data': bytes([k]) * 16}
        data = sign(feature_of(2, 'cav_2', S + k, k))
        selector.receive(BevFeature, data, {'publisher_gid': gid})
    (verdict,) = selector.select(S + 1, scene.agents[1].pose, MAP_FRAME)
    assert (verdict.accepted, verdict.sequence) == (True, 1)


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('cav_2 nothing', 'line 1: no public key'),
        ('\ncav_2', 'line 2: no public key'),
        (None, 'cannot read the list of keys'),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path, text, problem):
    if text is not None:
        (tmp_path / 'keys').write_text(text)
    with pytest.raises(DiffkdError, match=problem):
        SignatureCheck(tmp_path / 'keys')


def test_a_private_key_that_cannot_be_used_is_named(tmp_path, folder):
    with pytest.raises(DiffkdError, match='no private key'):
        Signer(tmp_path / 'missing')
    with pytest.raises(DiffkdError, match='no private key'):
        Signer(folder / 'cav_2.pub')


def test_keys_of_openssh_are_read(tmp_path):
    path = tmp_path / 'key'
    try:
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', path], check=True)
    except FileNotFoundError:
        pytest.skip('OpenSSH is not installed')
    (tmp_path / 'keys').write_text('cav_2 ' + Path(f'{path}.pub').read_text())
    message = BevFeature(agent_id='cav_2')
    signed = Signer(path).sign(BevFeature, serialize_message(message))
    assert SignatureCheck(tmp_path / 'keys').objection(message, signed, None) is None


def test_a_vehicle_that_signs_is_fused_by_an_ego_that_checks(group, partner, scene, model, folder):
    keys = ('neighbour_keys', folder / 'keys'), ('signing_key', folder / 'cav_2')
    specs = graph.vehicle_specs([1, 2], 1, {'model': str(model), 'threads': 1})
    for spec, (name, path) in zip(specs, keys, strict=True):
        group.start(replace(spec, parameters={**spec.parameters, name: str(path)}))
    group.wait_ready(PATIENCE)
    until_fused(partner, scene, 0)
