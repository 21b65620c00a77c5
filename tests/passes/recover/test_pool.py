"""Samples for training: each is drawn once an epoch, and keeps its number."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.passes.recover.pool import make_pool

SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=25)


def pool_of(lengths, joinable=True):
    """One sample per entry, told apart by its value; its length is the entry."""
    samples = [{"x": np.full((1, n), i, np.float32)} for i, n in enumerate(lengths)]
    return make_pool(samples, joinable=joinable, fingerprint="made up")


def values(batches):
    return [int(v) for b in batches for v in b.arrays["x"].reshape(len(b), -1)[:, 0]]


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 8), st.booleans(), st.integers(0, 5))
def test_an_epoch_has_every_sample_once(lengths, size, joinable, seed):
    pool = pool_of(lengths, joinable)
    assert len(pool) == len(lengths)
    steps = pool.steps(size)
    epochs = list(itertools.islice(pool.draws(size, seed), 2 * steps))
    for epoch in (epochs[:steps], epochs[steps:]):
        assert sorted(values(epoch)) == list(range(len(lengths)))
    assert all(len(b) <= (size if joinable else 1) for b in epochs)
    assert sorted(values(pool.batches(size))) == list(range(len(lengths)))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 8), st.integers(0, 40), st.integers(0, 5))
def test_draws_go_on_where_they_stopped(lengths, size, start, seed):
    pool = pool_of(lengths)
    everything = list(itertools.islice(pool.draws(size, seed), start + 5))
    later = list(itertools.islice(pool.draws(size, seed, start=start), 5))
    assert values(later) == values(everything[start:])


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.0, 1.0), st.integers(0, 5))
def test_a_split_is_a_partition(lengths, share, seed):
    pool = pool_of(lengths)
    training, held = pool.split(share, seed)
    first, second = values(training.batches(4)), values(held.batches(4))
    assert first
    assert second
    if len(lengths) > 1:
        assert sorted(first + second) == list(range(len(lengths)))
    numbers = np.concatenate([g.numbers for g in (*training.groups, *held.groups)])
    assert set(numbers) == set(range(len(lengths)))


def test_feeds_of_networks_with_a_fixed_batch_are_single_samples():
    pool = pool_of([2, 2, 2], joinable=False)
    (batch, *_) = pool.batches(8)
    assert len(batch) == 1
    assert pool.feeds(batch)["x"].shape == (1, 2)
