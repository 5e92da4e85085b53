"""Tickets and ranks against a bit-by-bit reading of the format."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from dataltt.artifacts_schema.tickets import (
    bad_ranks,
    bad_tickets,
    mask_to_indices,
    mirror,
    num_ticket_bytes,
    order_to_ranks,
    pack_mask,
    pack_ranks,
    ranks_dtype,
    unpack_mask,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ..schema_helpers import pack_by_hand

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40))


@st.composite
def orders(draw: st.DrawFn) -> npt.NDArray[np.int64]:
    """Orders [R, V, P], each a permutation; P passes the border between uint8 and uint16."""
    num_patches = draw(st.sampled_from([1, 2, 7, 8, 9, 16, 196, 255, 256, 257, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.permuted(np.broadcast_to(np.arange(num_patches), (2, 3, num_patches)), axis=-1)


@pytest.mark.parametrize(
    ("num_patches", "num_bytes"), [(1, 1), (7, 1), (8, 1), (9, 2), (16, 2), (196, 25), (65_536, 8192)]
)
def test_a_ticket_has_a_bit_per_patch_in_whole_bytes(num_patches: int, num_bytes: int) -> None:
    assert num_ticket_bytes(num_patches) == num_bytes


@pytest.mark.parametrize(
    ("num_patches", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16)]
)
def test_ranks_are_bytes_up_to_256_patches(num_patches: int, dtype: npt.DTypeLike) -> None:
    assert ranks_dtype(num_patches) == np.dtype(dtype)
    assert np.iinfo(ranks_dtype(num_patches)).max >= num_patches - 1


def test_the_first_patch_is_the_least_significant_bit_of_the_first_byte() -> None:
    mask = np.zeros((3, 11), dtype=np.bool_)
    mask[0, 0] = mask[1, 7] = mask[2, [1, 8, 10]] = True
    assert pack_mask(mask).tolist() == [[0x01, 0x00], [0x80, 0x00], [0x02, 0x05]]


@given(masks)
def test_packing_is_what_the_format_says_and_unpacks_to_the_same(mask: npt.NDArray[np.bool_]) -> None:
    packed = pack_mask(mask)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(packed, pack_by_hand(mask))
    unpacked = unpack_mask(packed, mask.shape[-1])
    assert unpacked.dtype == np.bool_
    np.testing.assert_array_equal(unpacked, mask)


@given(orders())
def test_ranks_invert_the_order(order: npt.NDArray[np.int64]) -> None:
    num_patches = order.shape[-1]
    ranks = order_to_ranks(order)
    assert ranks.dtype == ranks_dtype(num_patches)
    for lead in np.ndindex(order.shape[:-1]):
        assert [int(ranks[lead][patch]) for patch in order[lead]] == list(range(num_patches))
    np.testing.assert_array_equal(np.argsort(ranks, axis=-1), order)
    assert not bad_ranks(ranks).any()


@given(orders(), st.data())
def test_the_ticket_of_ranks_holds_the_first_of_the_order(order: npt.NDArray[np.int64], data: st.DataObject) -> None:
    num_patches = order.shape[-1]
    num_keep = data.draw(st.integers(1, num_patches))
    packed = pack_ranks(order_to_ranks(order), num_keep)
    kept = mask_to_indices(unpack_mask(packed, num_patches), num_keep)
    np.testing.assert_array_equal(kept, np.sort(order[..., :num_keep], axis=-1))
    assert not bad_tickets(packed, num_patches, num_keep).any()


def test_every_patch_can_be_kept_where_the_count_does_not_fit_the_dtype_of_ranks() -> None:
    packed = pack_ranks(np.arange(256, dtype=np.uint8)[None], 256)
    assert packed.tolist() == [[255] * 32]


def test_kept_patches_are_ascending_indices() -> None:
    mask = np.array([[[True, False, True], [False, True, True]]])
    assert mask_to_indices(mask, 2).tolist() == [[[0, 2], [1, 2]]]


def test_mirroring_swaps_columns_of_a_grid_that_is_not_square() -> None:
    assert mirror(np.arange(6), (2, 3)).tolist() == [2, 1, 0, 5, 4, 3]
    assert mirror(np.arange(6), (3, 2)).tolist() == [1, 0, 3, 2, 5, 4]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32))
def test_mirroring_twice_changes_nothing(height: int, width: int, seed: int) -> None:
    per_patch = np.random.default_rng(seed).integers(0, 2**16, (2, 3, height * width), dtype=np.uint16)
    once = mirror(per_patch, (height, width))
    assert once.dtype == per_patch.dtype
    as_grid = per_patch.reshape(2, 3, height, width)
    for y, x in np.ndindex(height, width):
        np.testing.assert_array_equal(once[..., y * width + x], as_grid[..., y, width - 1 - x])
    np.testing.assert_array_equal(mirror(once, (height, width)), per_patch)


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(0, 2**32))
def test_any_one_bit_more_or_less_is_a_bad_ticket(num_patches: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_keep = int(rng.integers(1, num_patches + 1))
    good = pack_ranks(rng.permutation(num_patches), num_keep)
    assert not bad_tickets(good, num_patches, num_keep)
    for bit in range(len(good) * 8):  # spare bits among them
        flipped = good.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        assert bad_tickets(flipped, num_patches, num_keep), bit


def test_a_spare_bit_is_bad_even_where_the_count_is_right() -> None:
    # 11 patches and 5 spare bits: 3 kept, of which one is patch 11, which is not there.
    tickets = np.array([[0b0000_0111, 0b0000_0000], [0b0000_0011, 0b0000_1000], [0b0000_0011, 0b1000_0000]])
    assert bad_tickets(tickets.astype(np.uint8), 11, 3).tolist() == [False, True, True]


def test_a_row_that_was_never_written_is_a_bad_ticket() -> None:
    assert bad_tickets(np.zeros((2, 3, 1), np.uint8), 8, 1).tolist() == [[True] * 3] * 2


def test_only_the_bad_ones_of_many_tickets_are_named() -> None:
    tickets = pack_ranks(np.tile(np.arange(16), (2, 3, 1)), 4)
    tickets[1, 2, 1] |= 1
    assert bad_tickets(tickets, 16, 4).tolist() == [[False, False, False], [False, False, True]]


@pytest.mark.parametrize(
    ("ranks", "is_bad"),
    [([0, 1, 2, 3], False), ([3, 1, 0, 2], False), ([0, 1, 1, 3], True), ([1, 2, 3, 4], True), ([0] * 4, True)],
)
def test_ranks_are_a_permutation(ranks: list[int], is_bad: bool) -> None:
    assert bad_ranks(np.array([[ranks]], dtype=np.uint8)).tolist() == [[is_bad]]
    assert bad_ranks(np.array([[ranks]], dtype=np.uint16)).tolist() == [[is_bad]]
