"""Content-addressed blobs in a folder, in S3 or in memory, through obstore."""

import hashlib
from collections import OrderedDict
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.exceptions import NotFoundError as MissingObject
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from shared.errors import Rejected, Unavailable
from shared.events.values import BlobRef

KEPT_BYTES = 64 * 1024 * 1024


class ObjectBlobs:
    """BlobStore over any object store; what was used last stays in memory, up to 64 MiB."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0

    async def put(self, content: bytes) -> BlobRef:
        """See the port."""
        ref = BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        if ref.sha256 not in self._recent:
            try:
                await self._store.put_async(_path(ref.sha256), content)
            except (BaseError, OSError) as error:
                raise Unavailable(f"the blob store is away: {type(error).__name__}") from error
            self._remember(ref.sha256, content)
        return ref

    async def get(self, ref: BlobRef) -> bytes:
        """See the port."""
        if ref.sha256 in self._recent:
            self._recent.move_to_end(ref.sha256)
            return self._recent[ref.sha256]
        try:
            result = await self._store.get_async(_path(ref.sha256))
            content = bytes(await result.bytes_async())
        except (MissingObject, FileNotFoundError) as error:
            raise Unavailable(f"blob {ref.sha256[:12]} is not in the store") from error
        except (BaseError, OSError) as error:
            raise Unavailable(f"the blob store is away: {type(error).__name__}") from error
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise Rejected(f"blob {ref.sha256[:12]} does not have the content that its name promises")
        self._remember(ref.sha256, content)
        return content

    def _remember(self, sha256: str, content: bytes) -> None:
        if sha256 in self._recent or len(content) > KEPT_BYTES:
            return
        self._recent[sha256] = content
        self._recent_bytes += len(content)
        while self._recent_bytes > KEPT_BYTES:
            _, dropped = self._recent.popitem(last=False)
            self._recent_bytes -= len(dropped)


def open_blobs(url: str) -> ObjectBlobs:
    """The store at a folder's path, `s3://bucket/prefix` (standard AWS_ variables) or `memory://`."""
    if url == "memory://":
        return ObjectBlobs(MemoryStore())
    if "://" in url and not url.startswith("file://"):
        return ObjectBlobs(from_url(url))
    folder = Path(url.removeprefix("file://")).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return ObjectBlobs(LocalStore(folder))


def _path(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"
