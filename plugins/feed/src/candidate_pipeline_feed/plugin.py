"""What this distribution registers."""

from __future__ import annotations

from candidate_pipeline.plugin import Command, Plugin, hookimpl


@hookimpl
def candidate_pipeline_plugin() -> Plugin:
    """The tables, what is known of viewers and posts, the rules and scorers of a feed, and their evaluation."""
    return Plugin(
        namespace="feed",
        components={
            "resource": {"tables": "candidate_pipeline_feed.store:FeedTables"},
            "query_hydrator": {
                "viewer": "candidate_pipeline_feed.viewer:Viewer",
                "graph": "candidate_pipeline_feed.graph:SocialGraph",
                "history": "candidate_pipeline_feed.history:ViewerHistory",
            },
            "hydrator": {
                "items": "candidate_pipeline_feed.hydrators:Items",
                "authors": "candidate_pipeline_feed.hydrators:Authors",
                "in_network": "candidate_pipeline_feed.hydrators:InNetwork",
            },
            "filter": {
                "drop_duplicates": "candidate_pipeline_feed.filters.duplicates:DropDuplicates",
                "core_data": "candidate_pipeline_feed.filters.core_data:CoreData",
                "age": "candidate_pipeline_feed.filters.age:Age",
                "own_posts": "candidate_pipeline_feed.filters.own_posts:OwnPosts",
                "subscriptions": "candidate_pipeline_feed.filters.subscriptions:SubscribersOnly",
                "already_seen": "candidate_pipeline_feed.filters.already_seen:AlreadySeen",
                "muted_keywords": "candidate_pipeline_feed.filters.muted_keywords:MutedKeywords",
                "blocked_authors": "candidate_pipeline_feed.filters.blocked_authors:BlockedAuthors",
                "dedup_conversation": "candidate_pipeline_feed.filters.conversations:DedupConversation",
            },
            "scorer": {
                "weighted": "candidate_pipeline_feed.scorers.weighted:Weighted",
                "author_diversity": "candidate_pipeline_feed.scorers.author_diversity:AuthorDiversity",
                "out_of_network": "candidate_pipeline_feed.scorers.out_of_network:OutOfNetwork",
                "cold_start": "candidate_pipeline_feed.scorers.cold_start:ColdStart",
                "dwell_regret": "candidate_pipeline_feed.scorers.dwell_regret:DwellRegret",
                "mpn": "candidate_pipeline_feed.scorers.mpn:MultipliedNet",
                "slate_context": "candidate_pipeline_feed.scorers.slate_context:SlateContext",
            },
            "selector": {"top_k": "candidate_pipeline_feed.selectors:TopK"},
        },
        keys="candidate_pipeline_feed.keys",
        commands={
            "data fetch": Command(
                "candidate_pipeline_feed.commands_data:fetch", help="Fetch a public data set into a data directory."
            ),
            "data world": Command(
                "candidate_pipeline_feed.commands_data:world", help="Generate the small social world from a seed."
            ),
            "data check": Command(
                "candidate_pipeline_feed.commands_data:check", help="Check a data directory and describe it."
            ),
            "evaluate": Command(
                "candidate_pipeline_feed.evaluation.command:evaluate",
                help="Measure a pipeline and plain baselines on held-out favourites.",
            ),
        },
    )
