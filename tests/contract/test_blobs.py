"""One contract for blobs in memory, in a folder and in S3."""

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared.adapters import blobs as adapter
from shared.adapters.blobs import ObjectBlobs, open_blobs
from shared.errors import Rejected, Unavailable
from shared.events.values import BlobRef
from tests.servers.process import free_port

Open = Callable[[], ObjectBlobs]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A private S3: its URL."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    httpx.put(f"{url}/blobs", trust_env=False).raise_for_status()
                    break
                except httpx.TransportError:
                    if time.monotonic() > until or server.poll() is not None:
                        raise
                    time.sleep(0.05)  # the server is starting
            yield url
        finally:
            server.terminate()


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.servers)])
def open_(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the same store, with nothing remembered."""
    if request.param == "memory":
        store = open_blobs("memory://")._store
        return lambda: ObjectBlobs(store)
    if request.param == "folder":
        return lambda: open_blobs(str(tmp_path / "blobs"))
    for name, value in {
        "AWS_ENDPOINT": request.getfixturevalue("s3_endpoint"),
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return lambda: open_blobs(f"s3://blobs/{tmp_path.name}")


@pytest.mark.parametrize("content", [b"", b"adapter", bytes(1 << 20)], ids=["empty", "short", "1MiB"])
async def test_another_process_reads_what_was_put(open_: Open, content: bytes) -> None:
    ref = await open_().put(content)
    assert ref == BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    assert await open_().get(ref) == content


async def test_putting_again_changes_nothing(open_: Open) -> None:
    assert await open_().put(b"same") == await open_().put(b"same")
    store = open_()
    assert await store.put(b"same") == await store.put(b"same")


async def test_an_absent_blob_is_unavailable_until_it_is_put(open_: Open) -> None:
    store, content = open_(), b"later"
    ref = BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    with pytest.raises(Unavailable):
        await store.get(ref)
    await open_().put(content)
    assert await store.get(ref) == content


async def test_corrupted_content_is_rejected(open_: Open) -> None:
    store = open_()
    ref = await store.put(b"what was trained")
    await store._store.put_async(f"{ref.sha256[:2]}/{ref.sha256}", b"what was forged!")
    with pytest.raises(Rejected):
        await open_().get(ref)


async def test_concurrent_gets_count_a_blob_once(open_: Open) -> None:
    ref = await open_().put(b"x" * 1000)
    reader = open_()
    assert set(await asyncio.gather(*(reader.get(ref) for _ in range(8)))) == {b"x" * 1000}
    assert reader._recent_bytes == 1000


async def test_memory_keeps_what_was_used_last(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "KEPT_BYTES", 250)
    store = open_()
    first, second = await store.put(b"a" * 100), await store.put(b"b" * 100)
    await store.get(first)
    await store.put(b"c" * 100)
    assert set(store._recent) >= {first.sha256} and second.sha256 not in store._recent
    assert store._recent_bytes == 200
    assert await store.get(second) == b"b" * 100


async def test_a_store_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from obstore.store import S3Store

    away = ObjectBlobs(
        S3Store(
            "blobs",
            endpoint=f"http://127.0.0.1:{free_port()}",
            access_key_id="test",
            secret_access_key="test",
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        )
    )
    with pytest.raises(Unavailable):
        await away.put(b"x")
    with pytest.raises(Unavailable):
        await away.get(BlobRef(sha256="0" * 64, size_bytes=1))
