"""Sentences that all processes of a job would say: the first to come says it, through the store that torchrun keeps."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from datetime import timedelta

_WAIT = timedelta(seconds=5)


def say_once(text: str, say: Callable[[str], None]) -> None:
    """Says a text, unless another process of this job does. Without torchrun, or if its store is gone, all say it.

    The others wait until it is said, since torchrun ends all processes as soon as one has ended.
    """
    first, done = True, None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        with contextlib.suppress(RuntimeError, OSError, ValueError, KeyError):
            import torch.distributed as dist

            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(address, port, is_master=False, timeout=_WAIT, wait_for_workers=False)
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            done = dist.PrefixStore(f"said-{attempt}-{hashlib.sha256(text.encode()).hexdigest()}", store)
            first = done.add("count", 1) == 1
    if first:
        say(text)
    if done is not None:
        with contextlib.suppress(RuntimeError):
            if first:
                done.set("done", "1")
            else:
                done.wait(["done"], _WAIT)
