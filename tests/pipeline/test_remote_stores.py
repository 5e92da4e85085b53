"""Commands on stores behind URLs: they say what the folder's say, and a failure in a sentence with flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..far.http_server import FileServer
from ..helpers import SmallStore, run_cli
from ..schema_helpers import Made, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def web(made: Made, own_folder: None, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("DATALTT_CACHE", str(Path.cwd() / "cache"))
    with FileServer(made.path.parent) as server:
        yield server


def test_inspect_and_verify_say_the_same_of_a_url(web: FileServer, made: Made) -> None:
    url = f"{web.url}/store.zarr"
    for command in ("inspect", "verify"):
        near, far = run_cli(command, made.path, "--json"), run_cli(command, url, "--json")
        assert (near.code, far.code) == (0, 0), far.err
        assert json.loads(far.out.replace(url, str(made.path))) == json.loads(near.out)
    assert run_cli("inspect", url, "--json", "--cache-dir", "elsewhere").code == 0
    assert Path("elsewhere/objects").is_dir()


def test_a_refusal_is_a_sentence_with_flags(web: FileServer) -> None:
    web.fail("*", status=403)
    refused = run_cli("inspect", f"{web.url}/store.zarr")
    assert (refused.code, refused.out) == (1, "")
    said = " ".join(refused.err.split())
    assert "may not be read with these credentials (the server answers 403); give --storage-option 'token=…'" in said
    assert "Traceback" not in refused.err


def test_an_option_that_is_no_pair_is_refused(web: FileServer) -> None:
    refused = run_cli("inspect", f"{web.url}/store.zarr", "--storage-option", "anon")
    assert refused.code == 1
    assert "--storage-option anon should be KEY=VALUE" in " ".join(refused.err.split())
    assert web.requests == []


def test_what_was_downloaded_is_there_until_the_cache_is_cleared(web: FileServer) -> None:
    run_cli("verify", f"{web.url}/store.zarr")
    web.clear()
    run_cli("verify", f"{web.url}/store.zarr")
    assert set(web.paths()) == {"store.zarr/zarr.json"}
    assert run_cli("cache", "--clear").code == 0
    assert not list(Path("cache/objects").glob("*/*"))
    run_cli("verify", f"{web.url}/store.zarr")
    assert len(web.requests) > 5


@pytest.mark.long
def test_training_from_afar_is_training_from_the_folder_and_the_second_time_it_needs_no_network(
    small: SmallStore, own_folder: None, no_credentials: None, caplog: pytest.LogCaptureFixture
) -> None:
    def train(tickets: str, shards: str, out: str) -> list[float]:
        result = run_cli(
            *("train", "--tickets", tickets, "--shards", shards, "--epochs", 2, "--log-steps", 1),
            *("--batch-size", 6, "--device", "cpu", "--workers", 2, "--cache-dir", "cache", "--out", out),
        )
        assert result.code == 0, result.err
        lines = Path(out, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines]

    near = train(small.store, small.shards, "near")
    with FileServer(small.folder) as web:
        url, shards = f"{web.url}/{small.path.name}", f"{web.url}/shards/train-{{000000..000002}}.tar"
        far = train(url, shards, "far")
        store = f"{small.path.name}/"
        asked = [r.path for r in web.requests if r.path.startswith(store) and r.path != f"{store}zarr.json"]
        assert len(asked) == len(set(asked))  # two workers and two epochs share what was downloaded once
    again = train(url, small.shards, "again")
    assert near == far == again
    assert len(near) == 12
    assert "going on with the copy in cache" in caplog.text
