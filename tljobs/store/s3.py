"""An S3 bucket, or a prefix in one, as store: objects through boto3, columns through Arrow."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tljobs.errors import NameTaken, NotFound, TljobsError, Unreachable
from tljobs.store.base import Entry, Names, Store
from tljobs.store.s3_connect import s3_client, s3_filesystem
from tljobs.store.s3_errors import offset_s, s3_error
from tljobs.store.s3_input import S3Input
from tljobs.store.s3_retry import DEFAULT_LIMITS, Limits, Patience, status

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs as pafs

PROBE_KEY = ".conditional-put-probe"
CREATE_ROUNDS = 3  # a key that was taken and is gone when it is looked at was deleted in between: create it again

T = TypeVar("T")
Pages = list[dict[str, Any]]  # inside Store, `list` is the method


class S3Store(Store):
    """Credentials come from the environment or the instance profile. A server that ignores conditional puts is refused
    at the first commit."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None, limits: Limits = DEFAULT_LIMITS) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.limits = limits
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._client_cache: Any = None
        self._filesystem_cache: Any = None
        self._conditional = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_cache": None, "_filesystem_cache": None}

    def read(self, key: str) -> bytes:
        def get(client: Any) -> bytes:
            body: bytes = client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            return body

        return self._call("reading", key, get)

    def create(self, key: str, data: bytes) -> None:
        self._require_conditional_put()
        for _ in range(CREATE_ROUNDS):
            if self._put_if_absent(key, data):
                return
            try:
                if self.read(key) == data:
                    return
            except NotFound:
                continue
            break
        raise NameTaken("already exists in the store", f"{self.uri}/{key}")

    def put(self, key: str, data: bytes) -> None:
        self._call("writing", key, lambda client: client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data))

    def list(self, prefix: str) -> list[Entry]:
        cut = len(self._full(""))
        pages = self._pages(prefix)
        entries = [Entry(item["Key"][cut:], item["Size"]) for page in pages for item in page.get("Contents", [])]
        return sorted(entries, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Names:
        cut = len(self._full(prefix))
        pages = self._pages(prefix, Delimiter="/")
        return sorted({item["Prefix"][cut:].rstrip("/") for page in pages for item in page.get("CommonPrefixes", [])})

    def delete(self, key: str) -> None:
        self._call("deleting", key, lambda client: client.delete_object(Bucket=self.bucket, Key=self._full(key)))

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return s3_filesystem(self.endpoint_url), self._root()

    def open_input(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        if self._filesystem_cache is None:
            # One attempt: what fails is made again by S3Input, which also knows when to stop.
            self._filesystem_cache = s3_filesystem(self.endpoint_url, attempts=1, limits=self.limits)
        filesystem, path = self._filesystem_cache, f"{self._root()}/{key}"
        file = S3Input(
            lambda: filesystem.open_input_file(path),
            lambda: self._ask_for_a_byte(key),
            lambda error: s3_error(error, "reading", f"{self.uri}/{key}", self.endpoint_url),
            self.limits,
        )
        return pa.PythonFile(file, mode="r")

    def clock_offset_s(self) -> float:
        """This machine's clock minus the server's, to the second."""
        answer = self._call("listing", "", lambda client: client.list_objects_v2(Bucket=self.bucket, MaxKeys=1))
        return offset_s(answer) or 0.0

    def _ask_for_a_byte(self, key: str) -> None:
        """Raises what is wrong with the object or the store."""
        from botocore.exceptions import ClientError

        def get(client: Any) -> None:
            try:
                client.get_object(Bucket=self.bucket, Key=self._full(key), Range="bytes=0-0")["Body"].read()
            except ClientError as error:
                if status(error) != 416:  # an object of no bytes has no first one
                    raise

        self._call("reading", key, get)

    def _pages(self, prefix: str, **options: str) -> Pages:
        def pages(client: Any) -> Pages:
            paginator = client.get_paginator("list_objects_v2")
            return [*paginator.paginate(Bucket=self.bucket, Prefix=self._full(prefix), **options)]

        return self._call("listing", prefix, pages)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _root(self) -> str:
        return "/".join(filter(None, (self.bucket, self.prefix)))

    def _client(self) -> Any:
        if self._client_cache is None:
            self._client_cache = s3_client(self.endpoint_url, self.limits)
        return self._client_cache

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """False if the key exists, be it by a put of ours whose reply was lost."""
        from botocore.exceptions import ClientError

        def put(client: Any) -> bool:
            try:
                client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if status(error) == 412:
                    return False
                if error.response["Error"]["Code"] == "NotImplemented":
                    raise self._unsafe_server() from error
                raise
            return True

        return self._call("creating", key, put)

    def _require_conditional_put(self) -> None:
        """Once per instance: a second conditional put of the same key must fail, or nothing here is a commit."""
        if self._conditional:
            return
        key = f"{PROBE_KEY}-{secrets.token_hex(8)}"
        try:
            self._put_if_absent(key, b"1")
            if self._put_if_absent(key, b"2"):
                raise self._unsafe_server()
        except TljobsError:
            with contextlib.suppress(TljobsError):  # the first error is the one to tell
                self.delete(key)
            raise
        self.delete(key)
        self._conditional = True

    def _unsafe_server(self) -> TljobsError:
        return Unreachable(
            "this S3 server ignores conditional puts (If-None-Match), so two jobs could overwrite each other",
            self.endpoint_url or self.uri,
            "Use a server that honours them, such as AWS S3, MinIO, Ceph or SeaweedFS",
        )

    def _call(self, doing: str, key: str, request: Callable[[Any], T]) -> T:
        """The request's answer, within the limits. Raises our errors for botocore's."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        patience = Patience(self.limits)
        while True:
            try:
                return request(self._client())
            except (ClientError, BotoCoreError, OSError, ResponseParserError) as error:
                if not patience.again(error):
                    raise s3_error(error, doing, f"{self.uri}/{key}", self.endpoint_url) from error
