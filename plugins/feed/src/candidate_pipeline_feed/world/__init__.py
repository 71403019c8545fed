"""A small social world: a deterministic generator of people, readable posts and two days of events."""

from __future__ import annotations

from candidate_pipeline_feed.world.build import build_world, rebuild_bundled
from candidate_pipeline_feed.world.generate import NOW, Truth, World, generate

__all__ = ["NOW", "Truth", "World", "build_world", "generate", "rebuild_bundled"]
