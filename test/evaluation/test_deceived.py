# SPDX-License-Identifier: Apache-2.0
"""The ego among neighbours of which some lie: who lies, what arrives, what stays as it is."""

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.attacks.catalogue import ABSENT, ATTACKS
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.evaluation.conditions import CLEAN, Condition, make_attacks
from diffkd_ros.evaluation.cooperation import IntermediateCooperation, LateCooperation
from diffkd_ros.evaluation.deceived import DeceivedPerceiver
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

PLAIN = [name for name, attack in ATTACKS.items() if not attack.optimised]
ONE_OF_TWO = Liars(2, 1)


@pytest.fixture(scope='module')
def three():
    return Simulator(SimulatorConfig(agents=3), 3).scenario(0)


@pytest.fixture(scope='module')
def elsewhere():
    return Simulator(SimulatorConfig(agents=3), 3).scenario(1)


@pytest.fixture(scope='module')
def layered_model(shipped_model):
    return Model(shipped_model)


def listening(kind, model, judgement=()):
    """A way to cooperate that keeps the messages that the ego gets."""

    class Listening(kind):
        def outcome(self, clean, sweep, messages):
            self.heard = list(messages)
            return replace(super().outcome(clean, sweep, messages), judgement=judgement[: len(messages)])

    return Listening(model)


def perceive(cooperation, name, frames, elsewhere=None, liars=ONE_OF_TWO, seed=0):
    condition = Condition(CLEAN, seed=seed, attack=name, liars=liars)
    perceiver = DeceivedPerceiver(cooperation, condition, liars, lambda: elsewhere)
    for frame in frames:
        clean = CleanFrame(frame)
        sensed = perceiver.take(clean)
    return perceiver.perceive(clean, sensed)


def honest(cooperation, frame):
    clean = CleanFrame(frame)
    return Perceiver(cooperation, Condition(CLEAN)).perceive(clean, clean.frame)


def frames_for(name, drive):
    """The scored frame, and those before it that are needed."""
    back = round(10 * ATTACKS[name].earlier)
    return [drive.frame(20 - k) for k in range(back, -1, -1)]


@pytest.mark.parametrize('name', PLAIN)
def test_layers_of_lies_decode_and_the_honest_sender_is_untouched(name, three, elsewhere, layered_model):
    cooperation = listening(LayeredCooperation, layered_model)
    frames = frames_for(name, three)
    clean = honest(cooperation, frames[-1])
    truthful = dict(zip(clean.fused[1:], cooperation.heard, strict=True))
    lied = perceive(cooperation, name, frames, elsewhere)
    (liar,) = lied.judgement.liars
    unpacker = Unpacker(layered_model.receiver.tables)
    heard = {message.agent: message for message in cooperation.heard}
    other = next(agent for agent in truthful if agent != liar)
    assert heard[other].chunks == truthful[other].chunks
    np.testing.assert_array_equal(heard[other].pose, truthful[other].pose)
    assert len(heard) == 1 + min(ATTACKS[name].names, 3)
    for agent, message in heard.items():
        received = unpacker.unpack(message.chunks)
        assert received.refused == ()
        assert message.size <= cooperation.budget
        if agent != other:
            changed = message.chunks != truthful[liar].chunks
            assert changed or not np.array_equal(message.pose, truthful[liar].pose)


@pytest.mark.parametrize('name', PLAIN)
def test_maps_of_lies_are_valid_and_the_honest_sender_is_untouched(name, three, elsewhere, model):
    cooperation = listening(IntermediateCooperation, model)
    frames = frames_for(name, three)
    clean = honest(cooperation, frames[-1])
    truthful = dict(zip(clean.fused[1:], cooperation.heard, strict=True))
    lied = perceive(cooperation, name, frames, elsewhere)
    (liar,) = lied.judgement.liars
    other = next(agent for agent in truthful if agent != liar)
    same = [m for m in cooperation.heard if np.array_equal(m.feature, truthful[other].feature)]
    assert len(same) == 1
    np.testing.assert_array_equal(same[0].density, truthful[other].density)
    for message in cooperation.heard:
        assert np.abs(message.feature).max() <= model.card.feature_range
    if name == 'scale':
        # Beyond the values that the ego accepts.
        assert lied.judgement.judged == {liar: True}
        assert lied.fused == (1, other)
    else:
        assert lied.judgement.judged == {}
        assert len(cooperation.heard) == 1 + min(ATTACKS[name].names, 3)


def test_spoofed_boxes_arrive_first_and_are_found(three, layered_model):
    lied = perceive(LayeredCooperation(layered_model), 'spoof', [three.frame(20)])
    boxes = honest(LayeredCooperation(layered_model), three.frame(20)).detection.boxes
    strong = (lied.detection.boxes.scores > 0.3).sum() - (boxes.scores > 0.3).sum()
    assert strong >= 4


def test_an_absent_liar_is_a_frame_without_it(three, model):
    cooperation = IntermediateCooperation(model)
    frame = three.frame(20)
    perceived = perceive(cooperation, ABSENT.name, [frame])
    (liar,) = perceived.judgement.liars
    rest = {agent: sweep for agent, sweep in frame.agents.items() if agent != liar}
    without = honest(cooperation, replace(frame, agents=rest))
    np.testing.assert_array_equal(perceived.detection.boxes.boxes, without.detection.boxes.boxes)
    assert perceived.fused == without.fused


def test_a_replayed_sweep_is_1_6_seconds_old(three, model):
    cooperation = listening(IntermediateCooperation, model)
    lied = perceive(cooperation, 'replay', frames_for('replay', three))
    (liar,) = lied.judgement.liars
    old, now = three.frame(4), three.frame(20)
    assert now.stamp - old.stamp == 1_600_000_000
    honest(cooperation, old)
    then = cooperation.heard[[2, 3].index(liar)]
    perceive(cooperation, 'replay', frames_for('replay', three))
    replayed = cooperation.heard[[2, 3].index(liar)]
    np.testing.assert_array_equal(replayed.feature, then.feature)
    np.testing.assert_array_equal(replayed.pose, old.agents[liar].pose)


def test_names_of_one_liar_get_half_of_the_places(layered_model):
    drive = Simulator(SimulatorConfig(agents=5), 3).scenario(0)
    cooperation = listening(LayeredCooperation, layered_model)
    lied = perceive(cooperation, 'sybils', [drive.frame(20)], liars=Liars(4, 1))
    senders = [message.agent for message in cooperation.heard]
    assert len(senders) == 4
    honest_ones = set(senders) & ({2, 3, 4, 5} - set(lied.judgement.liars))
    assert len(honest_ones) == 2
    assert set(lied.observed.agents) == {1} | (set(senders) & {2, 3, 4, 5})


def test_late_cooperation_lies_by_boxes(three, layered_model):
    cooperation = listening(LateCooperation, layered_model)
    lied = perceive(cooperation, 'removal', [three.frame(20)])
    sizes = dict(zip([2, 3], (len(message.content) for message in cooperation.heard), strict=True))
    (liar,) = lied.judgement.liars
    assert sizes.pop(liar) == 0
    assert min(sizes.values()) > 0


def test_a_verdict_on_senders_is_kept(three, model):
    cooperation = listening(IntermediateCooperation, model, judgement=(True, False))
    judged = perceive(cooperation, 'noise', [three.frame(20)]).judgement
    assert judged.judged == {2: True, 3: False}
    assert judged.liars in ((2,), (3,))
    assert honest(cooperation, three.frame(20)).judgement.judged == {2: True, 3: False}


def test_another_number_of_neighbours_is_left_out(drive, intermediate):
    with pytest.raises(CorruptionError, match='1 neighbours'):
        perceive(intermediate, 'noise', [drive.frame(20)])


def test_conditions_of_attacks():
    by_neighbours = make_attacks('spoof,noise', '1of2,1of4,2of4', '0,1', optimised=False)
    assert list(by_neighbours) == [2, 4]
    names = [condition.name for condition in by_neighbours[4]]
    assert names[:2] == ['clean', 'ego_alone']
    assert len(names) == len(set(names)) == 2 + 2 * 3 * 2
    assert 'spoof-2of4-seed1' in names
    assert 'absent-1of4-seed0' in names
    everything = make_attacks('all', '1of2', '0', optimised=False)[2]
    assert [condition.attack for condition in everything][3:] == PLAIN


@pytest.mark.parametrize(
    ('attacks', 'liars', 'words'),
    [
        ('spof', '1of2', "'spoof'"),
        ('spoof,spoof', '1of2', 'without repetitions'),
        ('spoof', '3of2', '1of2'),
        ('spoof', 'two', '1of2'),
        ('pgd_spoof', '1of2', '--attack-checkpoint'),
    ],
)
def test_wrong_attacks_are_refused(attacks, liars, words):
    with pytest.raises(EvaluationError, match=words):
        make_attacks(attacks, liars, '0', optimised=False)
