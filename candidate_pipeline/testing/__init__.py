"""What tests of components need: strategies, checks, fakes and a clock that jumps.

Install it as the extra `candidate-pipeline[testing]`; it needs hypothesis.

* `candidates(*columns)` and `queries(*features)` are hypothesis strategies.
* `check_component(component)` tries everything a component of its kind promises.
* `run_component(component, query, candidates)` calls one as the engine would.
* `StaticSource` is a source of fixed rows; `TopScore` a selector.
* `run_in_virtual_time(coroutine)` runs a coroutine whose sleeps and timeouts take no time.
"""

from __future__ import annotations

from candidate_pipeline.testing.checks import check_component, run_component
from candidate_pipeline.testing.fakes import StaticSource, TopScore
from candidate_pipeline.testing.strategies import candidates, queries
from candidate_pipeline.testing.virtual_time import VirtualTimeLoop, run_in_virtual_time

__all__ = [
    "StaticSource",
    "TopScore",
    "VirtualTimeLoop",
    "candidates",
    "check_component",
    "queries",
    "run_component",
    "run_in_virtual_time",
]
