"""What `docs/insight.md` says of explanations holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from candidate_pipeline import ITEM_ID, SCORE, Candidates, Query
from candidate_pipeline.explain import Explanation
from candidate_pipeline.explain_steps import GIVEN, UNEXPLAINED, Step
from candidate_pipeline.testing import check_component

INSIGHT = (Path(__file__).resolve().parents[2] / "docs" / "insight.md").read_text(encoding="utf-8")
EXPLAIN = INSIGHT.partition("\n## Explain\n")[2]


def ran(name: str) -> dict[str, Any]:
    """What a block of the document defines."""
    match = re.search(rf"<!-- checked: {name} -->\n```python\n(.*?)```", EXPLAIN, re.DOTALL)
    assert match is not None, f"the document has no block {name!r}"
    found: dict[str, Any] = {}
    exec(match[1], found)  # noqa: S102 - the document's own code
    return found


def test_the_filter_of_the_example_says_why() -> None:
    """The filter keeps its promises, and its reason holds the values that decided."""
    found = ran("reason")
    affordable = found["Affordable"]()
    check_component(affordable, max_examples=20)
    table = Candidates.of(ITEM_ID([1]), found["PRICE"](np.array([12.5], np.float32)))
    query = Query(features={found["BUDGET"]: 9.0})
    assert affordable.reason(query, table.row(0)) == "costs 12.50 EUR, and 9.00 EUR are left"


def test_the_terms_of_the_example_explain_the_score() -> None:
    """Both columns are terms of the score, the second of factors."""
    found = ran("terms")
    assert [(found[name].terms_of, found[name].factor) for name in ("PARTS", "STALE")] == [
        (SCORE, False),
        (SCORE, True),
    ]


def test_the_family_of_the_example_has_members() -> None:
    """A member is one column, named after the family, and a term of the score."""
    found = ran("family")
    buyer = found["PART"]["buyer"]
    assert found["written_for"](["buyer"]) == (SCORE, buyer)
    assert (buyer.name, buyer.terms_of, buyer.doc) == ("shop.part.buyer", SCORE, "What buyer adds to the score.")


def test_every_field_of_an_explanation_is_documented() -> None:
    """The tables name every field of an explanation and of a step, but for what `steps()` gives and the item itself."""
    fields = {field.name for field in attrs.fields(Explanation)} - {"account", "item_id", "pipeline"}
    fields |= {field.name for field in attrs.fields(Step)}
    assert not [name for name in sorted(fields) if not re.search(rf"\b{name}\b", EXPLAIN)]
    assert all(f"`{label}`" in EXPLAIN for label in (GIVEN, UNEXPLAINED))
