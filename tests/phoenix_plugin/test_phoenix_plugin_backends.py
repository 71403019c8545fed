"""Which backend serves the ranker, and how: chosen in TOML, checked, reported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest

from candidate_pipeline import ITEM_ID, Candidates, Outcome, compose
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline.spec.problems import SpecError
from candidate_pipeline.testing import TopScore
from candidate_pipeline_feed.keys import (
    AUTHOR_ID,
    CREATED_AT,
    HISTORY,
    PREDICTIONS,
    REPOST_AUTHOR_ID,
    REPOST_OF,
    VIEWER_ID,
)
from candidate_pipeline_phoenix.models import RankerModel
from candidate_pipeline_phoenix.ranker import PhoenixRanker
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, Precision, RankerBackend
from phoenix_recsys.backend_registry import hookimpl, manager
from phoenix_recsys.plain_backend import JitRanker

# With these weights, whose logits spread over several units; absolute, of a probability.
TOLERANCE = {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.02}


def predictions(outcome: Outcome) -> Any:
    """What the ranker predicts, by item."""
    return outcome.selected[PREDICTIONS][np.argsort(outcome.item_ids)]


@pytest.fixture(scope="module")
def plain(tiny_feed: Any) -> Outcome:
    """A viewer's feed by the compiled plain forward pass in float32."""
    with tiny_feed.load('backend = "jit"\n') as app:
        outcome: Outcome = app["feed"].run_sync(viewer=101)
    return outcome


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("backend", ["eager", "jit", "kv_cache"])
def test_every_backend_ranks_alike(tiny_feed: Any, plain: Outcome, backend: str, precision: Precision) -> None:
    """A backend and a precision chosen in TOML predict what the plain forward pass does, and are reported."""
    with tiny_feed.load(f'backend = "{backend}"\nprecision = "{precision}"\n') as app:
        found, report = app["feed"].run_sync(viewer=101), app.reports()["ranker_model"]
    assert (report["backend"], report["precision"]) == (backend, precision)
    np.testing.assert_allclose(predictions(found), predictions(plain), atol=TOLERANCE[precision])
    assert np.ptp(predictions(plain), axis=0).min() > 10 * TOLERANCE[precision], "the posts can be told apart"


def test_a_kept_history_is_not_encoded_again(tiny_feed: Any) -> None:
    """The second request of a viewer is a hit with the very same answer; another viewer's first is none."""
    with tiny_feed.load("cache_mib = 1\n") as app:
        first, second = app["feed"].run_sync(viewer=101), app["feed"].run_sync(viewer=101)
        app["feed"].run_sync(viewer=102)
        report = app.reports()["ranker_model"]
    np.testing.assert_array_equal(predictions(first), predictions(second))
    assert (report["prefix_cache_hits"], report["prefix_cache_misses"]) == (1, 2)
    assert report["prefix_cache_hit_rate"] == 0.3333
    assert report["prefix_cache_max_bytes"] == 2**20
    assert 0 < report["prefix_cache_bytes"] < 2**20


def test_buckets_and_caches_reach_the_backend(tiny_feed: Any) -> None:
    """Options in TOML arrive at the backend in its own units."""
    seen: list[BackendOptions] = []

    class Spy(JitRanker):
        def __init__(self, artifact: Artifact, options: BackendOptions | None = None) -> None:
            assert options is not None
            seen.append(options)
            super().__init__(artifact, options)

        def warm_up(self) -> int:
            return 0  # spares the test the compiling

    with registered("spy", Spy):
        text = """
        backend = "spy"
        history_buckets = [4, 8]
        cache_mib = 3
        item_cache_mib = 2
        most_new_events = 5
        batching = { max_requests = 6 }
        """
        with tiny_feed.load(text) as app:
            assert app["feed"].run_sync(viewer=101).item_ids.size
    wanted = BackendOptions("float32", (40,), (4, 8), (1, 2, 4, 6), 3 << 20, 2 << 20, 5)
    assert seen == [wanted]


class registered:
    """A backend that a distribution has registered, for a while."""

    def __init__(self, name: str, factory: Any) -> None:
        class Distribution:
            @hookimpl
            def phoenix_ranker_backends(self) -> Any:
                return {name: factory}

        self._plugin = Distribution()

    def __enter__(self) -> None:
        manager().register(self._plugin)

    def __exit__(self, *_: object) -> None:
        manager().unregister(self._plugin)


def test_a_third_partys_backend_serves(tiny_feed: Any, plain: Outcome) -> None:
    """A backend that another distribution registers is chosen by its name like any other."""

    class Theirs(JitRanker):
        name = "theirs"

    with registered("theirs", Theirs), tiny_feed.load('backend = "theirs"\n') as app:
        found, report = app["feed"].run_sync(viewer=101), app.reports()["ranker_model"]
    assert report["backend"] == "theirs"
    np.testing.assert_allclose(predictions(found), predictions(plain), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            'backend = "kvcache"',
            "backend: no ranker backend is called 'kvcache'; there are eager, jit, kv_cache. Did you mean 'kv_cache'?",
        ),
        ('precision = "float16"', "wanted one of 'float32', 'bfloat16', 'int8', found the string 'float16'"),
        ("history_buckets = [8, 0]", "wanted at least 1, found the integer 0"),
        ("history_buckets = []", "history_buckets: wanted at least 1 long"),
        ("cache_mib = -1", "cache_mib: wanted at least 0, found the integer -1"),
        ("cache_mib = 0.5", "wanted integer, found the float 0.5"),
        ("batching = { max_requests = 0 }", "max_requests: wanted at least 1, found the integer 0"),
        ("batching = { max_queue = 9 }", "max_queue must hold a call of max_candidates = 4096, found 9"),
    ],
)
def test_wrong_options_are_found_when_the_spec_is_checked(tiny_feed: Any, options: str, message: str) -> None:
    """A wrong option is refused before anything is opened, with what may stand there."""
    with pytest.raises(SpecError) as caught:
        tiny_feed.load(options + "\n")
    assert message in str(caught.value)


def test_checking_a_backends_name_is_cheap(tiny_feed: Any) -> None:
    """Loading a spec knows the backends by name without importing JAX."""
    code = (
        "import sys; from candidate_pipeline import load; load('pipelines.toml'); "
        "print([name for name in ('jax', 'haiku') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def refusing(artifact: Artifact, options: BackendOptions) -> RankerBackend:
    """A backend that cannot do what is asked of it."""
    raise ValueError(f"precision: wanted float32, found {options.precision}")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            refusing,
            r"the backend 'odd' cannot serve .*ranker with precision = 'int8', cache_mib = 1: precision: wanted "
            r"float32, found int8\. Change the option that it names, leave it at its default, or choose another",
        ),
        ("module_that_is_not:Ranker", "backend: backend 'odd' of .* importing module_that_is_not:Ranker failed"),
        (lambda artifact, options: 3, "backend: backend 'odd' of .* made a int, no RankerBackend"),
    ],
)
def test_a_backend_that_cannot_serve_says_why(tiny: Any, factory: Any, message: str) -> None:
    """What a backend refuses, or that it cannot be imported, is a misconfiguration that names the option."""
    with registered("odd", factory), pytest.raises(MisconfigurationError, match=message):
        RankerModel(tiny.data, backend="odd", precision="int8", cache_mib=1).open()


@attrs.define
class Watched:
    """A backend that tells of its preparations."""

    backend: Any
    threads: list[int] = attrs.field(factory=list)
    prepared: threading.Event = attrs.field(factory=threading.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def prepare(self, user_id: int, history: Any) -> Any:
        """Prepare, and say so."""
        viewer = self.backend.prepare(user_id, history)
        self.threads.append(threading.get_ident())
        self.prepared.set()
        return viewer


@pytest.fixture
def watched(tiny: Any) -> Iterator[tuple[RankerModel, Watched]]:
    """The open ranker resource, watched."""
    model = attrs.evolve(tiny.ranker)
    model._served, model._heads = Watched(tiny.ranker.served), tiny.ranker.heads
    yield model, model._served
    model._served = model._heads = None


def test_the_history_is_encoded_beside_the_sources(tiny: Any, watched: Any) -> None:
    """A source that ends only when the viewer is encoded does end; the scorer uses that and encodes nothing."""
    model, backend = watched

    @attrs.frozen
    class Patient:
        reads = ()
        writes = (AUTHOR_ID, CREATED_AT, REPOST_OF, REPOST_AUTHOR_ID)

        async def fetch(self, query: Any, ctx: Any) -> Candidates:
            assert await asyncio.to_thread(backend.prepared.wait, 20)
            ids = np.arange(1, 6)
            nobody = np.zeros(5, bool)
            return Candidates.of(
                ITEM_ID(ids),
                AUTHOR_ID(ids),
                CREATED_AT(ids),
                REPOST_OF(ids, valid=nobody),
                REPOST_AUTHOR_ID(ids, valid=nobody),
            )

    app = compose(
        "feed",
        sources=[Patient()],
        scorers=[PhoenixRanker(model)],
        selector=TopScore(reads=()),
        inputs={"viewer": VIEWER_ID, "history": HISTORY},
    )

    async def main() -> tuple[Outcome, int]:
        async with app:
            return await app["feed"].run(viewer=101, history=tiny.history([1, 2])), threading.get_ident()

    outcome, loop_thread = asyncio.run(main())
    assert outcome.selected.valid(PREDICTIONS).all()
    assert len(backend.threads) == 1
    assert backend.threads[0] != loop_thread


def test_run_shows_backend_and_hit_rate(
    tiny_feed: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`candidate-pipeline run --repeat` prints the backend, its precision and how often the history was found."""
    (tmp_path / "feed.toml").write_text(
        tiny_feed.text.replace('"tiny.posts"', '"thunder.source"').replace("feed.history", 'feed.history", "feed.graph')
        + 'precision = "bfloat16"\n[resources.posts]\nuse = "thunder.store"\n'
    )
    monkeypatch.setenv("COLUMNS", "300")
    words = ["run", "feed", "--config", str(tmp_path / "feed.toml"), "--data", str(tiny_feed.directory)]
    words = [*words, "--viewer", "101", "--repeat", "4"]
    build_group("candidate-pipeline", dict(BUILTIN)).main(words, standalone_mode=False)
    text = capsys.readouterr().out
    assert "backend kv_cache, precision bfloat16, programs" in text
    assert "prefix cache hits 3, prefix cache extended 0, prefix cache misses 1, prefix cache hit rate 75%" in text


def test_a_compilation_cache_that_others_may_write_to_is_refused(tiny_feed: Any, tmp_path: Any) -> None:
    """The option is named, and what to do about the directory."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(MisconfigurationError, match=r"compilation_cache: .*only its owner may write"):
        tiny_feed.load(f'compilation_cache = "{tmp_path / "open"}"\n').__enter__()
