"""Boards: counts of all ranks, and the rank that gives no sign of life by its number."""

from __future__ import annotations

import threading
import time

import pytest
import torch
import torch.distributed as dist
from dataltt.artifacts_schema import RanksError
from dataltt.stages.runtime.board import Board
from dataltt.stages.runtime.distributed import Process


def _process(rank: int, world_size: int) -> Process:
    return Process(rank=rank, world_size=world_size, local_world_size=world_size, device=torch.device("cpu"))


def test_one_process_counts_alone() -> None:
    board = Board(_process(0, 1), 0.1)
    assert [board.add("images", 3), board.add("images", 2), board.add("shards"), board.add("images")] == [3, 5, 0, 5]
    with board.alive():
        board.wait_for_all(lambda: None)


def test_ranks_count_together_and_wait_for_the_slow() -> None:
    store = dist.HashStore()
    fast, slow = (Board(_process(rank, 2), 0.4, store) for rank in range(2))

    def work() -> None:
        with slow.alive():
            time.sleep(0.6)  # longer than a silent rank is waited for
            slow.add("images", 4)
            slow.wait_for_all(lambda: None)

    thread = threading.Thread(target=work)
    thread.start()
    seen = [fast.add("images", 3)]
    with fast.alive():
        fast.wait_for_all(lambda: seen.append(fast.add("images")))
    thread.join()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (3, 7)


def test_a_silent_rank_is_named() -> None:
    board = Board(_process(0, 3), 0.5, dist.HashStore())
    board.add("here-1", 1)
    with pytest.raises(RanksError, match=r"rank 2 gave no sign of life for 0.5 s.*`rank_timeout_s`"), board.alive():
        board.wait_for_all(lambda: None)
