"""Exports in a bucket, against a real server of the S3 protocol on loopback."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmesh.errors import StoreDamaged, StoreError, UsageError
from cmesh.interfaces.exports import OpenedExports, export_store, opened
from cmesh.store import bucket
from cmesh.store.export_read import find
from tests.unit.store.exporting import Node
from tests.unit.store.support import FixedClock, task

pytestmark = [
    pytest.mark.anyio,
    # Of the server's and the client's own libraries.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

BUCKET = "audit"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Start a server and make a bucket; all that cmesh is told of it is in the environment."""
    server = importlib.import_module("moto.server").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    made = importlib.import_module("boto3").client("s3")
    made.create_bucket(Bucket=BUCKET)
    yield made
    made.close()
    server.stop()


async def test_an_export_in_a_bucket_grows_and_answers_and_a_changed_object_is_found(
    client: Any, tmp_path: Path, clock: FixedClock
) -> None:
    node = Node(tmp_path / "laptop", "laptop")
    await node.fill([task(prompt="why?")], clock)
    target = f"s3://{BUCKET}/fleet/audit"
    first = export_store(node.state, target)
    assert first.where.startswith(f"{target}/laptop-")
    assert export_store(node.state, target).put == 0
    clock.advance(24 * 3600)
    await node.fill([task(prompt="and today?")], clock)
    again = export_store(node.state, target)
    assert (again.first_seq, again.put > 0, again.kept > 0) == (first.last_seq + 1, True, True)
    with opened([target], verify=True) as found:
        assert (found.finding, found.nodes[0].last_seq) == (None, node.head[0])
        async with OpenedExports(found.database) as asked:
            rows = (await asked.ask("SELECT prompt FROM tasks ORDER BY seq", 10)).rows
    assert rows == [["why?"], ["and today?"]]
    [one] = find([target])
    key = f"fleet/audit/{first.where.split('/')[-2]}/{one.manifest.rows()['log'][0].path}"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"x" * one.manifest.rows()["log"][0].size)
    with (
        pytest.raises(StoreDamaged, match="is not as it was written"),
        opened([target], verify=False),
    ):
        pass


async def test_a_bucket_that_is_not_there_is_named_and_no_key_is_told(
    client: Any, tmp_path: Path, clock: FixedClock
) -> None:
    del client
    node = Node(tmp_path / "laptop", "laptop")
    await node.fill([task()], clock)
    with pytest.raises(StoreError, match="bucket `another` cannot be used") as caught:
        export_store(node.state, "s3://another/x")
    assert "a-secret-key" not in f"{caught.value} {caught.value.hint}"


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(bucket.importlib, "import_module", missing)
    with pytest.raises(UsageError, match="needs boto3") as caught:
        find(["s3://bucket/x"])
    assert f"{sys.executable} -m pip install 'cmesh[s3]'" == caught.value.hint
