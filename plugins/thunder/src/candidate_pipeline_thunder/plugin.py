"""What this distribution registers."""

from __future__ import annotations

from candidate_pipeline.plugin import Plugin, hookimpl


@hookimpl
def candidate_pipeline_plugin() -> Plugin:
    """The store of recent posts and its source."""
    return Plugin(
        namespace="thunder",
        components={
            "source": {"source": "candidate_pipeline_thunder.source:ThunderSource"},
            "resource": {"store": "candidate_pipeline_thunder.store:PostStore"},
        },
    )
