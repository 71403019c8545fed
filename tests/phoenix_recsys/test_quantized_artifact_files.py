"""Quantised artifacts: every mistake in the files is told with its place, and writing never harms anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantized_artifacts import assert_same, contents, edit_config, in_memory

from phoenix_recsys.artifact import Artifact, load_artifact, save_artifact, verify_artifact
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.mmap_npy import ArrayDirectoryWriter, open_arrays
from phoenix_recsys.quantize import artifact_sizes, main, quantize_artifact
from phoenix_recsys.quantized_artifact import array_name, write_config
from phoenix_recsys.quantized_tables import KIND as TABLES_KIND
from phoenix_recsys.quantized_tables import QuantizedTables

MATRIX = "phoenix_model/unembeddings"
VECTOR = "transformer/decoder_layer_0/rms_norm/scale"
Arrays = dict[str, npt.NDArray[Any]]


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


# --- mistakes -----------------------------------------------------------------------------------------------------


def _rewrite(directory: Path, part: str, change: Callable[[Arrays, dict[str, Any]], Any], *, seal: bool = True) -> None:
    """Change arrays and meta of a part as a writer would who knows the format, checksums and all."""
    kind = TABLES_KIND if part == "quantized_tables" else "quantized_params"
    found = open_arrays(directory / part, kind)
    arrays, meta = {name: np.array(array) for name, array in found.arrays.items()}, dict(found.meta)
    change(arrays, meta)
    with ArrayDirectoryWriter(directory / part, kind, overwrite=True) as writer:
        for name, array in arrays.items():
            writer.create(name, array.shape[1:], array.dtype).append(array)
        writer.commit(meta)
    if seal:
        write_config(directory, json.loads((directory / "config.json").read_text()))


def _set(name: str, value: Any) -> Callable[[Arrays, dict[str, Any]], Any]:
    return lambda arrays, _: arrays.update({name: np.asarray(value)})


def _put(name: str, place: Any, value: float) -> Callable[[Arrays, dict[str, Any]], Any]:
    return lambda arrays, _: arrays[name].__setitem__(place, value)


def _nothing(arrays: Arrays, meta: dict[str, Any]) -> None:
    arrays.clear()
    meta.update(parameters={})


def _form(path: str, form: Any) -> Callable[[Arrays, dict[str, Any]], Any]:
    return lambda _, meta: meta.update(parameters={**meta["parameters"], path: form})


VALUES, SCALES = f"{array_name(MATRIX)}+values", f"{array_name(MATRIX)}+scales"
PLAIN = array_name(VECTOR)
PARAMS: list[tuple[str, Callable[[Arrays, dict[str, Any]], Any], str]] = [
    ("meta", lambda _, meta: meta.pop("parameters"), "meta.parameters: wanted an object, found None"),
    ("nan", _put(PLAIN, 3, np.nan), rf"{VECTOR}: wanted finite numbers, .*first at \[3\]"),
    ("scale_nan", _put(SCALES, 2, np.inf), rf"{MATRIX}: wanted finite numbers, .*first at \[2\]"),
    ("values_dtype", _set(VALUES, np.zeros((32, 5), np.int16)), f"{MATRIX}: wanted an array .* of int8, found int16"),
    ("scales_dtype", _set(SCALES, np.zeros(5)), f"{MATRIX}: wanted an array .* of float32, found float64"),
    ("scales_shape", _set(SCALES, np.zeros(4, np.float32)), r"wanted values \[in, out\] and scales \[out\]"),
    ("vector_shape", _set(PLAIN, np.zeros(31, np.float32)), rf"{VECTOR}: wanted shape \[32\], found \[31\]"),
    ("vector_dtype", _set(PLAIN, np.zeros(32, np.float16)), f"{VECTOR}: wanted an array .* of float32, found float16"),
    (
        "shape",
        lambda a, _: a.update({VALUES: np.zeros((32, 4), np.int8), SCALES: np.zeros(4, np.float32)}),
        rf"{MATRIX}: wanted shape \[32, 5\], found \[32, 4\]",
    ),
    ("no_values", lambda a, _: a.pop(VALUES), f"{MATRIX}: wanted an array .*, found no such array"),
    ("stray", _set("more", np.zeros(3, np.float32)), "arrays: wanted arrays of the parameters listed only, found more"),
    ("unlisted", lambda _, meta: meta["parameters"].pop(VECTOR), "found transformer.decoder_layer_0.rms_norm.scale"),
    ("form", _form(VECTOR, "int4"), f"{VECTOR}: wanted int8, float32 or scalar, found 'int4'"),
    ("form_list", _form(VECTOR, [1]), f"{VECTOR}: wanted int8, float32 or scalar"),
    ("not_scalar", _form(VECTOR, "scalar"), rf"{VECTOR}: wanted one number, found \[32\]"),
    ("not_float", _form(MATRIX, "float32"), f"{MATRIX}: wanted an array .*, found no such array"),
    (
        "no_matrix",
        lambda a, m: (
            a.update({f"{PLAIN}+values": np.zeros((1, 32), np.int8), f"{PLAIN}+scales": np.zeros(32, np.float32)}),
            a.pop(PLAIN),
            m.update(parameters={**m["parameters"], VECTOR: "int8"}),
        ),
        f"{VECTOR}: wanted float32, as only matrices",
    ),
    (
        "missing",
        lambda a, m: (a.pop(PLAIN), m["parameters"].pop(VECTOR)),
        rf"{VECTOR}: wanted a parameter of shape \[32\], found no such entry",
    ),
    (
        "surplus",
        lambda a, m: (a.update(a=np.zeros(2, np.float32)), m["parameters"].update(a="float32")),
        "a: wanted no such parameter in this model",
    ),
    ("nothing", _nothing, "wanted parameters under phoenix_model"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in PARAMS], ids=[case[0] for case in PARAMS])
def test_wrong_parameters_are_named(change: Callable[[Arrays, dict[str, Any]], Any], message: str, copy: Path) -> None:
    """Parameters that do not fit the model or the format are named, although every checksum fits."""
    _rewrite(copy, "quantized_params", change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(copy)
    assert caught.value.path == copy / "quantized_params" / "manifest.json"
    assert caught.value.advice


def test_tables_must_fit_the_configuration(copy: Path) -> None:
    """Tables with other rows or of another width than config.json says are refused."""
    shrunk = Path(shutil.copytree(copy, copy.with_name("narrow")))

    def fewer(arrays: Arrays, _: dict[str, Any]) -> None:
        arrays.update(item_rows=arrays["item_rows"][1:], item_scales=arrays["item_scales"][1:])

    def narrower(arrays: Arrays, meta: dict[str, Any]) -> None:
        arrays.update({name: array[:, :8] for name, array in arrays.items() if array.ndim == 2})
        meta.update(emb_size=8)

    _rewrite(copy, "quantized_tables", fewer)
    with pytest.raises(ArtifactError, match=r"wanted \[40, 300, 50\] rows for user, item, author.*\[40, 299, 50\]"):
        load_artifact(copy)
    _rewrite(shrunk, "quantized_tables", narrower)
    with pytest.raises(ArtifactError, match=r"wanted rows of width 32 \(emb_size of config.json\), found 8"):
        load_artifact(shrunk)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("quantized_tables", _put("item_scales", 299, np.nan), "item: wanted scales .*, found nan for row 299"),
        ("quantized_tables", _put("user_scales", 3, -1), "user: wanted scales .*, found -1.0 for row 3"),
        ("quantized_tables", _put("author_rows", (7, 1), -128), "author: wanted values .*, found -128 in row 7"),
        ("quantized_params", _put(SCALES, 2, -1), f"{MATRIX}: wanted scales .*, found -1.0 for row 2"),
        ("quantized_params", _put(VALUES, (3, 4), -128), f"{MATRIX}: wanted values .*, found -128 in row 4"),
    ],
)
def test_values_that_quantising_never_gives_do_not_verify(
    part: str, change: Callable[[Arrays, dict[str, Any]], Any], message: str, copy: Path
) -> None:
    """What only reading the data can tell is found by verifying although every checksum fits."""
    _rewrite(copy, part, change)
    load_artifact(copy)
    with pytest.raises(ArtifactError, match=message):
        verify_artifact(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantized_format": 2}, "quantized_format: wanted 1, found 2"),
        ({"quantized_format": True}, "quantized_format: wanted 1, found True"),
        ({"quantized_format": "1"}, "quantized_format: wanted 1, found '1'"),
        ({"quantized_format": 1.0}, "quantized_format: wanted 1, found 1.0"),
        ({"quantized_format": ...}, r"quantized_params: wanted files of one format \(config.json does not say"),
        ({"content_sha256": ...}, "content_sha256: wanted the checksum of the manifests .*, found no such entry"),
        ({"content_sha256": 3}, "content_sha256: wanted the checksum of the manifests .*, found 3"),
        ({"kind": "retrieval"}, "kind: wanted ranker"),
        ({"num_layers": 3}, "decoder_layer_2"),
        ({"emb_size": 31}, "wanted shape .*31.* found .*32"),
        ({"item_vocab_size": 301}, r"wanted \[40, 301, 50\] rows"),
        ({"hash_params": {}}, "hash_params.user_modulus"),
        ({"served_heads": ["a", "a"]}, "served_heads: wanted distinct names"),
        ({"metadata": 3}, "metadata: wanted an object"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, object], message: str, copy: Path) -> None:
    """Every wrong entry of config.json is named with what was wanted."""
    edit_config(copy, **changes)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(copy)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "wanted a configuration file, found no such file"),
        ("quantized_params", "quantized_params/manifest.json: wanted a manifest of arrays, found no such directory"),
        ("quantized_tables", "quantized_tables/manifest.json: wanted a manifest of arrays, found no such directory"),
        ("quantized_params/manifest.json", "wanted a manifest of arrays, found no such file"),
        ("quantized_tables/item_rows.npy", "item_rows.npy: item_rows: wanted .*found no such file"),
        (f"quantized_params/{VALUES}.npy", "values.npy: .*wanted .*found no such file"),
    ],
)
def test_missing_parts_are_named(name: str, message: str, copy: Path) -> None:
    """Without one of its parts an artifact is refused, and the part is named."""
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ArtifactError, match=message):
        load_artifact(copy)
    with pytest.raises(ArtifactError, match="wanted a configuration file"):
        load_artifact(copy.parent / "none")


@pytest.mark.parametrize("name", ["model_params.npz", "embedding_tables.npz"])
def test_both_formats_at_once_are_refused(name: str, copy: Path, source: Path) -> None:
    """A directory with files of both formats is refused whichever its config.json announces."""
    shutil.copy(source / name, copy / name)
    with pytest.raises(ArtifactError, match=rf"{name}: wanted files of one format \(config.json says"):
        load_artifact(copy)


def test_parts_of_two_models_are_refused(copy: Path, small_ranker: Artifact, tmp_path: Path) -> None:
    """Sound tables of another model with the same shapes are noticed by the checksum in config.json."""
    doubled = small_ranker.float_tables._replace(user=2 * np.asarray(small_ranker.float_tables.user))
    other = attrs.evolve(small_ranker, tables=doubled)
    save_artifact(tmp_path / "other", in_memory(other))
    shutil.rmtree(copy / "quantized_tables")
    shutil.copytree(tmp_path / "other" / "quantized_tables", copy / "quantized_tables")
    for call in (load_artifact, verify_artifact):
        with pytest.raises(ArtifactError, match="content_sha256: wanted the checksum of the manifests") as caught:
            call(copy)
        assert "several versions" in caught.value.advice


def test_the_other_model_is_refused(stored: Path) -> None:
    """Asking for a retrieval model and finding a ranker says so."""
    with pytest.raises(ArtifactError, match="wanted a retrieval model, found a ranker model"):
        load_artifact(stored, kind="retrieval")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_load_wrongly(
    data: st.DataObject, stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file cut short or with a changed byte anywhere is refused when loaded or verified, or nothing differs."""
    directory = Path(shutil.copytree(stored, tmp_path_factory.mktemp("damaged") / "a"))
    name = data.draw(st.sampled_from(sorted(contents(stored))))
    content = bytearray((directory / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    (directory / name).write_bytes(bytes(content))
    try:
        found = load_artifact(directory)
        verify_artifact(directory)
    except ArtifactError:
        return
    if name == "config.json":  # its own entries have no checksum: a digit of a constant may be another one
        found = attrs.evolve(load_artifact(stored), params=found.params, tables=found.tables)
    assert_same(found, load_artifact(stored))


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [("user", 40), ("item", 64), ("item", 300), ("author", 50)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_quantisation_leaves_nothing(
    at: tuple[str, int], error: type[BaseException], source: Path, copy: Path
) -> None:
    """Whenever it is interrupted, no new directory is there, none is left over, and an older one is untouched."""
    before = contents(copy)

    def stop(table: str, rows: int, total: int) -> None:
        assert total == {"user": 40, "item": 300, "author": 50}[table]
        if (table, rows) == at:
            raise error

    for target in (copy, copy.parent / "new", copy.parent / "deep" / "new"):
        with pytest.raises(error):
            quantize_artifact(source, target, progress=stop, overwrite=True, chunk_rows=64)
    assert contents(copy) == before
    assert sorted(entry.name for entry in copy.parent.iterdir()) == ["deep", "ranker"]
    assert not any((copy.parent / "deep").iterdir())


def test_an_older_artifact_comes_back_when_the_swap_fails(
    source: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the new directory cannot take the place of the old one, the old one stays."""
    before = contents(copy)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and target == copy:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        quantize_artifact(source, copy, overwrite=True)
    assert contents(copy) == before
    assert [entry.name for entry in copy.parent.iterdir()] == ["ranker"]


def test_a_full_disk_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while tables are written is an `ArtifactError`, and nothing is left."""
    from phoenix_recsys.mmap_npy import ArraySink

    def full(self: ArraySink, block: Any) -> None:
        raise ArtifactError(self.path, None, "room for 9 more bytes", "none", "Free some space.")

    monkeypatch.setattr(ArraySink, "append", full)
    with pytest.raises(ArtifactError, match="wanted room"):
        quantize_artifact(source, tmp_path / "q")
    assert not any(tmp_path.iterdir())


def test_nothing_else_is_replaced(source: Path, copy: Path, small_ranker: Artifact, tmp_path: Path) -> None:
    """Only a quantised artifact is replaced, only when asked; other files and models are never harmed."""
    with pytest.raises(ArtifactError, match="overwrite=True"):
        quantize_artifact(source, copy)
    with pytest.raises(ArtifactError, match=r"found also embedding_tables\.npz, and the directory would be replaced"):
        quantize_artifact(source, source, overwrite=True)
    with pytest.raises(ArtifactError, match="wanted a float artifact, found a quantised one"):
        quantize_artifact(copy, tmp_path / "q")
    (copy / "letter").write_text("dear")
    with pytest.raises(ArtifactError, match="found also letter"):
        quantize_artifact(source, copy, overwrite=True)
    with pytest.raises(ArtifactError, match="found also letter"):
        save_artifact(copy, in_memory(small_ranker))
    with pytest.raises(ArtifactError, match="wanted no quantised artifact in the way"):
        save_artifact(copy, small_ranker)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="something else"):
        quantize_artifact(source, tmp_path / "file", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"found another config\.json"):
        quantize_artifact(source, tmp_path / "other", overwrite=True)
    (tmp_path / "empty").mkdir()
    quantize_artifact(source, tmp_path / "empty", overwrite=True)
    verify_artifact(source)
    verify_artifact(tmp_path / "empty")
    assert (copy / "letter").read_text() == "dear"


def test_parts_that_do_not_fit_are_not_saved(small_ranker: Artifact, tmp_path: Path) -> None:
    """Wrong rows, another width, NaN, numbers JSON lacks and half-quantised models are refused; nothing is written."""
    good = in_memory(small_ranker)
    assert isinstance(good.tables, QuantizedTables)
    narrow = QuantizedTables.quantize(*(np.ones((size, 8), np.float32) for size in (40, 300, 50)))
    matrix = good.params["phoenix_model"]["unembeddings"]
    broken = matrix._replace(scales=np.full_like(matrix.scales, np.nan))
    cases: list[tuple[Mapping[str, Any], str]] = [
        ({"tables": attrs.evolve(good.tables, item=good.tables.user)}, r"wanted \[40, 300, 50\] rows"),
        ({"tables": narrow}, "wanted rows of width 32"),
        (
            {"params": {**good.params, "phoenix_model": {**good.params["phoenix_model"], "unembeddings": broken}}},
            f"{MATRIX}: wanted finite numbers",
        ),
        ({"metadata": {"loss": float("nan")}}, "config.json: wanted numbers that JSON knows"),
        ({"tables": small_ranker.tables}, "wanted floating point numbers beside float tables, found int8"),
    ]
    for changes, message in cases:
        with pytest.raises(ArtifactError, match=message):
            save_artifact(tmp_path / "x", attrs.evolve(good, **changes))
    assert not any(tmp_path.iterdir())
    save_artifact(tmp_path / "float_params", attrs.evolve(good, params=small_ranker.params))
    assert_same(
        load_artifact(tmp_path / "float_params"),
        attrs.evolve(good, params=load_artifact(tmp_path / "float_params").params),
    )


# --- command line -------------------------------------------------------------------------------------------------


def test_the_command_line_quantises_and_verifies(
    source: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints sizes before and after with their ratio, and what it verified."""
    assert main([str(source), str(tmp_path / "deep" / "q"), "--verify"]) == 0
    said = capsys.readouterr().out
    before, after = artifact_sizes(source), artifact_sizes(tmp_path / "deep" / "q")
    for figure in (f"{before.total:,}", f"{after.total:,}", f"{after.total / before.total:.3f}", "verified"):
        assert figure in said
    assert contents(tmp_path / "deep" / "q") == contents(stored)
    assert main([str(source), str(tmp_path / "deep" / "q"), "--overwrite"]) == 0


def test_the_command_line_tells_what_went_wrong(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors end with status 1 and one sentence, an interrupt with 130."""
    assert main([str(tmp_path / "none"), str(tmp_path / "q")]) == 1
    assert "wanted a configuration file, found no such file" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert main([str(source), str(tmp_path / "there")]) == 1
    assert "--overwrite" in capsys.readouterr().err

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phoenix_recsys.quantize.write_tables_from_npz", interrupted)
    assert main([str(source), str(tmp_path / "q")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()
