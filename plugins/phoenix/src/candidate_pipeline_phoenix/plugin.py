"""What this distribution registers."""

from __future__ import annotations

from candidate_pipeline.plugin import Command, Plugin, hookimpl


@hookimpl
def candidate_pipeline_plugin() -> Plugin:
    """The models, the index over posts, the retrieval source, the ranker and the trainer."""
    return Plugin(
        namespace="phoenix",
        components={
            "source": {"retrieval": "candidate_pipeline_phoenix.retrieval:PhoenixRetrieval"},
            "scorer": {"ranker": "candidate_pipeline_phoenix.ranker:PhoenixRanker"},
            "resource": {
                "retrieval_model": "candidate_pipeline_phoenix.models:RetrievalModel",
                "ranker_model": "candidate_pipeline_phoenix.models:RankerModel",
                "index": "candidate_pipeline_phoenix.index:PostIndex",
            },
        },
        keys="candidate_pipeline_phoenix.keys",
        commands={
            "phoenix train": Command(
                "candidate_pipeline_phoenix.train_command:train",
                help="Train retrieval and ranker on a data directory.",
            ),
            "phoenix quantize": Command(
                "candidate_pipeline_phoenix.quantize_command:quantize",
                help="Write the int8 version of trained models.",
            ),
            "phoenix rebuild-bundled": Command(
                "candidate_pipeline_phoenix.rebuild_command:rebuild_bundled",
                help="Generate the bundled world again and train its models.",
            ),
        },
    )
