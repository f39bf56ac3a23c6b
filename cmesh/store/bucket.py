"""A bucket of an S3-compatible store, by boto3, which `cmesh[s3]` brings. Blocks.

Keys, region and endpoint are boto3's to find, in `AWS_*` variables or `~/.aws`: they are in no
argument, no row and no log of ours.
"""

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmesh.errors import StoreError, UsageError
from cmesh.extras import how_to_add
from cmesh.text import one_line

__all__ = ["Bucket", "open_bucket"]

CONNECT_LIMIT_S = 10
READ_LIMIT_S = 60
ATTEMPTS = 4


class Bucket:
    """One bucket; `client` is boto3's of the service `s3`."""

    def __init__(self, client: Any, name: str, failures: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._name = name
        self._failures = failures

    def listing(self, prefix: str) -> dict[str, int]:
        """Return the keys that begin so, with their sizes."""
        found: dict[str, int] = {}
        with self._told():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=prefix):
                found.update({one["Key"]: int(one["Size"]) for one in page.get("Contents", ())})
        return found

    def read(self, key: str, most: int) -> bytes | None:
        """Return up to `most` bytes of an object; None = there is none."""
        with self._told():
            try:
                return self._client.get_object(Bucket=self._name, Key=key)["Body"].read(most)
            except self._client.exceptions.NoSuchKey:
                return None

    def put(self, file: Path, key: str) -> None:
        """Store a file, in parts when it is long; it is seen when it is whole."""
        with self._told():
            self._client.upload_file(str(file), self._name, key)

    def fetch(self, key: str, path: Path) -> None:
        """Write an object into a local file."""
        with self._told():
            self._client.download_file(self._name, key, str(path))

    def delete(self, key: str) -> None:
        """Remove an object; harmless without it."""
        with self._told():
            self._client.delete_object(Bucket=self._name, Key=key)

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except self._failures as error:
            text = one_line(str(error), 300)
            raise StoreError(
                f"the bucket `{self._name}` cannot be used: {text}",
                hint="look at the AWS_* variables or ~/.aws: keys, region, endpoint, rights",
            ) from error


def open_bucket(name: str) -> Bucket:
    """Return a bucket; nothing is asked of it yet.

    Raises:
        UsageError: `boto3` is not installed.
        StoreError: what it finds of keys, region or endpoint is of no use.
    """
    try:
        boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config")
        errors = importlib.import_module("botocore.exceptions")
        wrong = importlib.import_module("boto3.exceptions")
    except ImportError as error:
        raise UsageError("`s3://` needs boto3", hint=how_to_add("s3")) from error
    failures = (errors.BotoCoreError, errors.ClientError, wrong.Boto3Error, OSError, ValueError)
    limits = config.Config(
        connect_timeout=CONNECT_LIMIT_S,
        read_timeout=READ_LIMIT_S,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    try:
        client = boto3.client("s3", config=limits)
    except failures as error:
        text = one_line(str(error), 300)
        hint = "look at the AWS_* variables or ~/.aws: keys, region, endpoint"
        raise StoreError(f"the bucket `{name}` cannot be used: {text}", hint=hint) from error
    return Bucket(client, name, failures)
