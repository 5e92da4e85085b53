"""The commands of docs/sharing.md, in their order, against a real S3 server: lab A publishes, lab B trains."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore, read_manifest

from .far.s3_server import PUBLIC_BUCKET, REGION, S3Server
from .helpers import REPOSITORY, fashion_samples, make_shards, run_cli, save_selector_weights

PAGE = REPOSITORY / "docs/sharing.md"
# The page names models that take hours here.
MODELS = {"deit_b": "vit_fashion", "deit_s": "vit_fashion"}
SETTINGS = """
[train]
epochs = 1
batch_size = 8
workers = 0
"""


def commands(heading: str) -> list[list[str]]:
    """The commands below a heading of the page, each as its arguments."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    blocks = re.findall(r"^```sh\n(.*?)^```$", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    found = []
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        program, *arguments = shlex.split(line.replace("s3://lab-a/", f"s3://{PUBLIC_BUCKET}/walk/"))
        assert program == "dataltt"
        found.append([MODELS.get(word, word) for word in arguments])
    return found


def run_section(heading: str) -> set[str]:
    """Runs the commands below a heading; returns which those were."""
    for arguments in commands(heading):
        result = run_cli(*arguments)
        assert result.code == 0, (arguments, result.out, result.err)
    return {arguments[0] for arguments in commands(heading)}


@pytest.mark.long
@pytest.mark.usefixtures("own_folder")
def test_the_walk(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Path.cwd()
    samples = fashion_samples(32)
    make_shards(here / "imagenet", (8, 8, 8, 8), samples, name="train")
    make_shards(here / "data", (20, 12), samples[::-1], name="imagenet")  # lab B dealt the same images otherwise
    save_selector_weights(here / "selector.safetensors")
    (here / "dataltt.toml").write_text(SETTINGS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("DATALTT_CACHE", str(tmp_path / "cache"))

    def become(user: tuple[str, str]) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user[1])

    become(s3_server.writer)
    assert run_section("Lab A publishes") == {"select", "inspect", "view", "card", "push"}
    become(s3_server.reader)
    assert run_section("Lab B trains") == {"inspect", "verify", "train", "pull", "store"}
    assert run_section("The cache") == {"cache"}
    selected, pulled = read_manifest("half.zarr"), read_manifest("mine.zarr")
    assert pulled == selected
    assert (here / "half.zarr/local.json").exists()
    assert not (here / "mine.zarr/local.json").exists()
    assert str(here) not in (here / "mine.zarr/zarr.json").read_text()
    third = TicketStore.open("third.zarr").manifest
    assert third.parent is not None
    assert (third.num_keep, third.parent[0]["ticket_digest"]) == (15, selected.digest)
    for run in ("half", "third"):
        record = json.loads((here / "runs" / run / "config.json").read_text())
        assert record["ticket_store"]["digest"] == selected.digest
