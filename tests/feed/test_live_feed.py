"""Reloading the shipped pipelines over the bundled world."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline import live
from candidate_pipeline.registry import installed

ROOT = Path(__file__).resolve().parents[2]


def test_a_changed_weight_opens_no_model_and_changes_the_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight counts from the next request on; tables, index and models are opened once, whatever is written."""
    opened: Counter[str] = Counter()
    closed: Counter[str] = Counter()

    def counted(method: Any, name: str, counts: Counter[str]) -> Any:
        def call(self: Any) -> Any:
            counts[name] += 1
            return method(self)

        return call

    for ref in installed().components("resource"):
        cls: Any = ref.load()
        monkeypatch.setattr(cls, "open", counted(cls.open, ref.name, opened))
        monkeypatch.setattr(cls, "close", counted(cls.close, ref.name, closed))
    config = tmp_path / "mine.toml"
    base = f'extends = "{(ROOT / "pipelines.toml").as_posix()}"\n'
    weights = "[components.weighted]\nweights = { reply = 200.0, favorite = 0.0 }\n"

    async def main() -> None:
        config.write_text(base, encoding="utf-8")
        async with live(config, only=["for_you"], poll=None) as app:
            assert set(opened.values()) == {1}
            names = dict(opened)

            async def feed() -> Any:
                return await app["for_you"].run(viewer=42, seed=1)

            before = await feed()
            config.write_text(base + weights, encoding="utf-8")
            reload = await app.reload()
            assert (reload.generation, reload.opened, reload.closing) == (1, (), ())
            assert len(reload.kept) == len(names)
            changed = await feed()
            assert changed.trace.generation == 1
            assert changed.trace.config_hash != before.trace.config_hash
            assert changed.item_ids.tolist() != before.item_ids.tolist()

            config.write_text(f"{base}{weights}[pipelines.for_you]\nhydrators = [\n", encoding="utf-8")
            await app.check()
            failed = await app.check()
            assert failed is not None
            assert failed.problems
            assert (await feed()).item_ids.tolist() == changed.item_ids.tolist()

            config.write_text(base, encoding="utf-8")
            await app.reload()
            again = await feed()
            assert again.item_ids.tolist() == before.item_ids.tolist()
            assert again.trace.config_hash == before.trace.config_hash
            assert dict(opened) == names
            assert not closed
        assert dict(closed) == names

    asyncio.run(main())
