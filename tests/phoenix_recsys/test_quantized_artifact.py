"""Quantised artifacts: what is loaded is what quantising in memory gives, and every mistake is told with its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantized_artifacts import assert_same, contents, edit_config, in_memory

from phoenix_recsys import quantized_artifact
from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact, verify_artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.quantize import artifact_sizes, quantize_artifact
from phoenix_recsys.quantized_artifact import array_name, open_params, write_params
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import MATRICES, QuantizedMatrix, quantize_matrix, quantize_params

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MATRIX = "phoenix_model/unembeddings"
VECTOR = "transformer/decoder_layer_0/rms_norm/scale"
PATHS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="module")
def source(small_ranker: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float ranker on disk; not to be changed."""
    directory = tmp_path_factory.mktemp("float") / "ranker"
    save_artifact(directory, attrs.evolve(small_ranker, metadata={"epochs": 3}))
    return directory


@pytest.fixture(scope="module")
def stored(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quantised ranker on disk; not to be changed."""
    directory = tmp_path_factory.mktemp("int8") / "ranker"
    quantize_artifact(source, directory)
    return directory


@pytest.fixture
def copy(stored: Path, tmp_path: Path) -> Path:
    """A quantised ranker to damage."""
    return Path(shutil.copytree(stored, tmp_path / "ranker"))


# --- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_ranker", "small_retrieval", "published_ranker"])
def test_what_is_loaded_is_what_quantising_in_memory_gives(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Streamed from a float artifact or saved from memory, the bytes are the same, and so are the values loaded."""
    artifact: Artifact = attrs.evolve(request.getfixturevalue(name), metadata={"epochs": 3})
    names = tuple(f"head_{i}" for i in range(artifact.config.num_actions))
    config = attrs.evolve(artifact.config, action_names=names)
    artifact = attrs.evolve(artifact, config=config, served_heads=names[:2])
    save_artifact(tmp_path / "float", artifact)
    quantize_artifact(tmp_path / "float", tmp_path / "streamed", chunk_rows=37)
    wanted = in_memory(artifact)
    save_artifact(tmp_path / "saved", wanted)
    loaded = load_artifact(tmp_path / "streamed", kind=artifact.kind)
    save_artifact(tmp_path / "again", loaded)
    assert_same(loaded, wanted)
    assert contents(tmp_path / "streamed") == contents(tmp_path / "saved") == contents(tmp_path / "again")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again", "float", "saved", "streamed"]
    assert {entry.name for entry in (tmp_path / "saved").iterdir()} == set(quantized_artifact.FILES)
    found = [value for entries in loaded.params.values() for value in entries.values()]
    assert any(isinstance(value, QuantizedMatrix) for value in found) == (artifact.kind == "ranker")


def test_published_retrieval_keeps_its_temperature(fixtures: Path, tmp_path: Path) -> None:
    """A parameter without axes comes back as one."""
    quantize_artifact(fixtures / "pipeline_tiny" / "retrieval", tmp_path / "q")
    wanted = load_artifact(fixtures / "pipeline_tiny" / "retrieval").params["~"]["log_temperature"]
    found = load_artifact(tmp_path / "q").params["~"]["log_temperature"]
    assert found.shape == ()
    assert found == wanted


def test_what_a_published_file_leaves_open_stays_open(fixtures: Path, tmp_path: Path) -> None:
    """Quantising does not settle which positions a ranker has whose config.json names none."""
    quantize_artifact(fixtures / "pipeline_tiny" / "ranker", tmp_path / "q")
    for positions in ("slot", "anchored"):
        config = load_artifact(tmp_path / "q", default_positions=positions).config
        assert isinstance(config, RankerConfig)
        assert config.positions == positions


def test_tables_are_quantised_while_they_are_read(source: Path, small_ranker: Artifact, copy: Path) -> None:
    """A float artifact can be loaded with int8 tables right away; a quantised one is as it is."""
    found = load_artifact(source, quantize_tables=True)
    wanted = in_memory(small_ranker)
    assert_same(attrs.evolve(found, params=quantize_params(found.params), metadata={}), wanted)
    assert_same(load_artifact(copy, quantize_tables=True), load_artifact(copy))
    assert isinstance(found.tables, QuantizedTables)
    assert not found.tables.item.rows.flags.writeable


def test_half_precision_tables_are_taken(small_ranker: Artifact, tmp_path: Path) -> None:
    """A float16 artifact quantises as its float32 values do."""
    save_artifact(tmp_path / "half", small_ranker, table_dtype="float16")
    quantize_artifact(tmp_path / "half", tmp_path / "q")
    assert_same(load_artifact(tmp_path / "q"), in_memory(load_artifact(tmp_path / "half")))


def test_everything_is_mapped_and_no_row_is_read(copy: Path) -> None:
    """Arrays are read-only views of the files; garbage in rows and matrices goes unseen by loading."""
    loaded = load_artifact(copy)
    assert isinstance(loaded.tables, QuantizedTables)
    assert isinstance(loaded.params["phoenix_model"]["unembeddings"], QuantizedMatrix)
    arrays = [loaded.tables.item.rows, loaded.tables.item.scales, *loaded.params["phoenix_model"]["unembeddings"]]
    assert all(isinstance(array, np.ndarray) and not array.flags.writeable for array in arrays)
    before = loaded.tables.item.rows[5].copy()
    path = copy / "quantized_tables" / "item_rows.npy"
    with path.open("r+b") as stream:
        stream.seek(128 + 5 * before.size)
        stream.write(bytes([77]) * before.size)
    assert (np.asarray(loaded.tables.item.rows[5]) == 77).all()
    load_artifact(copy)


def test_float_tables_are_asked_for_by_name(source: Path, stored: Path) -> None:
    """Code that needs float tables gets them, or a message when they are quantised."""
    assert load_artifact(source).float_tables.emb_size == 32
    with pytest.raises(TypeError, match="wanted an artifact with float tables"):
        _ = load_artifact(stored).float_tables


def test_an_artifact_is_saved_over_itself(copy: Path) -> None:
    """Arrays mapped from the directory that is replaced stay valid, and the bytes stay the same."""
    before = contents(copy)
    loaded = load_artifact(copy)
    save_artifact(copy, loaded)
    assert contents(copy) == before
    assert_same(load_artifact(copy), loaded)
    assert [entry.name for entry in copy.parent.iterdir()] == ["ranker"]


def test_links_to_artifacts_are_followed(copy: Path, tmp_path: Path) -> None:
    """A directory reached by a link is read and replaced where it lies; the link stays."""
    (tmp_path / "link").symlink_to(copy, target_is_directory=True)
    loaded = load_artifact(tmp_path / "link")
    save_artifact(tmp_path / "link", attrs.evolve(loaded, metadata={"other": 1}))
    assert (tmp_path / "link").is_symlink()
    assert load_artifact(copy).metadata == {"other": 1}


@given(
    params=st.dictionaries(
        PATHS,
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
            elements=st.floats(-9, 9, width=32),
        ),
        max_size=4,
    ),
    names=st.lists(st.sampled_from(sorted(MATRICES)), max_size=2, unique=True),
)
@FEW
def test_parameters_of_any_name_survive(
    params: dict[str, npt.NDArray[np.float32]], names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names become distinct plain file names and come back; values of every shape do too."""
    directory = tmp_path_factory.mktemp("params") / "p"
    written: dict[str, Any] = {**params}
    for name in names:
        written[f"a/~/b.{name}/{name}"] = quantize_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    write_params(directory, written)
    found, _ = open_params(directory)
    assert set(found) == set(written)
    for path, value in written.items():
        assert unquote(array_name(path).replace(".", "/")) == path
        mine, theirs = (v if isinstance(v, QuantizedMatrix) else (v,) for v in (value, found[path]))
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)


# --- verifying ----------------------------------------------------------------------------------------------------


def test_sound_artifacts_verify(source: Path, stored: Path, small_ranker: Artifact) -> None:
    """Both formats are read whole; what was read is told."""
    count = sum(len(entries) for entries in small_ranker.params.values())
    float_side, int8_side = verify_artifact(source), verify_artifact(stored)
    assert float_side.arrays == count + 3
    assert int8_side.arrays > float_side.arrays
    assert int8_side.nbytes < 0.6 * float_side.nbytes
    assert int8_side.unsealed == ()
    assert artifact_sizes(stored).total >= int8_side.nbytes
    assert artifact_sizes(stored).tables < 0.4 * artifact_sizes(source).tables


@pytest.mark.parametrize(
    "file",
    [
        "quantized_tables/item_rows.npy",
        "quantized_tables/author_scales.npy",
        f"quantized_params/{array_name(MATRIX)}+values.npy",
        f"quantized_params/{array_name(VECTOR)}.npy",
    ],
)
def test_one_changed_bit_is_found(file: str, copy: Path) -> None:
    """A bit that changed behind a header is found by verifying, with the file."""
    content = bytearray((copy / file).read_bytes())
    content[-4] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(ArtifactError, match="wanted data with the checksum") as caught:
        verify_artifact(copy)
    assert caught.value.path == copy / file


def test_damaged_float_artifacts_do_not_verify(source: Path, tmp_path: Path) -> None:
    """In the published format a changed byte and a value that is not finite are found without holding the tables."""
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    content = bytearray((damaged / "embedding_tables.npz").read_bytes())
    content[5000] ^= 1
    (damaged / "embedding_tables.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match="content_sha256"):
        verify_artifact(damaged)
    edit_config(damaged, content_sha256=...)
    with pytest.raises(ArtifactError, match="bytes that cannot be read"):
        verify_artifact(damaged)
    broken = Path(shutil.copytree(source, tmp_path / "broken"))
    with np.load(source / "embedding_tables.npz", allow_pickle=False) as archive:
        tables = dict(archive)
    tables["item_embeddings"][71, 2] = np.nan
    np.savez(broken / "embedding_tables.npz", **tables)
    edit_config(broken, content_sha256=...)
    with pytest.raises(ArtifactError, match=r"item_embeddings: wanted finite numbers, .*first at \[71, 2\]"):
        verify_artifact(broken)
    with pytest.raises(ArtifactError, match=r"item_embeddings: wanted finite numbers, .*in row 71, column 2"):
        load_artifact(broken, quantize_tables=True)
    with pytest.raises(ArtifactError, match=r"embedding_tables\.npz: .*item: .* nan in row 71, column 2"):
        quantize_artifact(broken, tmp_path / "q")
    assert not (tmp_path / "q").exists()
