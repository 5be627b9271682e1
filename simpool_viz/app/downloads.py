"""Files by address: through Gradio's guard against inner addresses, and of bounded size and time."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path, PurePosixPath

import httpx
import safehttpx
from gradio_client.utils import strip_invalid_filename_characters

LARGEST = 64 * 2**20  # bytes of a photo that is fetched
SECONDS = 30.0
HOPS = 5  # redirects


async def download(address: str, folder: Path) -> str:
    """Fetch a file; every host, those of redirects too, must be a public one.

    Args:
        address: of http or https.
        folder: for the file, which gets a folder of its own there.

    Returns:
        The file.

    Raises:
        ValueError: an address that is not public, an answer without the file, or one that is too large.
        TimeoutError: it takes too long.
        httpx.HTTPError: the server is out of reach.
    """
    return await asyncio.wait_for(_fetched(address, folder), SECONDS)


async def _fetched(address: str, folder: Path) -> str:
    url = httpx.URL(address)
    for _ in range(HOPS):
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the address is none of http or https")
        guarded = safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(url.host))
        async with httpx.AsyncClient(transport=guarded) as client, client.stream("GET", url) as answer:
            if answer.has_redirect_location:
                url = url.join(answer.headers["location"])
                continue
            if answer.status_code != 200:
                raise ValueError(f"the server answers with status {answer.status_code}")
            data = bytearray()
            async for chunk in answer.aiter_bytes():
                data += chunk
                if len(data) > LARGEST:
                    raise ValueError(f"the file has more than {LARGEST / 2**20:.0f} MB")
        place = folder / hashlib.sha256(data).hexdigest()
        place.mkdir(parents=True, exist_ok=True)
        path = place / (strip_invalid_filename_characters(PurePosixPath(url.path).name) or "file")
        path.write_bytes(data)
        return str(path)
    raise ValueError("the address leads on and on")
