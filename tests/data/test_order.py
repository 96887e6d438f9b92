"""Laws of the order: each epoch shows every picture once, balance is exact, and nothing depends on history."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progan.data.order import Order, batch_indices, order_of, share
from progan.data.source import Labels
from progan.errors import UserError
from progan.training.steps import split

GOLDEN = {
    (1000, 0, 8, 50): [47, 27, 12, 29, 26, 41, 15, 2],
    (1000, 200, 8, 50): [48, 18, 30, 31, 3, 42, 46, 19],
    (3, 25, 10, 30): [11, 2, 6, 4, 26, 10, 21, 29, 16, 12],
    (7, 95, 12, 10): [4, 8, 5, 1, 3, 6, 1, 9, 3, 5, 2, 8],
    (0, 5, 6, 1): [0, 0, 0, 0, 0, 0],
    (1000, 123456, 8, 3781): [2661, 2802, 2682, 17, 2504, 1005, 1524, 1050],
    (5, 2, 9, 4): [2, 0, 2, 1, 0, 3, 2, 3, 0],
}
"""(seed, cur_nimg, batch, count) -> what the first version of progan drew: runs of that time go on exactly."""

NAMES = ("ant", "bee", "cat", "dog")
CLASSES = Labels(np.array([0, 1, 1, 2, 0, 1, 1, 1, 2, 1], np.int64), NAMES)  # 2 ants, 6 bees, 2 cats, no dog


# --- epochs ---


@pytest.mark.parametrize("arguments", GOLDEN, ids=str)
def test_the_order_is_that_of_the_first_version(arguments: tuple[int, int, int, int]) -> None:
    drawn = batch_indices(*arguments)
    assert drawn.tolist() == GOLDEN[arguments]
    assert drawn.dtype == torch.int64
    assert order_of(arguments[3]).indices(*arguments[:3]).tolist() == GOLDEN[arguments]


@pytest.mark.parametrize(("count", "batch"), [(50, 8), (50, 50), (7, 16), (64, 16), (10, 3), (1, 4)])
def test_each_epoch_shows_every_picture_once_across_batches(count: int, batch: int) -> None:
    epochs = 6
    steps = -(-epochs * count // batch)
    shown = torch.cat([batch_indices(0, n * batch, batch, count) for n in range(steps)])
    assert len(shown) >= epochs * count
    for epoch in range(epochs):
        assert sorted(shown[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_the_order_is_a_function_of_seed_and_position_whatever_the_batch() -> None:
    whole = batch_indices(3, 0, 200, 30)
    for start, batch in [(0, 8), (8, 16), (25, 10), (29, 2), (120, 80)]:
        assert torch.equal(batch_indices(3, start, batch, 30), whole[start : start + batch])
    before = torch.get_rng_state()
    assert torch.equal(batch_indices(3, 0, 200, 30), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = {tuple(batch_indices(seed, 40 * epoch, 40, 40).tolist()) for seed in range(4) for epoch in range(5)}
    assert len(orders) == 20
    assert tuple(range(40)) not in orders


def test_a_batch_may_be_moved_about_without_harm() -> None:
    """The permutation is kept between calls; nobody may change it."""
    for order in (order_of(10), order_of(10, CLASSES, balance=True)):
        first = order.indices(0, 0, 8)
        wanted = first.clone()
        first.fill_(-1)
        assert torch.equal(order.indices(0, 0, 8), wanted)
    part = batch_indices(0, 0, 8, 10)
    wanted = part.clone()
    part.fill_(-1)
    assert torch.equal(batch_indices(0, 0, 8, 10), wanted)


# --- selection ---


def test_all_pictures_are_in_use_unless_something_is_said() -> None:
    for labels in (None, CLASSES):
        order = order_of(10, labels)
        assert order.count == 10
        assert order.chosen.tolist() == list(range(10))


def test_the_first_n_pictures_are_in_use() -> None:
    assert order_of(10, max_images=4).chosen.tolist() == [0, 1, 2, 3]
    assert order_of(10, max_images=99).count == 10
    assert order_of(10, max_images=4).indices(1, 3, 9).tolist() == batch_indices(1, 3, 9, 4).tolist()


def test_a_subset_is_of_the_named_classes_only() -> None:
    order = order_of(10, CLASSES, subset=("cat", "ant"))
    assert order.chosen.tolist() == [0, 3, 4, 8]
    assert order.indices(5, 0, 400).unique().tolist() == [0, 3, 4, 8]
    assert order.indices(5, 0, 8).tolist() == order.chosen[batch_indices(5, 0, 8, 4)].tolist()


def test_the_limit_counts_the_subset() -> None:
    assert order_of(10, CLASSES, max_images=3, subset=("cat", "ant")).chosen.tolist() == [0, 3, 4]


def test_the_first_pictures_begin_again_where_there_are_fewer() -> None:
    assert order_of(10, CLASSES, subset=("cat",)).first(5).tolist() == [3, 8, 3, 8, 3]
    assert order_of(10).first(3).tolist() == [0, 1, 2]


# --- balance ---


def balanced(counts: list[int], **knobs: int) -> tuple[Order, np.ndarray]:
    """An order over classes of so many pictures each, shuffled, and the class of each picture."""
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    labels = Labels(values.astype(np.int64), tuple(f"class {n}" for n in range(len(counts))))
    return order_of(len(values), labels, balance=True, **knobs), values


@settings(deadline=None, max_examples=40, database=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 10**7), st.integers(0, 9))
def test_each_block_shows_each_class_once_and_each_epoch_of_a_class_each_of_its_pictures_once(
    counts: list[int], block: int, seed: int
) -> None:
    order, values = balanced(counts)
    classes = len(counts)
    blocks = 3 * max(counts)
    shown = order.indices(seed, block * classes, blocks * classes).numpy()
    per_block = values[shown].reshape(blocks, classes)
    assert (np.sort(per_block, axis=1) == np.arange(classes)).all()
    for number, count in enumerate(counts):
        turns = shown[values[shown] == number]  # one a block, from turn `block`
        skipped = -block % count  # until the class's next epoch begins
        for start in range(skipped, blocks - count + 1, count):
            assert sorted(turns[start : start + count]) == np.flatnonzero(values == number).tolist()


@settings(deadline=None, max_examples=40, database=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 5000), st.integers(1, 70))
def test_balance_needs_no_history(counts: list[int], start: int, batch: int) -> None:
    """Two objects, one asked for everything, one only for a batch: a run that goes on sees what it would have seen."""
    whole = balanced(counts)[0].indices(4, 0, start + batch)
    assert torch.equal(balanced(counts)[0].indices(4, start, batch), whole[start:])


def test_the_classes_take_turns_in_another_order_each_time() -> None:
    order, values = balanced([3, 3, 3, 3])
    blocks = values[order.indices(0, 0, 4 * 2000).numpy()].reshape(-1, 4)
    counts = Counter(map(tuple, blocks.tolist()))
    assert len(counts) == 24  # of 4! orders, 83 times each on average
    assert min(counts.values()) > 45
    assert max(counts.values()) < 130


def test_balance_goes_on_across_the_pieces_in_which_it_is_drawn() -> None:
    """The order of the classes is drawn for some thousand positions at once."""
    order, values = balanced([2, 2, 2])
    shown = values[order.indices(0, 0, 30_000).numpy()].reshape(-1, 3)
    assert (np.sort(shown, axis=1) == [0, 1, 2]).all()
    assert len({shown[start : start + 1000].tobytes() for start in range(0, 10_000, 1000)}) == 10


def test_rare_classes_are_shown_as_often_as_frequent_ones() -> None:
    order = order_of(10, CLASSES, balance=True)
    shown = Counter(CLASSES.values[order.indices(0, 0, 3 * 600).numpy()].tolist())
    assert shown == {0: 600, 1: 600, 2: 600}  # and no dog, of which there is none


def test_balance_is_among_the_pictures_in_use() -> None:
    order = order_of(10, CLASSES, max_images=5, subset=("ant", "bee"), balance=True)
    assert order.chosen.tolist() == [0, 1, 2, 4, 5]
    shown = Counter(order.indices(0, 0, 2 * 6 * 10).tolist())
    assert shown == {0: 30, 4: 30, 1: 20, 2: 20, 5: 20}


def test_balance_depends_on_the_seed() -> None:
    order, _ = balanced([5, 5])
    assert len({tuple(order.indices(seed, 0, 10).tolist()) for seed in range(9)}) == 9


# --- mistakes ---


@pytest.mark.parametrize(
    ("labels", "found"), [(None, "no labels"), (Labels(np.zeros((10, 3), np.float32)), "vectors as labels, no classes")]
)
def test_classes_are_asked_of_data_that_has_them(labels: Labels | None, found: str) -> None:
    with pytest.raises(UserError, match=f"data.labels asks for classes, but the data has {found}; leave it out"):
        order_of(10, labels, subset=("ant",))
    with pytest.raises(UserError, match=f"data.balance asks for classes, but the data has {found}; leave it out"):
        order_of(10, labels, balance=True)


def test_an_unknown_class_is_answered_with_the_nearest_or_with_all() -> None:
    with pytest.raises(UserError, match=r"no class `bees`; did you mean `bee`\?"):
        order_of(10, CLASSES, subset=("ant", "bees"))
    with pytest.raises(UserError, match=r"no class `zebra`; there are ant, bee, cat, dog\."):
        order_of(10, CLASSES, subset=("zebra",))
    many = Labels(CLASSES.values, tuple(str(n) for n in range(1000)))
    with pytest.raises(UserError, match=r"no class `x`; there are 0, 1, .*, 19 and 980 more\."):
        order_of(10, many, subset=("x",))


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(UserError, match="the class `dog` is empty"):
        order_of(10, CLASSES, subset=("ant", "dog"))


# --- several processes ---


@settings(deadline=None, max_examples=50, database=None)
@given(st.integers(1, 8), st.integers(1, 12), st.data())
def test_the_shares_are_the_batch_in_whole_groups(group: int, groups: int, data: st.DataObject) -> None:
    world = data.draw(st.integers(1, groups))
    batch = group * groups
    shares = [share(batch, group, rank, world) for rank in range(world)]
    assert sorted(torch.cat(shares).tolist()) == list(range(batch))
    for rank, samples in enumerate(shares):
        numbers = Counter((samples % groups).tolist())  # sample n is in group n mod groups
        assert numbers == dict.fromkeys(range(rank, groups, world), group)


@settings(deadline=None, max_examples=50, database=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 16), st.data())
def test_a_share_is_cut_into_micro_batches_as_a_batch_is(
    group: int, groups: int, micro_batch: int, data: st.DataObject
) -> None:
    """The parts of a share hold whole groups of the batch, laid out so that D finds them: sample n, group n mod M."""
    world = data.draw(st.integers(1, groups))
    samples = share(group * groups, group, world - 1, world)
    for part in split(len(samples), group, micro_batch):
        rows = samples[part].reshape(group, -1) % groups
        assert (rows == rows[0]).all()
    assert torch.equal(share(group * groups, group, 0, 1), split(group * groups, group, group * groups)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 4, 0, 1), "groups of 4 do not make up a batch of 10"),
        ((8, 4, 0, 3), "process 0 of 3 has no share of 2 groups"),
        ((8, 4, 2, 2), "process 2 of 2 has no share"),
        ((8, 4, -1, 2), "process -1 of 2 has no share"),
    ],
)
def test_shares_that_cannot_be(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share(*arguments)
