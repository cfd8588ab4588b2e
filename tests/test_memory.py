"""Check the bounded memory against a plain list that follows the published protocol."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stmcli.memory import Gate, MemoryBank, idle_memory
from stmcli.model.layers import memory_read
from stmcli.options import MEMORY_POLICIES, MemoryOptions

FULL = "first+previous+every"
CELLS = 2


def entry(age):
    """Return the key and value of a frame, filled with its age."""
    return torch.full((1, 1, CELLS, 3), float(age)), torch.full((1, 1, CELLS, 4), float(age))


def contents(bank):
    """Return the ages in memory, ascending; keys and values must agree, and every slot be whole."""
    keys, values, valid = bank.read()
    assert valid is None
    ages = keys[0, 0, :, 0].view(-1, CELLS)
    assert (ages == ages[:, :1]).all()
    assert (keys == ages.reshape(1, 1, -1, 1)).all()
    assert (values == ages.reshape(1, 1, -1, 1)).all()
    return sorted(int(age) for age in ages[:, 0])


def follow(bank, frames, renew=1):
    """Yield (t, ages in memory) as frame t is read, for a clip whose first mask is given."""
    bank.pin(*entry(0))
    yield 1, contents(bank)
    for t in range(2, frames):
        if bank.wants(age=t - 1, renew=renew):
            bank.write(*entry(t - 1), age=t - 1)
        yield t, contents(bank)


def published(t, every, policy, renew=1):
    """List what the paper's protocol holds when frame t is read, where it takes only every so manieth frame."""
    kept, renew = (every, renew) if "every" in policy else (0, 1)
    previous = max(age for age in range(t) if age % renew == 0 or (kept and age % kept == 0))
    if policy == "previous":
        return [previous]
    ages = {0}
    if "previous" in policy:
        ages.add(previous)
    if "every" in policy and every:
        ages.update(range(every, t, every))
    return sorted(ages)


def bounded(t, every, slots):
    """List what a memory of so many slots holds: the first, the previous, and the latest kept ones."""
    kept = list(range(every, t, every)) if every else []
    room = slots - 2
    return sorted({0, t - 1, *(kept[-room:] if room else [])})


@given(st.integers(2, 40), st.integers(0, 9), st.sampled_from(MEMORY_POLICIES), st.integers(1, 6))
@settings(max_examples=160, deadline=None)
def test_with_enough_slots_it_is_the_published_protocol_at_every_frame(frames, every, policy, renew):
    bank = MemoryBank(MemoryOptions(every=every, max_slots=frames + 2, policy=policy))
    for t, ages in follow(bank, frames, renew):
        assert ages == published(t, every, policy, renew)


@given(st.integers(2, 60), st.integers(0, 7), st.integers(2, 6))
@settings(max_examples=80, deadline=None)
def test_with_few_slots_it_keeps_the_first_the_previous_and_the_latest(frames, every, slots):
    bank = MemoryBank(MemoryOptions(every=every, max_slots=slots, policy=FULL))
    for t, ages in follow(bank, frames):
        assert len(ages) <= slots
        assert set(bounded(t, every, slots)) <= set(ages)
        assert set(ages) <= {0, t - 1, *range(every or t, t, every or t)}


@given(st.integers(3, 40), st.integers(1, 5), st.integers(2, 8), st.sampled_from(MEMORY_POLICIES))
@settings(max_examples=40, deadline=None)
def test_nothing_is_ever_reallocated(frames, every, slots, policy):
    bank = MemoryBank(MemoryOptions(every=every, max_slots=slots, policy=policy))
    steps = follow(bank, frames)
    next(steps)
    before = [x.untyped_storage().data_ptr() for x in bank.read()[:2]]
    for _ in steps:
        assert [x.untyped_storage().data_ptr() for x in bank.read()[:2]] == before
    assert [x.untyped_storage().nbytes() for x in bank.read()[:2]] == [slots * CELLS * 3 * 4, slots * CELLS * 4 * 4]


def bytes_after(frames, *, objects, options):
    """Return how many bytes the bank holds when a clip has come that far."""
    bank = MemoryBank(options)
    bank.pin(*(part.repeat(1, objects, 1, 1) for part in entry(0)))
    for age in range(1, frames):
        bank.write(*(part.repeat(1, objects, 1, 1) for part in entry(age)), age=age)
    return sum(part.untyped_storage().nbytes() for part in bank.read()[:2])


@pytest.mark.parametrize("every", [0, 1, 5])
def test_its_size_does_not_depend_on_the_clip_and_is_linear_in_objects(every):
    options = MemoryOptions(every=every, max_slots=7)
    short = [bytes_after(50, objects=objects, options=options) for objects in (1, 2, 5)]
    assert short == [bytes_after(500, objects=objects, options=options) for objects in (1, 2, 5)]
    assert short == [objects * 7 * CELLS * (3 + 4) * 4 for objects in (1, 2, 5)]  # keys and values of 4 bytes a number


@st.composite
def histories(draw):
    """A length, and at which ages masks are given: the first at 0."""
    frames = draw(st.integers(2, 40))
    return frames, {0, *draw(st.lists(st.integers(1, frames), max_size=6))}


@given(histories(), st.integers(0, 5), st.integers(2, 9))
@settings(max_examples=80, deadline=None)
def test_given_frames_stay_the_first_and_the_latest_and_the_rest_is_for_kept_ones(history, every, slots):
    frames, given_at = history
    bank = MemoryBank(MemoryOptions(every=every, max_slots=slots, policy=FULL))
    for t in range(frames):
        bank.pin(*entry(t)) if t in given_at else bank.write(*entry(t), age=t)
        ages, pinned = contents(bank), sorted(age for age in given_at if age <= t)
        assert t in ages
        assert len(ages) == len({*ages}) == bank.slots <= slots
        assert {0, *pinned[-(slots - 2) :]} <= {*ages} if slots > 2 else 0 in ages
        others = [age for age in ages if age not in given_at and age != t]
        assert all(every and age % every == 0 for age in others)
        latest = [age for age in range(every, t, every) if age not in given_at] if every else []
        assert others == latest[len(latest) - len(others) :]  # the oldest go first


@given(histories(), st.integers(1, 5), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_a_policy_of_the_previous_frame_reads_it_alone_given_or_not(history, every, slots):
    frames, given_at = history
    bank = MemoryBank(MemoryOptions(every=every, max_slots=slots, policy="previous"))
    for t in range(frames):
        bank.pin(*entry(t)) if t in given_at else bank.write(*entry(t), age=t)
        assert contents(bank) == [t]


def test_a_policy_of_the_first_frame_reads_every_given_one():
    bank = MemoryBank(MemoryOptions(max_slots=3, policy="first"))
    seen = []
    for age in range(5):
        bank.pin(*entry(age))
        seen.append(contents(bank))
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_an_object_that_enters_reads_only_what_came_since():
    bank = MemoryBank(MemoryOptions(every=2, max_slots=5))
    bank.pin(*entry(0))
    for age in range(1, 6):
        bank.write(*entry(age), age=age)
    key, value = entry(6)
    bank.pin(key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1))
    seen = []
    for age in range(7, 14):
        keys, values, valid = bank.read()
        ages = keys[0, :, ::CELLS, 0]
        assert torch.isfinite(values).all()
        seen.append(sorted(ages[1].int().tolist() if valid is None else ages[1][valid[1, ::CELLS]].int().tolist()))
        assert valid is None or valid[0].all()
        key, value = entry(age)
        bank.write(key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1), age=age)
    assert seen == [[6], [6, 7], [6, 8], [6, 8, 9], [6, 8, 10], [6, 8, 10, 11], [6, 10, 12]]


def test_a_policy_of_the_first_frame_alone_wants_no_other():
    bank = MemoryBank(MemoryOptions(policy="first"))
    assert not any(bank.wants(age=age) for age in range(1, 20))


def test_a_memory_too_small_is_refused():
    with pytest.raises(ValueError, match="two slots"):
        MemoryBank(MemoryOptions(max_slots=1))


def test_only_the_given_frames_are_read_when_asked():
    bank = MemoryBank(MemoryOptions(every=1, max_slots=6))
    for _ in follow(bank, 5):
        pass
    keys, values, valid = bank.read(given_only=True)
    assert valid is None
    assert keys.shape[2] == values.shape[2] == CELLS
    assert not keys.any()
    assert not values.any()


def test_all_is_read_where_no_given_frame_in_memory_knows_all_objects():
    bank = MemoryBank(MemoryOptions(max_slots=2))  # no room for a second given frame
    bank.pin(*entry(0))
    assert bank.pin(*two_objects(1)) is None
    assert bank.read_slots(given_only=True) == [0, 1]
    keys, _, valid = bank.read(given_only=True)
    assert keys[0, 1][valid[1]].unique().tolist() == [1]


def test_what_is_not_to_be_read_is_not_valid_in_the_whole_buffer():
    bank = MemoryBank(MemoryOptions(every=0, max_slots=4))
    bank.pin(*entry(0))
    bank.write(*entry(1), age=1)
    for given_only, ages in ((False, [0, 1]), (True, [0])):
        keys, values, valid = bank.read(given_only=given_only, whole=True)
        assert keys.shape[2] == values.shape[2] == valid.shape[1] == 4 * CELLS
        assert keys[0, 0][valid[0]].unique().tolist() == ages


@pytest.mark.parametrize(("policy", "slots", "most"), [(FULL, 6, 3), (FULL, 7, 3), ("previous", 6, 1)])
def test_given_frames_have_half_of_the_memory(policy, slots, most):
    bank = MemoryBank(MemoryOptions(policy=policy, max_slots=slots))
    assert [count for count in range(9) if bank.has_room(count)] == [*range(most + 1)]
    bank.pin(*entry(0))
    assert [count for count in range(9) if bank.has_room(count)] == [*range(most)]


def test_a_state_and_the_memory_it_was_taken_of_go_their_own_ways():
    bank, other = (MemoryBank(MemoryOptions(every=1, max_slots=3, keep="useful")) for _ in range(2))
    bank.pin(*keyed(0))
    bank.write(*keyed(1), age=1)
    bank.weigh(asked(1))
    state = bank.state()
    before = copy.deepcopy(state)
    other.restore(*copy.deepcopy(state))
    for memory, restored in ((bank, None), (other, state)):
        if restored:
            memory.restore(*restored)
        memory.write(*keyed(2), age=2)
        memory.pin(*(part.repeat(1, 2, 1, 1) for part in keyed(3)))
        assert state[1] == before[1]
        assert all(torch.equal(state[0][name], before[0][name]) for name in ("keys", "values"))
    assert torch.equal(bank.read()[1], other.read()[1])


def two_objects(age):
    return tuple(part.repeat(1, 2, 1, 1) for part in entry(age))


def test_of_a_doubtful_object_the_last_trusted_frame_is_remembered_again():
    gate = Gate(0.5)
    gate.trust(*two_objects(0))
    seen = []
    for age, sure in ((1, (0.9, 0.4)), (2, (0.3, 0.5)), (3, (0.2, 0.2))):
        key, value = gate.admit(*two_objects(age), torch.tensor(sure))
        assert torch.equal(key[..., 0], value[..., 0])
        seen.append(key[0, :, 0, 0].tolist())
    assert seen == [[1, 0], [1, 2], [1, 2]]


def test_what_was_trusted_survives_a_state():
    gates = Gate(0.5), Gate(0.5)
    gates[0].trust(*two_objects(1))
    gates[1].restore(gates[0].state())
    key, value = gates[1].admit(*two_objects(2), torch.tensor([0.9, 0.1]))
    assert key[0, :, 0, 0].tolist() == value[0, :, 0, 0].tolist() == [2, 1]


def test_without_a_gate_all_is_remembered_as_it_is():
    gate = Gate(0)
    gate.trust(*two_objects(0))
    key, value = two_objects(1)
    assert gate.admit(key, value, torch.zeros(2)) == (key, value)


def keyed(age, cells=CELLS):
    """A frame whose keys all point along the axis of its age."""
    key = torch.zeros(1, 1, cells, 8)
    key[..., age] = 10
    return key, torch.full((1, 1, cells, 4), float(age))


def asked(*ages):
    """A query whose cells all look for these frames."""
    query = torch.zeros(1, 8, 4, 4)
    query[:, list(ages)] = 10
    return query


@pytest.mark.parametrize("half", [False, True])
def test_useful_frames_stay_and_the_one_that_is_read_least_goes(half):
    bank = MemoryBank(MemoryOptions(every=1, max_slots=4, keep="useful", half=half))  # room for three and the previous
    bank.pin(*keyed(0))
    for age in (1, 2):
        bank.write(*keyed(age), age=age)
        bank.weigh(asked(1))
    bank.write(*keyed(3), age=3)
    ages = {int(value) for value in bank.read()[1][0, 0, :, 0].tolist()}
    assert ages == {0, 1, 3}  # 2 was read least, the oldest would have been 1


def test_a_frame_that_could_not_be_read_yet_is_not_taken_for_useless():
    bank = MemoryBank(MemoryOptions(every=1, max_slots=4, keep="useful"))
    bank.pin(*keyed(0))
    bank.write(*keyed(1), age=1)
    bank.weigh(asked(1))
    bank.write(*keyed(2), age=2)
    bank.pin(*keyed(3))
    assert {int(value) for value in bank.read()[1][0, 0, :, 0].tolist()} == {0, 2, 3}


def test_what_is_known_of_a_frame_is_not_held_against_the_one_in_its_place():
    bank = MemoryBank(MemoryOptions(every=1, max_slots=4, keep="useful"))
    bank.pin(*keyed(0))
    for age in (1, 2):
        bank.write(*keyed(age), age=age)
    bank.weigh(asked(0, 2))
    for age in (3, 4):
        bank.write(*keyed(age), age=age)
    assert {int(value) for value in bank.read()[1][0, 0, :, 0].tolist()} == {0, 3, 4}


def test_what_was_read_for_long_stays_though_another_is_read_once():
    bank = MemoryBank(MemoryOptions(every=1, max_slots=4, keep="useful"))
    bank.pin(*keyed(0))
    for age in (1, 2):
        bank.write(*keyed(age), age=age)
    for asked_for in (1, 1, 1, 2):
        bank.weigh(asked(asked_for))
    bank.write(*keyed(3), age=3)
    assert {int(value) for value in bank.read()[1][0, 0, :, 0].tolist()} == {0, 1, 3}


def test_an_object_has_no_say_about_frames_before_it_was_there():
    bank = MemoryBank(MemoryOptions(every=1, max_slots=5, keep="useful"))  # room for four and the previous
    bank.pin(*keyed(0))
    bank.write(torch.zeros(1, 1, CELLS, 8), torch.full((1, 1, CELLS, 4), 1.0), age=1)
    for age, remember in ((2, bank.pin), (3, partial(bank.write, age=3))):
        key, value = torch.zeros(1, 2, CELLS, 8), torch.full((1, 2, CELLS, 4), float(age))
        key[:, 1, :, 0] = -10  # of the second object: it matches badly, and is all that there is of it
        remember(key, value)
    bank.weigh(asked(0))  # the first object reads frame 0 alone, the second one 2 and 3
    key, value = keyed(4)
    bank.write(key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1), age=4)
    assert {int(value) for value in bank.read()[1][0, 0, :, 0].tolist()} == {0, 2, 3, 4}


def test_how_useful_slots_are_survives_a_state():
    options = MemoryOptions(every=1, max_slots=4, keep="useful")
    bank, other = MemoryBank(options), MemoryBank(options)
    bank.pin(*keyed(0))
    for age in (1, 2):
        bank.write(*keyed(age), age=age)
        bank.weigh(asked(1))
    other.restore(*bank.state())
    for memory in (bank, other):
        memory.write(*keyed(3), age=3)
    assert torch.equal(bank.read()[1], other.read()[1])


def test_memory_in_half_precision_takes_half_the_bytes_and_reads_nearly_the_same():
    torch.manual_seed(0)
    key, value, query = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 6), torch.randn(1, 8, 3, 4)
    full, half = (MemoryBank(MemoryOptions(max_slots=3, half=half)) for half in (False, True))
    for bank in (full, half):
        bank.pin(key, value)
    assert half.read()[0].dtype == half.read()[1].dtype == torch.bfloat16
    assert 2 * sum(x.nbytes for x in half.state()[0].values() if x.ndim == 4) == sum(
        x.nbytes for x in full.state()[0].values() if x.ndim == 4
    )
    read = memory_read(query, *half.read())
    assert read.dtype == torch.float32
    assert torch.allclose(read, memory_read(query, *full.read()), atol=0.03)


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
def test_options_of_frames_that_a_policy_does_not_keep_are_said_to_do_nothing(policy):
    notes = idle_memory(MemoryOptions(every=7, policy=policy), 3)
    idle = [] if policy == FULL else ["--mem-every", "--mem-renew"]
    assert notes == [f"{flag} does nothing without --mem-policy {FULL}" for flag in idle]
    assert idle_memory(MemoryOptions(policy=policy), None) == idle_memory(MemoryOptions(0, policy=policy), 1) == []
