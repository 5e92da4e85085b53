"""Failures of remote places: one sentence each, with the way out, whatever library they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access import filesystem
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import DatalttError, OptionError, RemoteError, StoreNotFoundError

from ...far.http_server import FileServer
from ...far.serving import unused_port
from ...schema_helpers import Made
from .helpers import with_options

NO_NAME = "no-such-host.invalid"


def _said(place: str, access: Access, kind: type[DatalttError] = RemoteError) -> str:
    """What opening says; with `kind` itself, and not one that derives from it."""
    with pytest.raises(kind) as caught:
        TicketStore.open(place, access)
    assert type(caught.value) is kind
    said = str(caught.value)
    assert "\n" not in said
    assert "Error" not in said  # names of classes are of no use
    return said


@pytest.mark.parametrize("status", [401, 403])
def test_refused(web: FileServer, access: Access, status: int) -> None:
    web.fail("*", status=status)
    assert _said(f"{web.url}/store.zarr", access) == (
        f"{web.url}/store.zarr/zarr.json may not be read with these credentials (the server answers {status}); give "
        "`storage_option='token=…'`, or a machine's user and password in ~/.netrc"
    )
    assert len(web.requests) == 1  # that is not tried again


def test_not_there(web: FileServer, access: Access) -> None:
    assert _said(f"{web.url}/other.zarr", access, StoreNotFoundError) == (
        f"there is no ticket store at {web.url}/other.zarr (it has no zarr.json); check the URL, or ask who published "
        "it"
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_server_has_trouble(web: FileServer, access: Access, status: int) -> None:
    web.fail("*", status=status)
    assert _said(f"{web.url}/store.zarr", access) == (
        f"{web.url}/store.zarr/zarr.json could not be read: the server answered {status}; try again later"
    )
    assert len(web.requests) == 4


def test_no_such_name(access: Access, no_credentials: None) -> None:
    assert _said(f"http://{NO_NAME}/store.zarr", access) == (
        f"http://{NO_NAME} is not a name that can be found; check the URL and the network"
    )


def test_nobody_listens(access: Access, no_credentials: None) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    said = f"{url} refuses connections; check the URL, the port, and that the server runs"
    assert _said(f"{url}/store.zarr", access) == said


def test_an_untrusted_certificate(made: Made, access: Access, certificate: Path, no_credentials: None) -> None:
    with FileServer(made.path.parent, tls=certificate) as web:
        assert _said(f"{web.url}/store.zarr", access) == (
            f"{web.url} has a certificate that cannot be trusted (self-signed certificate); check the name, or give "
            "the authority's certificate by $SSL_CERT_FILE"
        )
        assert web.requests == []


@pytest.mark.long
def test_that_certificate_is_trusted_where_its_authority_is_given(
    made: Made, access: Access, certificate: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    code = "import sys; from dataltt.artifacts_schema import open_store; print(len(open_store(sys.argv[1])))"
    monkeypatch.setenv("DATALTT_CACHE", str(access.cache_folder))
    with FileServer(made.path.parent, tls=certificate) as web:
        command = [sys.executable, "-c", code, f"{web.url}/store.zarr"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "11\n"), done.stderr


def test_no_answer_in_time(web: FileServer, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "READ_S", 0.05)
    web.fail("*", delay_s=30)
    assert _said(f"{web.url}/store.zarr", access) == (
        f"{web.url} did not answer in time ({web.url}/store.zarr/zarr.json); try again later"
    )


def test_an_answer_that_breaks_off(web: FileServer, access: Access) -> None:
    web.fail("*", drop_after_bytes=10)
    said = f"{web.url}/store.zarr/zarr.json broke off while it was read; try again"
    assert _said(f"{web.url}/store.zarr", access) == said


def test_http_where_https_is_spoken(made: Made, access: Access, certificate: Path, no_credentials: None) -> None:
    with FileServer(made.path.parent, tls=certificate) as web:
        url = web.url.replace("https", "http")
        assert _said(f"{url}/s", access) == f"{url}/s/zarr.json broke off while it was read; try again"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            "http://127.0.0.1:99999/a",
            "http://127.0.0.1:99999/a/zarr.json cannot be asked for (Port out of range 0-65535)",
        ),
        ("http:///a", "http:///a/zarr.json cannot be asked for (http:///a/zarr.json)"),
    ],
)
def test_what_is_no_url(url: str, why: str, access: Access, no_credentials: None) -> None:
    assert _said(url, access) == f"{why}; check the URL and `storage_option`"


def test_a_scheme_that_nobody_knows(access: Access) -> None:
    assert _said("gopher://host/store.zarr", access) == (
        "gopher://host/store.zarr cannot be opened (Protocol not known: gopher); dataltt opens folders, zip files, and "
        "http(s)://, s3://, gs:// and hf:// URLs"
    )


@pytest.mark.parametrize("scheme", ["http", "s3", "gs", "hf"])
def test_a_storage_option_that_nobody_knows(scheme: str, access: Access) -> None:
    said = _said(f"{scheme}://datasets/b/c/d", with_options(access, {"colour": "red"}), OptionError)
    assert said.startswith(f"`storage_option='colour=…'` is unknown for {scheme} URLs; known is ")
    assert "red" not in said


_WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
from dataltt.artifacts_schema import open_store
from dataltt.artifacts_schema.errors import RemoteError
for url in sys.argv[2:]:
    try:
        open_store(url)
    except RemoteError as error:
        print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "urls", "extras"),
    [
        ("aiohttp", ["http://h/s", "https://h/s", "hf://datasets/a/b"], ["http", "http", "hf"]),
        ("s3fs", ["s3://b/s"], ["s3"]),
        ("gcsfs", ["gs://b/s"], ["gs"]),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    module: str, urls: list[str], extras: list[str]
) -> None:
    command = [sys.executable, "-c", _WITHOUT, module, *urls]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [
        f"{url} needs {module}, which is not installed; pip install 'dataltt[{extra}]'"
        for url, extra in zip(urls, extras, strict=True)
    ]
