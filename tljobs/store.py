"""A local folder or an S3 prefix behind one small interface: read, create once, put, list, delete.

`create` is the only way to commit: it never overwrites, and a write of ours whose reply was lost is recognised by
reading back (records carry a unique token). `put` is for bytes that nothing refers to yet. Bulk columns are read
through `open_input` (a pyarrow file). Errors of the two back ends come out as tljobs errors that name the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tljobs.errors import NameTaken, NotFound, TljobsError, Unreachable, UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs as pafs

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 60
MAX_ATTEMPTS = 8  # botocore's standard mode doubles its pauses from 0.05 s: a server that restarts is waited for
CONFLICT_PAUSE_S = 0.05
Names = list[str]  # inside Store, `list` is the method
PROBE_KEY = ".conditional-put-probe"


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size_bytes: int


class Store(ABC):
    """The interface. Keys are relative, with '/'. Instances are cheap, picklable and safe to use from threads."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Raises NotFound when there is no such object."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Commits `data` under a new key. Raises NameTaken if the key holds other bytes."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites an object that nothing refers to yet."""

    @abstractmethod
    def list(self, prefix: str) -> list[Entry]:
        """All objects below `prefix` (which ends with '/'), sorted by key."""

    @abstractmethod
    def folders(self, prefix: str) -> Names:
        """Names directly below `prefix` (which ends with '/') that have something below them, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""

    @abstractmethod
    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The pyarrow filesystem and this store's root in it."""

    def exists(self, key: str) -> bool:
        try:
            self.read(key)
        except NotFound:
            return False
        return True

    def open_input(self, key: str) -> pa.NativeFile:
        """A seekable file for columnar reading; one per thread."""
        filesystem, root = self.filesystem()
        try:
            return filesystem.open_input_file(f"{root}/{key}")
        except FileNotFoundError as error:
            raise NotFound("no such object in the store", f"{self.uri}/{key}") from error
        except OSError as error:
            raise Unreachable("the store cannot be read", f"{self.uri}/{key}", str(error)) from error


def open_store(uri: str, endpoint_url: str | None = None) -> Store:
    """Opens a store by its URI: a folder, `file://…` or `s3://bucket/prefix`."""
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise UsageError("a store on S3 needs a bucket", uri, "Use s3://bucket or s3://bucket/prefix")
        return S3Store(bucket, prefix, endpoint_url or os.environ.get("AWS_ENDPOINT_URL"))
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise UsageError("unknown kind of store", uri, "Use a folder or s3://bucket/prefix")
    return LocalStore(Path(rest if separator else uri).expanduser().absolute())


# --------------------------------------------------------------------------------------------------- local folder


class LocalStore(Store):
    """A folder on a local or shared disk. Commits are exclusive links of a file that is already on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return (self.root / key).read_bytes()

    def create(self, key: str, data: bytes) -> None:
        path = self.root / key
        with self._errors(key):
            temporary = self._write_temporary(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise NameTaken("already exists in the store", f"{self.uri}/{key}") from None
            finally:
                temporary.unlink()
            _sync_folder(path.parent)

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        with self._errors(key):
            self._write_temporary(path, data).replace(path)
            _sync_folder(path.parent)

    def list(self, prefix: str) -> list[Entry]:
        base = self.root / prefix
        entries: list[Entry] = []
        with self._errors(prefix):
            for folder, _, files in os.walk(base):
                for path in (Path(folder, name) for name in files if not name.startswith(".tmp-")):
                    with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                        entries.append(Entry(path.relative_to(self.root).as_posix(), path.stat().st_size))
        return sorted(entries, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Names:
        base = self.root / prefix
        with self._errors(prefix):
            if not base.is_dir():
                return []
            return sorted(path.name for path in base.iterdir() if path.is_dir() and any(path.iterdir()))

    def delete(self, key: str) -> None:
        with self._errors(key):
            (self.root / key).unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        from pyarrow import fs as pafs

        return pafs.LocalFileSystem(use_mmap=True), str(self.root)

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".tmp-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.uri}/{key}"
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound("no such object in the store", where) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Unreachable("no space left in the store", where, "Free some space and run it again") from error
            raise Unreachable("the store cannot be used", where, error.strerror or str(error)) from error


def _sync_folder(folder: Path) -> None:
    """Makes a new name in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- S3


class S3Store(Store):
    """An S3 bucket, or a prefix in one. Credentials come from the environment or the instance profile, as boto3 and
    Arrow find them. A server that ignores conditional puts is refused at the first commit."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._client_cache: Any = None
        self._conditional = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_cache": None}

    def read(self, key: str) -> bytes:
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        with self._errors(key):
            for _ in range(MAX_ATTEMPTS - 1):
                # botocore repeats requests, but not the reading of a body that breaks off.
                with contextlib.suppress(IncompleteReadError, ResponseStreamingError):
                    return self._get(key)
            return self._get(key)

    def create(self, key: str, data: bytes) -> None:
        self._require_conditional_put()
        if not self._put_if_absent(key, data) and self.read(key) != data:
            raise NameTaken("already exists in the store", f"{self.uri}/{key}")

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client().put_object(Bucket=self.bucket, Key=self._full(key), Body=data)

    def list(self, prefix: str) -> list[Entry]:
        cut = len(self._full(""))
        entries: list[Entry] = []
        with self._errors(prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix)):
                entries.extend(Entry(item["Key"][cut:], item["Size"]) for item in page.get("Contents", []))
        return sorted(entries, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Names:
        cut = len(self._full(prefix))
        names: set[str] = set()
        with self._errors(prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix), Delimiter="/"):
                names.update(item["Prefix"][cut:].rstrip("/") for item in page.get("CommonPrefixes", []))
        return sorted(names)

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client().delete_object(Bucket=self.bucket, Key=self._full(key))

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return s3_filesystem(self.endpoint_url), "/".join(filter(None, (self.bucket, self.prefix)))

    def _get(self, key: str) -> bytes:
        body: bytes = self._client().get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
        return body

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _client(self) -> Any:
        if self._client_cache is None:
            self._client_cache = s3_client(self.endpoint_url)
        return self._client_cache

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """False if the key exists. A conflict (409) means that another conditional put is under way: try again."""
        from botocore.exceptions import ClientError

        for attempt in range(MAX_ATTEMPTS):
            with self._errors(key):
                try:
                    self._client().put_object(Bucket=self.bucket, Key=self._full(key), Body=data, IfNoneMatch="*")
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return False
                    if status == 409:
                        time.sleep(CONFLICT_PAUSE_S * 2**attempt * random.random())
                        continue
                    if error.response["Error"]["Code"] == "NotImplemented":
                        self._refuse_server()
                    raise
                return True
        raise Unreachable("the store keeps answering 'conflict'", f"{self.uri}/{key}", "Try again later")

    def _require_conditional_put(self) -> None:
        """Once per instance: a second conditional put of the same key must fail, or nothing here is a commit."""
        if self._conditional:
            return
        key = f"{PROBE_KEY}-{secrets.token_hex(8)}"
        self._put_if_absent(key, b"1")
        try:
            if self._put_if_absent(key, b"2"):
                self._refuse_server()
        finally:
            self.delete(key)
        self._conditional = True

    def _refuse_server(self) -> None:
        raise Unreachable(
            "this S3 server ignores conditional puts (If-None-Match), so two jobs could overwrite each other",
            self.endpoint_url or self.uri,
            "Use a server that honours them, such as AWS S3, MinIO, Ceph or SeaweedFS",
        )

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        import botocore.exceptions as boto

        where = f"{self.uri}/{key}"
        try:
            yield
        except boto.ClientError as error:
            raise _s3_error(error, where, self.endpoint_url) from error
        except boto.NoCredentialsError as error:
            hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an instance profile"
            raise Unreachable("no S3 credentials found", where, hint) from error
        except (boto.BotoCoreError, boto.HTTPClientError, OSError) as error:
            hint = f"Check the network and the endpoint {self.endpoint_url or 'of AWS'}"
            raise Unreachable("the store cannot be reached", where, f"{hint} ({type(error).__name__})") from error


def s3_client(endpoint_url: str | None) -> Any:
    """A boto3 client with our time-outs and retries; path-style addresses for servers of one's own."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": MAX_ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    # A session of its own: the default session is shared and not safe to create clients from in threads.
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def s3_filesystem(endpoint_url: str | None) -> pafs.FileSystem:
    """Arrow's S3 filesystem for the same endpoint and credentials."""
    from pyarrow import fs as pafs

    # Arrow uploads without Content-Length otherwise, which some servers answer with 411. Read once by the AWS SDK.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options: dict[str, Any] = {
        "region": region,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "request_timeout": READ_TIMEOUT_S,
    }
    if endpoint_url:
        scheme, _, host = endpoint_url.rpartition("://")
        options |= {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")}
    return pafs.S3FileSystem(**options)


def _s3_error(error: Any, where: str, endpoint_url: str | None) -> TljobsError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchKey":
        return NotFound("no such object in the store", where)
    if code == "404":
        hint = f"Check the endpoint {endpoint_url or 'of AWS'}"
        return Unreachable("what answers here is no S3 server", where, hint)
    if code == "NoSuchBucket":
        return Unreachable("there is no such bucket", where, "Create it, or check the endpoint and the name")
    if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "AuthFailure"):
        return Unreachable("the store refuses these credentials", where, f"Check the access and secret key ({code})")
    if code in ("AccessDenied", "403", "Forbidden"):
        return Unreachable("the store denies access", where, f"Check the keys and the bucket's policy ({code})")
    if code == "RequestTimeTooSkewed":
        return Unreachable("this machine's clock is wrong", where, "Set the clock; S3 refuses requests from far away")
    return Unreachable(f"the store answers {code}", where, f"Endpoint: {endpoint_url or 'AWS'}")
