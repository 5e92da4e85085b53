"""Stores in a bucket that nobody may list, on moto's S3 with the rights of its users enforced."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import RemoteError, StoreNotFoundError
from dataltt.artifacts_schema.verify import verify_store

from ...far.http_server import FileServer
from ...far.s3_server import PRIVATE_BUCKET, PUBLIC_BUCKET, S3Server
from ...far.serving import unused_port
from ...schema_helpers import Made
from .helpers import FIRST_TICKETS, everything, everything_in, names_below, with_options

pytestmark = pytest.mark.long  # the server takes seconds to start

WHERE_LOOKED = (
    "they were looked for in `storage_option` (key=…, secret=…, profile=…), $AWS_ACCESS_KEY_ID, $AWS_PROFILE and "
    "~/.aws; a public bucket needs `storage_option='anon=true'`"
)


def _upload(server: S3Server, made: Made, bucket: str) -> str:
    """Puts the store under a name of its own; returns its URL."""
    name = f"{uuid.uuid4().hex}.zarr"
    server.upload(made.path, bucket, name)
    return f"s3://{bucket}/{name}"


def _as_reader(server: S3Server, access: Access) -> Access:
    return with_options(access, server.options(server.reader))


def _said(url: str, access: Access) -> str:
    with pytest.raises(RemoteError) as caught:
        TicketStore.open(url, access)
    return str(caught.value)


@pytest.mark.parametrize("bucket", [PUBLIC_BUCKET, PRIVATE_BUCKET])
def test_a_store_is_the_same_and_nothing_is_listed(
    s3_server: S3Server, made: Made, access: Access, bucket: str
) -> None:
    url = _upload(s3_server, made, bucket)
    options = s3_server.options(s3_server.reader if bucket == PRIVATE_BUCKET else None)
    store = TicketStore.open(url, with_options(access, options))
    assert everything(store) == everything_in(made.path)
    asked = names_below(url.removeprefix("s3://") + "/", s3_server.requests)
    assert set(asked) <= {"zarr.json", *made.manifest.objects}
    assert len(asked) == len(set(asked))
    assert {(r.method, r.status) for r in s3_server.requests} == {("GET", 206)}
    assert [c.name for c in verify_store(url, access=with_options(access, options)) if not c.ok] == []


def test_credentials_of_the_environment_are_found(
    s3_server: S3Server, made: Made, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _upload(s3_server, made, PRIVATE_BUCKET)
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), s3_server.reader, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    assert everything(TicketStore.open(url, access)) == everything_in(made.path)


def test_a_profile_of_the_aws_file_is_found(
    s3_server: S3Server, made: Made, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _upload(s3_server, made, PRIVATE_BUCKET)
    file = access.cache_folder.parent / "credentials"
    key, secret = s3_server.reader
    file.write_text(f"[lab]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    options = {"endpoint_url": s3_server.url, "profile": "lab"}
    assert everything(TicketStore.open(url, with_options(access, options))) == everything_in(made.path)
    assert _said(url, with_options(access, {**options, "profile": "other"})) == (
        f"{url}/zarr.json cannot be read: The config profile (other) could not be found; {WHERE_LOOKED}"
    )


def test_refusals_say_where_credentials_were_looked_for(s3_server: S3Server, made: Made, access: Access) -> None:
    url = _upload(s3_server, made, PRIVATE_BUCKET)
    key, secret = s3_server.reader
    refused = f"{url}/zarr.json may not be read with these credentials or is not there (the server answers 403"
    none, wrong = s3_server.options(), s3_server.options((key, secret[::-1]))
    assert _said(url, with_options(access, none)) == f"{refused}); {WHERE_LOOKED}"
    assert _said(url, with_options(access, wrong)) == f"{refused}, SignatureDoesNotMatch); {WHERE_LOOKED}"
    unknown = s3_server.options(("AKIA0000000000000000", secret))
    assert _said(url, with_options(access, unknown)) == f"{refused}, InvalidAccessKeyId); {WHERE_LOOKED}"
    s3_server.requests.clear()
    said = _said(url, with_options(access, {"endpoint_url": s3_server.url}))
    assert said == f"{url}/zarr.json needs credentials, and there are none; {WHERE_LOOKED}"
    assert s3_server.requests == []
    assert secret not in said


def test_who_may_not_list_is_not_told_missing_from_forbidden(s3_server: S3Server, made: Made, access: Access) -> None:
    url = _upload(s3_server, made, PRIVATE_BUCKET)
    store = TicketStore.open(url, _as_reader(s3_server, access))
    s3_server.remove(PRIVATE_BUCKET, f"{url.rpartition('/')[2]}/{FIRST_TICKETS}")
    with pytest.raises(RemoteError, match=f"{FIRST_TICKETS} may not be read with these credentials or is not there"):
        store.read_tickets(range(2))
    said = _said(f"s3://{PRIVATE_BUCKET}/other.zarr", _as_reader(s3_server, access))
    assert "may not be read with these credentials or is not there" in said


def test_a_bucket_that_is_not_there_is_no_store(s3_server: S3Server, access: Access) -> None:
    with pytest.raises(StoreNotFoundError) as caught:
        TicketStore.open("s3://no-such-bucket/store.zarr", _as_reader(s3_server, access))
    assert str(caught.value) == (
        "there is no ticket store at s3://no-such-bucket/store.zarr (it has no zarr.json); check the URL, or ask who "
        "published it"
    )
    assert not any("?" in r.path for r in s3_server.requests)  # a query lists


@pytest.mark.parametrize(
    ("bucket", "endpoint", "why"),
    [
        ("b_ad b", None, 'Invalid bucket name "b_ad b"'),
        ("good", "localhost:33", "Invalid endpoint: localhost:33"),
    ],
)
def test_what_is_no_bucket_or_endpoint(
    s3_server: S3Server, access: Access, bucket: str, endpoint: str | None, why: str
) -> None:
    options = {**s3_server.options(s3_server.reader), "endpoint_url": endpoint or s3_server.url}
    said = _said(f"s3://{bucket}/s", with_options(access, options))
    assert said == f"s3://{bucket}/s/zarr.json cannot be asked for ({why}); check the URL and `storage_option`"


def test_an_endpoint_that_is_not_there(s3_server: S3Server, access: Access) -> None:
    options = s3_server.options(s3_server.reader)
    refusing = f"http://127.0.0.1:{unused_port()}"
    assert _said("s3://b/s", with_options(access, {**options, "endpoint_url": refusing})) == (
        f"{refusing} refuses connections; check the URL, the port, and that the server runs"
    )
    nowhere = "http://no-such-host.invalid"
    assert _said("s3://b/s", with_options(access, {**options, "endpoint_url": nowhere})) == (
        f"{nowhere} is not a name that can be found; check the URL and the network"
    )


def test_an_endpoint_that_drops_connections_is_tried_again(made: Made, access: Access, no_credentials: None) -> None:
    pytest.importorskip("s3fs", reason="s3:// needs the package s3fs")
    with FileServer(made.path.parent) as web:  # a bucket's objects look the same: /bucket/key
        web.fail(f"store.zarr/{FIRST_TICKETS}", drop_after_bytes=5, times=2)
        web.fail("store.zarr/zarr.json", status=503, times=2)
        options = {"endpoint_url": web.url, "anon": True}
        store = TicketStore.open("s3://store.zarr/", with_options(access, options))
        assert everything(store)["tickets"] == made.column("tickets").tolist()


def test_an_endpoint_with_an_untrusted_certificate(
    made: Made, access: Access, certificate: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="s3:// needs the package s3fs")
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with FileServer(made.path.parent, tls=certificate) as web:
        far = with_options(access, {"endpoint_url": web.url, "anon": True})
        assert _said("s3://store.zarr/", far) == (
            f"{web.url} has a certificate that cannot be trusted (self-signed certificate); check the name, or give "
            "the authority's certificate by $AWS_CA_BUNDLE"
        )
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert len(TicketStore.open("s3://store.zarr/", far)) == 11
