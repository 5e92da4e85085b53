"""S3 as moto has it, with the rights of its users enforced: objects may be read, and nothing may be listed.

moto checks signatures and users' policies. Two things that S3 does and moto does not stand in front of it here: objects
of the public bucket are read without credentials, and a missing key is 403 for whoever may not list.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from .serving import Request

PUBLIC_BUCKET = "tickets-public"  # anyone reads its objects
PRIVATE_BUCKET = "tickets-private"  # users alone do
REGION = "us-east-1"

_Key = tuple[str, str]
_Start = Callable[[str, list[tuple[str, str]]], Any]


class S3Server:
    """S3 at a free port, with two buckets and two users. `with S3Server() as server: … server.options()`.

    Attributes:
        url: of the endpoint (`endpoint_url`).
        reader: key and secret of a user who may read objects. May not list.
        writer: key and secret of a user who may read, write and remove objects. May not list either.
        requests: what was asked; the path is `bucket/key`, and `?…` after it where there is a query.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                """Keeps quiet."""

        self.requests: list[Request] = []
        self.reader: _Key = ("", "")
        self.writer: _Key = ("", "")
        self._setting_up = True
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        import boto3
        from moto.core.authorization import enable_iam_authentication

        self._thread.start()
        root = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": REGION}
        s3, iam = (boto3.client(name, endpoint_url=self.url, **root) for name in ("s3", "iam"))
        for bucket in (PUBLIC_BUCKET, PRIVATE_BUCKET):
            s3.create_bucket(Bucket=bucket)
        self.reader = _user(iam, "reader", ["s3:GetObject"])
        self.writer = _user(iam, "writer", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
        s3.close()
        iam.close()
        self._rights = enable_iam_authentication()
        self._rights.__enter__()
        self._setting_up = False
        self.requests.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rights.__exit__(None, None, None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def options(self, who: _Key | None = None) -> dict[str, Any]:
        """Storage options (of s3fs) of a user; without one, of somebody without credentials."""
        if who is None:
            return {"endpoint_url": self.url, "anon": True}
        return {"endpoint_url": self.url, "key": who[0], "secret": who[1]}

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Puts the files of a folder below `bucket/prefix/`, past all rights."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(bucket, f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Puts one object, past all rights."""
        _backend().put_object(bucket, key, data)

    def remove(self, bucket: str, key: str) -> None:
        """Removes one object, past all rights."""
        _backend().delete_object(bucket, key)

    def keys(self, bucket: str) -> list[str]:
        """Keys of a bucket, past all rights."""
        return sorted(_backend().buckets[bucket].keys)

    def _answer(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        bucket, _, key = environ["PATH_INFO"].strip("/").partition("/")
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        if "HTTP_AUTHORIZATION" not in environ and bucket == PUBLIC_BUCKET and key and method in ("GET", "HEAD"):
            environ = self._signed(environ)
        if bucket and not _has_bucket(bucket) and not self._setting_up:
            status, headers, body = _error("404 Not Found", "NoSuchBucket")
        else:
            status, headers, body = self._ask_moto(environ)
        if status.startswith("404") and key and method in ("GET", "HEAD") and _has_bucket(bucket):
            status, headers, body = _error("403 Forbidden", "AccessDenied")
        asked = f"{bucket}/{key}" + (f"?{query}" if query else "")
        num_bytes = 0 if method == "HEAD" else len(body)
        code, wanted = int(status[:3]), environ.get("HTTP_RANGE")
        self.requests.append(Request(method=method, path=asked, range=wanted, status=code, num_bytes=num_bytes))
        start(status, headers)
        return [b"" if method == "HEAD" else body]

    def _ask_moto(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        answer: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
            answer[:] = [status, headers]
            return lambda data: None

        if "HTTP_AUTHORIZATION" not in environ:
            # moto has no answer for somebody without credentials where rights are enforced.
            return _error("403 Forbidden", "AccessDenied")
        body = b"".join(self._moto.get_application(environ)(environ, start))
        return answer[0], answer[1], body

    def _signed(self, environ: dict[str, Any]) -> dict[str, Any]:
        """The same request, signed by the reader."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        url = self.url + quote(environ["PATH_INFO"]) + ("?" + q if (q := environ.get("QUERY_STRING")) else "")
        request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, headers={"Host": environ["HTTP_HOST"]})
        S3SigV4Auth(Credentials(*self.reader), "s3", REGION).add_auth(request)
        signed = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in request.headers.items()}
        return {**environ, **signed, "wsgi.input": io.BytesIO()}


def _user(iam: Any, name: str, actions: list[str]) -> _Key:
    """Makes a user who may do this with objects of both buckets; returns key and secret."""
    arns = [f"arn:aws:s3:::{bucket}/*" for bucket in (PUBLIC_BUCKET, PRIVATE_BUCKET)]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": arns}]}
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def _error(status: str, code: str) -> tuple[str, list[tuple[str, str]], bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body


def _backend() -> Any:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def _has_bucket(bucket: str) -> bool:
    return bucket in _backend().buckets
