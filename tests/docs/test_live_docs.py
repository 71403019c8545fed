"""What `docs/configuration.md` says of reloading holds."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from live_toys import Config, fresh_ledger, spec, toy_registry

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_server_of_the_example_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example serves, answers mistakes as such, and a changed file counts without a restart."""
    match = re.search(r"<!-- checked: live -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = {"__name__": "example"}
    exec(match[1], found)  # noqa: S102 - the document's own code
    monkeypatch.setattr(sys.modules["candidate_pipeline.reloading.live"], "installed", toy_registry)
    config = Config(tmp_path / "pipelines.toml")

    def text(size: int) -> str:
        feed = spec(0).replace("[pipelines.main]", f"[pipelines.for_you]\nresult_size = {size}")
        return feed.replace("{ who =", "{ viewer =")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def ask(line: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(line.encode() + b"\n")
        reply = json.loads(await reader.readline())
        writer.close()
        return reply

    async def main() -> None:
        server = asyncio.create_task(found["main"](config.path, port))
        async with asyncio.timeout(30):
            while not server.done():
                try:
                    assert await ask("42") == {"generation": 0, "items": [5, 4, 3]}
                    break
                except OSError:  # it is not open yet
                    await asyncio.sleep(0.05)
            assert "invalid literal" in (await ask("me"))["error"]
            config.write(text(5))
            while (reply := await ask("42"))["generation"] == 0:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.1)
        assert reply == {"generation": 1, "items": [5, 4, 3, 2, 1]}
        server.cancel()
        await asyncio.wait({server})
        assert server.cancelled()

    config.write(text(3))
    for _ in fresh_ledger():
        asyncio.run(main())
