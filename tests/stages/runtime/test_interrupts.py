"""Requests to stop: remembered once, as the signal that made them, and joined over ranks."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from dataltt.stages.runtime.distributed import Process
from dataltt.stages.runtime.interrupts import StopRequest, Terminated, terminable
from dataltt.stages.runtime.joint_stop import JointStop


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_request_is_taken_after_the_block(number: signal.Signals, kind: type[BaseException]) -> None:
    stop, before = StopRequest(), signal.getsignal(number)
    done = False
    with pytest.raises(KeyboardInterrupt) as caught, stop.watched():
        _send(number)
        done = True
    assert done
    assert caught.type is kind
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_acts_at_once() -> None:
    stop, done = StopRequest(), False
    with pytest.raises(KeyboardInterrupt), stop.watched():
        _send(signal.SIGINT)
        _send(signal.SIGINT)
        done = True
    assert not done


def test_one_of_many_takes_the_launchers_copy_for_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, done = StopRequest(is_shared=True), 0
    with pytest.raises(KeyboardInterrupt), stop.watched():
        _send(signal.SIGINT)
        _send(signal.SIGINT)
        done += 1
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 60)
        _send(signal.SIGINT)
        done += 1
    assert done == 1


def test_what_another_process_asked_for_is_not_cut_short_by_the_launcher() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop, saved = StopRequest(is_shared=True), False
    try:
        with pytest.raises(Terminated), stop.watched():
            stop.make(signal.SIGTERM)
            _send(signal.SIGTERM)
            saved = True
        _send(signal.SIGTERM)  # another one has ended meanwhile
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert saved


def test_sigterm_ends_what_is_terminable() -> None:
    before, cleaned = signal.getsignal(signal.SIGTERM), False
    with pytest.raises(Terminated), terminable():
        try:
            _send(signal.SIGTERM)
            time.sleep(60)
        finally:
            cleaned = True
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_process_agrees_with_itself() -> None:
    stop = StopRequest()
    joint = JointStop(Process(rank=0, world_size=1, local_world_size=1, device=torch.device("cpu")), stop)
    joint.after_step()
    assert not joint.is_agreed
    stop.make(signal.SIGTERM)
    joint.after_step()
    assert joint.is_agreed
