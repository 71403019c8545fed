"""Artifact directories.

Published ones load, ours round-trip, damaged ones are refused with the place and the reason.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.errors import ArtifactError

FILES = ("config.json", "model_params.npz", "embedding_tables.npz")


@pytest.fixture
def copy(fixtures: Path, tmp_path: Path) -> Path:
    """A published-layout ranker directory to damage."""
    shutil.copytree(fixtures / "pipeline_tiny" / "ranker", tmp_path / "ranker")
    return tmp_path / "ranker"


def _edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    entries = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not ...}))


def _edit_arrays(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


def _same(one: Artifact, other: Artifact) -> None:
    assert one.config == other.config
    assert one.hash_params == other.hash_params
    assert one.served_heads == other.served_heads
    assert one.metadata == other.metadata
    assert {m: sorted(e) for m, e in one.params.items()} == {m: sorted(e) for m, e in other.params.items()}
    for module, entries in one.params.items():
        for name, value in entries.items():
            np.testing.assert_array_equal(value, other.params[module][name])
    for mine, theirs in zip(one.float_tables, other.float_tables, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_published_directories_load_unchanged(fixtures: Path) -> None:
    """Each published model loads with its own configuration, bfloat16 and anchored where nothing is said."""
    ranker = load_artifact(fixtures / "pipeline_tiny" / "ranker")
    assert ranker.kind == "ranker"
    assert isinstance(ranker.config, RankerConfig)
    assert (ranker.config.positions, ranker.config.fprop_dtype) == ("anchored", "bfloat16")
    assert (ranker.config.model.widening_factor, ranker.config.model.attn_output_multiplier) == (2.0, 0.125)
    retrieval = load_artifact(fixtures / "pipeline_tiny" / "retrieval")
    assert retrieval.kind == "retrieval"
    assert retrieval.params["~"]["log_temperature"].shape == ()
    assert retrieval.hash_params != ranker.hash_params


def test_upstream_semantics_read_absent_positions_as_slot(fixtures: Path) -> None:
    """Whoever follows the published behaviour says what absent positions mean."""
    found = load_artifact(fixtures / "pipeline_tiny" / "ranker", default_positions="slot")
    assert isinstance(found.config, RankerConfig)
    assert found.config.positions == "slot"


@pytest.mark.parametrize("name", ["small_ranker", "small_retrieval", "published_ranker"])
def test_saving_and_loading_gives_the_same(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An artifact comes back equal, heads and metadata included."""
    artifact: Artifact = request.getfixturevalue(name)
    names = tuple(f"head_{i}" for i in range(artifact.config.num_actions))
    artifact = attrs.evolve(
        artifact,
        config=attrs.evolve(artifact.config, action_names=names),
        served_heads=names[:2],
        metadata={"epochs": 3},
    )
    save_artifact(tmp_path / "model", artifact)
    _same(load_artifact(tmp_path / "model"), artifact)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(FILES)


def test_all_configuration_fields_survive(small_ranker: Artifact, tmp_path: Path) -> None:
    """Fields away from their defaults are recorded."""
    assert isinstance(small_ranker.config, RankerConfig)
    config = attrs.evolve(small_ranker.config, positions="right", dwell_use_log=True, dwell_norm_scale=12.5)
    save_artifact(tmp_path, attrs.evolve(small_ranker, config=config))
    assert load_artifact(tmp_path).config == config


def test_equal_artifacts_give_equal_bytes(small_ranker: Artifact, tmp_path: Path) -> None:
    """Saving twice, over an older version or afresh, gives the same bytes in all files."""
    save_artifact(tmp_path / "a", attrs.evolve(small_ranker, metadata={"old": True}))
    save_artifact(tmp_path / "a", small_ranker)
    shuffled = attrs.evolve(small_ranker, params=dict(reversed(list(small_ranker.params.items()))))
    save_artifact(tmp_path / "b", shuffled)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_half_precision_tables_come_back_as_float32(small_ranker: Artifact, tmp_path: Path) -> None:
    """Tables stored in float16 load as float32 with float16's precision, in half the space."""
    save_artifact(tmp_path / "full", small_ranker)
    save_artifact(tmp_path / "half", small_ranker, table_dtype="float16")
    found = load_artifact(tmp_path / "half").float_tables
    for mine, table in zip(found, small_ranker.float_tables, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, table, rtol=1e-3, atol=1e-6)
    sizes = [(tmp_path / kind / FILES[2]).stat().st_size for kind in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_what_cannot_be_stored_is_refused(small_ranker: Artifact, tmp_path: Path) -> None:
    """NaN, values too large for float16 and missing parameters are refused before anything is written."""
    tables = small_ranker.float_tables
    broken = tables._replace(item=np.full_like(tables.item, 1e6))
    with pytest.raises(ArtifactError, match=r"item_embeddings.*infinite"):
        save_artifact(tmp_path / "x", attrs.evolve(small_ranker, tables=broken), table_dtype="float16")
    poor = {module: entries for module, entries in small_ranker.params.items() if "layer_1" not in module}
    with pytest.raises(ArtifactError, match="decoder_layer_1"):
        save_artifact(tmp_path / "x", attrs.evolve(small_ranker, params=poor))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    """Without one of the three files the error names it."""
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: wanted .*no such file"):
        load_artifact(copy)


@pytest.mark.parametrize("name", FILES[1:])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_never_load_wrongly(name: str, copy: Path, fixtures: Path, data: st.DataObject) -> None:
    """A truncated archive, or one with a flipped byte, is refused or still holds the same values."""
    good = fixtures / "pipeline_tiny" / "ranker"
    content = bytearray((good / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    (copy / name).write_bytes(bytes(content))
    with contextlib.suppress(ArtifactError):
        # A byte that no reader looks at may differ; then nothing else does.
        _same(load_artifact(copy), load_artifact(good))


def test_a_damaged_header_that_the_tokenizer_chokes_on_is_refused(copy: Path) -> None:
    """A changed byte in an array's header that makes Python's tokenizer give up is still an `ArtifactError`."""
    file = copy / "embedding_tables.npz"
    np.savez(file, user_embeddings=np.zeros(30_000, np.float32))
    file.write_bytes(file.read_bytes().replace(b"(30000,)", b"(30000,("))
    with pytest.raises(ArtifactError, match=r"embedding_tables\.npz.*TokenError"):
        load_artifact(copy)


PARAMS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("missing", lambda a: a.pop("phoenix_model/unembeddings"), r"unembeddings: wanted a parameter of shape \[32, 19\]"),
    ("extra", lambda a: a.update({"phoenix_model/more": np.zeros(2, np.float32)}), "more: wanted no such parameter"),
    (
        "shape",
        lambda a: a.update({"phoenix_model/unembeddings": np.zeros((32, 18), np.float32)}),
        r"unembeddings: wanted shape \[32, 19\], found \[32, 18\]",
    ),
    ("nan", lambda a: a["phoenix_model/unembeddings"].__setitem__((3, 4), np.nan), r"first at \[3, 4\]"),
    (
        "integers",
        lambda a: a.update({"phoenix_model/unembeddings": np.zeros((32, 19), np.int64)}),
        "wanted floating point numbers, found int64",
    ),
    ("nothing", lambda a: a.clear(), "wanted parameters under phoenix_model"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in PARAMS], ids=[case[0] for case in PARAMS])
def test_wrong_parameters_are_named(change: Callable[[dict[str, Any]], Any], message: str, copy: Path) -> None:
    """A missing, surplus, misshapen, non-finite or non-float parameter is named with what was wanted."""
    _edit_arrays(copy / FILES[1], change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(copy)
    assert caught.value.path == copy / FILES[1]
    assert caught.value.advice


def test_pickled_objects_are_never_read(copy: Path) -> None:
    """An archive with Python objects is refused without unpickling."""
    _edit_arrays(copy / FILES[1], lambda a: a.update({"phoenix_model/unembeddings": np.array([print], object)}))
    with pytest.raises(ArtifactError, match="pickled Python objects"):
        load_artifact(copy)


def test_tables_must_fit_the_configuration(copy: Path) -> None:
    """Tables of other sizes, other types or other names are refused."""
    path = copy / FILES[2]
    _edit_arrays(path, lambda a: a.update({"item_embeddings": a["item_embeddings"][:-1]}))
    with pytest.raises(ArtifactError, match=r"item_embeddings: wanted .*\[200, 32\].*found float32 \[199, 32\]"):
        load_artifact(copy)
    _edit_arrays(path, lambda a: a.pop("item_embeddings"))
    with pytest.raises(ArtifactError, match=r"item_embeddings: wanted .*no such entry"):
        load_artifact(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emb_size": ...}, "emb_size: wanted a whole number"),
        ({"emb_size": 10**12}, "emb_size: wanted a whole number from 1 to 65536"),
        ({"emb_size": "32"}, "found '32'"),
        ({"num_layers": True}, "num_layers: wanted a whole number"),
        ({"num_layers": 3}, "decoder_layer_2"),
        ({"key_size": 15}, "possible attention shape"),
        ({"fprop_dtype": "float64"}, "fprop_dtype: wanted one of bfloat16, float32"),
        ({"positions": "left"}, "positions: wanted one of anchored, right, slot"),
        ({"kind": "retrieval"}, "kind: wanted ranker"),
        ({"hash_params": {}}, "hash_params.user_modulus"),
        ({"user_vocab_size": 49}, "user_embeddings: wanted"),
        ({"action_names": ["a"]}, "action_names: wanted 19 names"),
        ({"served_heads": ["a", "a"]}, "served_heads: wanted distinct names"),
        ({"content_sha256": "0"}, "content_sha256: wanted the checksum"),
        ({"metadata": 3}, "metadata: wanted an object"),
        ({"dwell_use_log": 1}, "dwell_use_log: wanted true or false"),
        ({"dwell_norm_scale": -1}, "dwell_norm_scale: wanted a positive number"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, object], message: str, copy: Path) -> None:
    """Every wrong entry of config.json is named with what was wanted, absurd sizes included."""
    _edit_config(copy, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(copy)


@pytest.mark.parametrize(("text", "message"), [("{", "valid JSON"), ("[1]", "one JSON object")])
def test_config_that_is_no_object_is_refused(text: str, message: str, copy: Path) -> None:
    """Broken JSON and other JSON are told apart."""
    (copy / FILES[0]).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(copy)


def test_the_other_model_is_refused(fixtures: Path) -> None:
    """Asking for a retrieval model and finding a ranker says so."""
    with pytest.raises(ArtifactError, match="wanted a retrieval model, found a ranker model"):
        load_artifact(fixtures / "pipeline_tiny" / "ranker", kind="retrieval")


def test_files_of_two_versions_are_refused(small_ranker: Artifact, small_retrieval: Artifact, tmp_path: Path) -> None:
    """A directory whose tables were swapped for others of the same shape is noticed by its checksum."""
    save_artifact(tmp_path / "a", small_ranker)
    save_artifact(tmp_path / "b", small_retrieval)
    shutil.copy(tmp_path / "b" / FILES[2], tmp_path / "a" / FILES[2])
    with pytest.raises(ArtifactError, match="content_sha256"):
        load_artifact(tmp_path / "a")


def test_the_error_reads_as_one_sentence_per_fact(copy: Path) -> None:
    """The message holds the place, what was wanted, what was found, and what to do."""
    _edit_config(copy, emb_size=0)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(copy)
    assert str(caught.value) == (
        f"{copy / 'config.json'}: emb_size: wanted a whole number from 1 to 65536, found 0. "
        "Correct the entry, or rebuild the model."
    )
