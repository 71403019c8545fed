"""What this distribution registers."""

from __future__ import annotations

from candidate_pipeline.plugin import Command, Plugin, hookimpl


@hookimpl
def candidate_pipeline_plugin() -> Plugin:
    """Preference learning, the scorer that mixes stakeholders, and the audit of a mix."""
    return Plugin(
        namespace="stakeholder",
        components={
            "scorer": {"scorer": "candidate_pipeline_stakeholder.scorer:StakeholderScorer"},
            "source": {"listed": "candidate_pipeline_stakeholder.listed:ListedItems"},
        },
        keys="candidate_pipeline_stakeholder.keys",
        commands={
            "stakeholder pairs": Command(
                "candidate_pipeline_stakeholder.commands_pairs:pairs",
                help="Make a table of preferences from logged events or declared utilities.",
            ),
            "stakeholder learn": Command(
                "candidate_pipeline_stakeholder.commands_learn:learn",
                help="Learn each stakeholder's utility from a table of preferences.",
            ),
            "stakeholder audit": Command(
                "candidate_pipeline_stakeholder.audit.command:audit",
                help="Show what a mix of stakeholders costs whom, with controls, as a table, JSON or an HTML report.",
            ),
            "stakeholder compare": Command(
                "candidate_pipeline_stakeholder.compare_command:compare",
                help="Rank requests under several mixes: what moved, who gained, who paid, whom it exposes.",
            ),
        },
    )
