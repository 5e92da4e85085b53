"""Fixtures of servers: started once a session, and skipped, with the reason, where their package is absent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificate import self_signed
from .gs_server import GoogleServer
from .hub_server import HubServer
from .s3_server import S3Server

# Where the clients look for credentials and for the network.
_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Takes away credentials and proxies that the environment, or the home folder, has."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody vouches for, with its key."""
    pytest.importorskip("cryptography", reason="a certificate needs the package cryptography")
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    pytest.importorskip("s3fs", reason="s3:// needs the package s3fs")
    pytest.importorskip("moto.server", reason="the S3 server of the tests is the package moto[server]")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(_s3_server: S3Server, no_credentials: None) -> S3Server:
    """S3 with a public and a private bucket that nobody may list; its log is empty, its buckets may not be."""
    _s3_server.requests.clear()
    return _s3_server


@pytest.fixture(scope="session")
def _gs_server() -> Iterator[GoogleServer]:
    pytest.importorskip("gcsfs", reason="gs:// needs the package gcsfs")
    pytest.importorskip("gcp_storage_emulator", reason="the server of the tests is the package gcp-storage-emulator")
    with GoogleServer() as server:
        yield server


@pytest.fixture
def gs_server(_gs_server: GoogleServer, no_credentials: None) -> GoogleServer:
    """Google's storage; its bucket may not be empty."""
    return _gs_server


@pytest.fixture
def hub_server(no_credentials: None) -> Iterator[HubServer]:
    """A stand-in for the hub without repositories."""
    with HubServer() as server:
        yield server
