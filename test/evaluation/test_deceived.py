# SPDX-License-Identifier: Apache-2.0
"""The ego among neighbours of which some lie: who lies, what arrives, what stays as it is."""

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.attacks.catalogue import ABSENT, ATTACKS, GHOSTS, SCORE
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.evaluation.conditions import CLEAN, Condition, make_attacks
from diffkd_ros.evaluation.cooperation import IntermediateCooperation, LateCooperation
from diffkd_ros.evaluation.deceived import DeceivedPerceiver
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.geometry.boxes import ground_truth_in, transform_boxes
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.runtime.link import detector
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.plausibility.judge import Doubt, Judge, Record
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

PLAIN = [name for name, attack in ATTACKS.items() if not attack.optimised]
ONE_NAMED = [name for name in PLAIN if ATTACKS[name].names == 1]
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


def listening(kind, model, doubts=()):
    """A way to cooperate that keeps the messages that the ego gets, and replaces its doubts if given."""

    class Listening(kind):
        heard = ()

        def outcome(self, clean, sweep, messages):
            type(self).heard = tuple(messages)
            outcome = super().outcome(clean, sweep, messages)
            return replace(outcome, doubts=doubts) if doubts else outcome

    return Listening(model)


def perceive(cooperation, name, drive, elsewhere=None, liars=ONE_OF_TWO, **options):
    """The 20th frame of a drive."""
    condition = Condition(CLEAN, attack=name, liars=liars)
    perceiver = DeceivedPerceiver(cooperation, condition, liars, lambda: drive, lambda: elsewhere, **options)
    clean = CleanFrame(drive.frame(20))
    return perceiver.perceive(clean, perceiver.take(clean))


def honest(cooperation, frame):
    clean = CleanFrame(frame)
    return Perceiver(cooperation, Condition(CLEAN)).perceive(clean, clean.frame)


@pytest.mark.parametrize('name', ONE_NAMED)
def test_layers_of_lies_decode_and_the_honest_sender_is_untouched(name, three, elsewhere, layered_model):
    cooperation = listening(LayeredCooperation, layered_model)
    clean = honest(cooperation, three.frame(20))
    assert clean.fused == (1, 2, 3)
    truthful = {message.agent: message for message in cooperation.heard}
    lied = perceive(cooperation, name, three, elsewhere)
    (liar,) = lied.judgement.liars
    unpacker = Unpacker(layered_model.receiver.tables)
    heard = {message.agent: message for message in cooperation.heard}
    other = next(agent for agent in truthful if agent != liar)
    assert heard[other].chunks == truthful[other].chunks
    np.testing.assert_array_equal(heard[other].pose, truthful[other].pose)
    assert len(heard) == 2
    for agent, message in heard.items():
        received = unpacker.unpack(message.chunks)
        assert received.refused == ()
        assert message.size <= cooperation.budget
        if agent != other:
            changed = message.chunks != truthful[liar].chunks
            assert changed or not np.array_equal(message.pose, truthful[liar].pose)


@pytest.mark.parametrize('name', ONE_NAMED)
def test_maps_of_lies_are_valid_and_the_honest_sender_is_untouched(name, three, elsewhere, model):
    cooperation = listening(IntermediateCooperation, model)
    clean = honest(cooperation, three.frame(20))
    truthful = dict(zip(clean.fused[1:], cooperation.heard, strict=True))
    lied = perceive(cooperation, name, three, elsewhere)
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
        assert len(cooperation.heard) == 2


def test_all_spoofed_boxes_are_merged(three, layered_model, monkeypatch):
    """None is dropped because the features at its place arrived, too, if the ego believes the liar."""
    monkeypatch.setattr(detector, 'reconciled', lambda boxes, *_: (boxes, np.zeros(len(boxes), np.uint8)))
    monkeypatch.setattr(Judge, 'judge', lambda _, ego, said, stamp: [None] * len(said))

    def invented(perception):
        return int((np.abs(perception.detection.boxes.scores - SCORE) < 0.01).sum())

    cooperation = listening(LayeredCooperation, layered_model)
    before = invented(honest(cooperation, three.frame(20)))
    assert invented(perceive(cooperation, 'spoof', three)) == before + GHOSTS


def test_an_absent_liar_is_a_frame_without_it(three, model):
    cooperation = IntermediateCooperation(model)
    frame = three.frame(20)
    perceived = perceive(cooperation, ABSENT.name, three)
    (liar,) = perceived.judgement.liars
    rest = {agent: sweep for agent, sweep in frame.agents.items() if agent != liar}
    without = honest(cooperation, replace(frame, agents=rest))
    np.testing.assert_array_equal(perceived.detection.boxes.boxes, without.detection.boxes.boxes)
    assert perceived.fused == without.fused


def test_a_replayed_sweep_is_1_6_seconds_old(three, model):
    cooperation = listening(IntermediateCooperation, model)
    lied = perceive(cooperation, 'replay', three)
    (liar,) = lied.judgement.liars
    old, now = three.frame(4), three.frame(20)
    assert now.stamp - old.stamp == 1_600_000_000
    honest(cooperation, old)
    then = cooperation.heard[[2, 3].index(liar)]
    perceive(cooperation, 'replay', three)
    replayed = cooperation.heard[[2, 3].index(liar)]
    np.testing.assert_array_equal(replayed.feature, then.feature)
    np.testing.assert_array_equal(replayed.pose, old.agents[liar].pose)


def test_names_in_the_place_of_the_ego_are_refused_and_take_no_places(layered_model):
    drive = Simulator(SimulatorConfig(agents=5), 3).scenario(0)
    cooperation = listening(LayeredCooperation, layered_model)
    lied = perceive(cooperation, 'sybils', drive, liars=Liars(4, 1))
    (liar,) = lied.judgement.liars
    assert {message.agent for message in cooperation.heard} == {2, 3, 4, 5} - {liar}
    assert lied.judgement.judged[liar]


@pytest.mark.parametrize('name', ['spoof', 'noise', 'saturation', 'paste'])
def test_a_liar_is_left_out_and_an_honest_sender_is_not(name, three, layered_model):
    lied = perceive(LayeredCooperation(layered_model), name, three)
    (liar,) = lied.judgement.liars
    assert lied.judgement.judged == {liar: True, 5 - liar: False}
    assert lied.fused == (1, 5 - liar)
    without = perceive(LayeredCooperation(layered_model), ABSENT.name, three)
    np.testing.assert_array_equal(lied.detection.boxes.boxes, without.detection.boxes.boxes)


def test_without_examination_a_liar_is_fused(three, layered_model):
    cooperation = LayeredCooperation(layered_model)
    lied = perceive(cooperation, 'spoof', three, plausibility='none')
    assert lied.judgement.judged == {}
    assert lied.fused == (1, 2, 3)
    found = len(honest(cooperation, three.frame(20)).detection.boxes)
    assert len(lied.detection.boxes) >= found + 3
    # Nor is the choice kept for others that use the same cooperation.
    assert perceive(cooperation, 'spoof', three).judgement.judged[lied.judgement.liars[0]]


@pytest.mark.parametrize('successive', [True, False])
def test_suspicion_is_kept_from_frame_to_frame_only_for_attacks(successive, three, layered_model):
    cooperation, frame = LayeredCooperation(layered_model), CleanFrame(three.frame(20))
    perceiver = Perceiver(cooperation, Condition(CLEAN), plausibility='scenario' if successive else 'sweep')
    for name in ('2', '3'):
        record = Record(suspicion=5.0, stamp=frame.frame.stamp)
        if successive:
            perceiver._cooperation._judge._records[name] = record
    assert perceiver.perceive(frame, frame.frame).fused == ((1,) if successive else (1, 2, 3))


def test_a_message_that_does_not_fit_is_not_refused(three, layered_model):
    cooperation = listening(LayeredCooperation, layered_model)
    lied = perceive(cooperation, 'noise', three, budget=10)
    assert cooperation.heard == ()
    assert lied.judgement.judged == {}


class Recording:
    """Keeps what an optimiser gets and changes nothing."""

    identity = 'none'

    def __call__(self, goal, statements, targets, limits):
        self.goal, self.statements, self.targets, self.limits = goal, statements, targets, limits
        return statements[1].bev


def test_what_an_optimiser_gets(three, model):
    optimiser, frame = Recording(), three.frame(20)
    (liar,) = perceive(
        IntermediateCooperation(model), 'pgd_removal', three, optimiser=optimiser
    ).judgement.liars
    assert optimiser.goal == 'removal'
    ego, lying, other = optimiser.statements
    np.testing.assert_array_equal(ego.pose, frame.agents[1].pose)
    np.testing.assert_array_equal(ego.bev.feature, model.encode(frame.agents[1].points).feature.feature)
    np.testing.assert_array_equal(lying.pose, frame.agents[liar].pose)
    np.testing.assert_array_equal(other.pose, frame.agents[5 - liar].pose)
    # All vehicles but the liar, in the ego's frame.
    truth = ground_truth_in(frame, 1, own=True).boxes
    to = np.linalg.norm(truth[:, None, :3] - optimiser.targets[None, :, :3], axis=-1)
    assert (to.min(axis=0) < 0.05).all()
    assert len(optimiser.targets) == len(truth) - 1
    # Empty cells are not sent.
    low, high = optimiser.limits
    free = (low < high).any(axis=0)
    assert free.any()
    assert not (free & (lying.bev.density <= 0)).any()
    assert (low <= high).all()


def test_with_gradients_the_same_vehicles_are_invented(three, model):
    class Saying(IntermediateCooperation):
        def message_of(self, said, *others):
            self.said = said
            return super().message_of(said, *others)

    optimiser, cooperation = Recording(), Saying(model)
    perceive(cooperation, 'pgd_spoof', three, optimiser=optimiser)
    perceive(cooperation, 'spoof', three)
    to_ego = inverse(three.frame(20).agents[1].pose) @ cooperation.said.pose
    ghosts = transform_boxes(to_ego, cooperation.said.boxes.boxes[:GHOSTS])
    np.testing.assert_allclose(ghosts, optimiser.targets)
    np.testing.assert_array_equal(cooperation.said.bev.feature, optimiser.statements[1].bev.feature)


def test_late_cooperation_lies_by_boxes(three, layered_model):
    cooperation = listening(LateCooperation, layered_model)
    lied = perceive(cooperation, 'removal', three)
    sizes = dict(zip([2, 3], (len(message.content) for message in cooperation.heard), strict=True))
    (liar,) = lied.judgement.liars
    assert sizes.pop(liar) == 0
    assert min(sizes.values()) > 0


def test_a_verdict_on_senders_is_kept(three, model):
    cooperation = listening(IntermediateCooperation, model, doubts=(Doubt('lies'), None))
    judged = perceive(cooperation, 'noise', three).judgement
    assert judged.judged == {2: True, 3: False}
    assert judged.liars in ((2,), (3,))
    assert honest(cooperation, three.frame(20)).judgement.judged == {2: True, 3: False}


def test_another_number_of_neighbours_is_left_out(drive, intermediate):
    with pytest.raises(CorruptionError, match='1 neighbours'):
        perceive(intermediate, 'noise', drive)


def test_conditions_of_attacks():
    by_neighbours = make_attacks('spoof,noise', '1of2,1of4,2of4', '0,1', optimised=False)
    assert list(by_neighbours) == [2, 4]
    names = [condition.name for condition in by_neighbours[4]]
    assert names[:2] == ['clean', 'ego_alone']
    assert len(names) == len(set(names)) == 2 + 2 * 3 * 2
    assert 'spoof-2of4-seed1' in names
    assert 'absent-1of4-seed0' in names
    everything = make_attacks('all', '1of2', '0', optimised=False)[2]
    attacks = [condition for condition in everything if condition.attack]
    assert [condition.attack for condition in attacks][1:] == PLAIN
    honest = [each for each in everything if each.severity]
    assert len(honest) == 7 * 3
    assert {each.who for each in honest} == {'neighbours'}


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
