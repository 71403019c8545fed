"""Watching files: which changes count, when, and which files are looked at."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_toys import Config, Ledger, fresh_ledger, in_virtual_time, spec, stamps

from candidate_pipeline import Live, RequestError, SpecError
from candidate_pipeline.reloading.file_changes import Files


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """What the toys write down."""
    yield from fresh_ledger()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config file."""
    found = Config(tmp_path / "pipelines.toml")
    found.write(spec())
    return found


async def looks(app: Live, number: int = 2) -> list[int]:
    """The generations after some looks at the files."""
    found = []
    for _ in range(number):
        await app.check()
        found.append(app.generation)
    return found


def test_a_change_counts_when_two_looks_agree(ledger: Ledger, config: Config) -> None:
    """A file that still changes is left alone: it is read once it was the same at two looks in a row."""

    async def main() -> None:
        async with config.live() as app:
            assert await looks(app, 3) == [0, 0, 0]
            config.write(spec(1))
            assert await app.check() is None
            config.write(spec(2))
            assert await app.check() is None
            reload = await app.check()
            assert reload is not None
            assert (reload.generation, reload.changed) == (1, True)
            assert await app.check() is None
            assert stamps(await app["main"].run(who=1)) == {2}

    in_virtual_time(main())


def test_a_file_that_is_written_in_pieces(ledger: Ledger, config: Config, logs: Any) -> None:
    """Half a file is no config, and nothing is said about it, as long as the rest comes before the next look."""

    async def main() -> None:
        text = spec(1)
        async with config.live() as app:
            for end in (100, 300, 500):
                config.path.write_text(text[:end], encoding="utf-8")
                await app.check()
            config.path.write_text(text, encoding="utf-8")
            assert await looks(app) == [0, 1]
            assert app.last_error is None

    in_virtual_time(main())
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_a_file_that_is_gone_for_a_moment(ledger: Ledger, config: Config, logs: Any) -> None:
    """An editor that removes the file before it writes it anew is not noticed; a file that stays away is a mistake."""

    async def main() -> None:
        async with config.live() as app:
            await looks(app)
            config.path.unlink()
            await app.check()
            config.write(spec(1))
            assert await looks(app) == [0, 1]
            config.path.unlink()
            assert await looks(app) == [1, 1]
            assert isinstance(app.last_error, SpecError)
            assert app.last_error.problems[0].code == "E100"
            assert stamps(await app["main"].run(who=1)) == {1}
            assert await looks(app) == [1, 1]
            config.write(spec(1))
            assert await looks(app) == [1, 1]
            assert app.last_error is None

    in_virtual_time(main())
    assert len([entry for entry in logs if entry["log_level"] == "error"]) == 1


def test_a_touched_file_is_not_read_into_a_new_generation(ledger: Ledger, config: Config) -> None:
    """New times over the same content are no change, and the same size with other content is."""

    async def main() -> None:
        async with config.live() as app:
            await looks(app)
            os.utime(config.path)
            assert await looks(app) == [0, 0]
            times = config.path.stat()
            config.write(spec(9))
            os.utime(config.path, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert await looks(app) == [0, 1]

    in_virtual_time(main())


def test_it_polls_by_itself(ledger: Ledger, config: Config) -> None:
    """Between two polls nothing happens; a change counts at the second poll after it, a bad one as well."""

    async def main() -> None:
        async with config.live(poll=dt.timedelta(seconds=10)) as app:
            await asyncio.sleep(35)
            config.write(spec(1))
            await asyncio.sleep(10)
            assert app.generation == 0
            await asyncio.sleep(10)
            assert app.generation == 1
            config.write("schema = ")
            await asyncio.sleep(20)
            assert (app.generation, app.failed) == (1, 1)
            await asyncio.sleep(1000)
            assert app.failed == 1
            config.write(spec(2))
            await asyncio.sleep(20)
            assert (app.generation, app.last_error) == (2, None)

    in_virtual_time(main())


def test_the_poll_survives_what_it_does_not_expect(
    ledger: Ledger, config: Config, logs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while looking is logged, and the next poll looks again."""
    look = Files.look
    broken = True

    def sometimes(self: Files, paths: Any) -> Any:
        if broken and Files.look is sometimes:
            raise ZeroDivisionError
        return look(self, paths)

    async def main() -> None:
        nonlocal broken
        async with config.live(poll=dt.timedelta(seconds=1)) as app:
            monkeypatch.setattr(Files, "look", sometimes)
            await asyncio.sleep(3)
            assert any(entry["event"] == "looking at the config failed" for entry in logs)
            broken = False
            config.write(spec(1))
            await asyncio.sleep(3)
            assert app.generation == 1

    in_virtual_time(main())


def test_an_error_that_nobody_expects_keeps_the_config(
    ledger: Ledger, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the reader itself is an error like any other: the config before goes on."""

    async def main() -> None:
        async with config.live() as app:
            with monkeypatch.context() as patched:
                patched.setattr("candidate_pipeline.reloading.generation.load_spec", lambda *_, **__: 1 / 0)
                config.write(spec(1))
                await looks(app)
            assert "ZeroDivisionError" in str(app.last_error)
            assert stamps(await app["main"].run(who=1)) == {0}
            assert (await app.reload()).generation == 1

    in_virtual_time(main())


def test_files_that_the_config_extends_count(ledger: Ledger, config: Config) -> None:
    """A change of a base file counts, and so does one that was missing, or that the config began to extend later."""
    base = Config(config.path.with_name("base.toml"))
    far = Config(config.path.with_name("far.toml"))

    async def main() -> None:
        base.write(spec(1))
        config.write('extends = "base.toml"\n')
        async with config.live() as app:
            assert stamps(await app["main"].run(who=1)) == {1}
            base.write(spec(2))
            assert await looks(app) == [0, 1]
            base.write('extends = "far.toml"\n')
            assert await looks(app) == [1, 1]
            assert "far.toml" in str(app.last_error)
            far.write(spec(3))
            assert await looks(app) == [1, 2]
            far.write(spec(4))
            assert await looks(app) == [2, 3]
            assert stamps(await app["main"].run(who=1)) == {4}
            far.write("[")
            assert await looks(app) == [3, 3]
            far.write(spec(5))
            assert await looks(app) == [3, 4]
            config.write(spec(6))
            assert await looks(app) == [4, 5]
            far.write(spec(7))
            base.path.unlink()
            assert await looks(app, 3) == [5, 5, 5]
            assert app.last_error is None

    in_virtual_time(main())


def test_the_data_directory_counts(ledger: Ledger, config: Config) -> None:
    """`dataset.toml` is watched, also one that comes later: its overrides and its defaults."""
    text = spec(1, tail='[resources.table]\nuse = "toy.table"\npath = "data"')
    folder = config.path.parent / "data"
    folder.mkdir()
    dataset = Config(folder / "dataset.toml")

    async def main() -> None:
        config.write(text)
        async with config.live() as app:
            with pytest.raises(RequestError, match="needs the input 'who'"):
                await app["main"].run()
            dataset.write("schema = 1\ndefault_who = 7")
            assert await looks(app) == [0, 1]
            assert stamps(await app["main"].run()) == {1}
            assert ledger.events == ["open base 1", "open above 2"]
            dataset.write("schema = 1\ndefault_who = 7\n[set]\ncomponents.hydrated.stamp = 2")
            assert await looks(app) == [1, 2]
            assert stamps(await app["main"].run()) == {1, 2}
            dataset.write("schema = 2")
            assert await looks(app) == [2, 2]
            assert app.last_error is not None
            dataset.path.unlink()
            assert await looks(app) == [2, 3]
            assert app.dataset is None

    in_virtual_time(main())


def test_given_data_and_overrides_hold_for_every_reload(ledger: Ledger, config: Config) -> None:
    """`data` and `sets` win over what the files say, at the start and after."""
    folder = config.path.parent / "world"
    folder.mkdir()
    (folder / "dataset.toml").write_text("schema = 1\ndefault_who = 3", encoding="utf-8")

    async def main() -> None:
        async with config.live(data=folder, sets=["components.hydrated.stamp=9"]) as app:
            assert stamps(await app["main"].run()) == {0, 9}
            config.write(spec(1))
            assert await looks(app) == [0, 1]
            assert stamps(await app["main"].run()) == {1, 9}
            (folder / "dataset.toml").write_text("schema = 1", encoding="utf-8")
            assert await looks(app) == [1, 2]

    in_virtual_time(main())


def test_the_environment_counts_when_asked(ledger: Ledger, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment is read with each reload: what takes its value is made anew, and nothing else."""
    monkeypatch.setenv("TOY_TAG", "5")
    text = spec(1).replace("tag = 2", 'tag = { env = "TOY_TAG" }')

    async def main() -> None:
        config.write(text)
        async with config.live() as app:
            assert ledger.tags() == [1, 5]
            assert not (await app.reload()).changed
            monkeypatch.setenv("TOY_TAG", "6")
            assert await looks(app) == [0, 0]
            reload = await app.reload()
            assert (reload.kept, reload.opened) == (("base",), ("above",))

    in_virtual_time(main())


def test_a_relative_path_is_that_of_the_start(
    ledger: Ledger, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that changes its folder goes on with the same files; messages call the config as it was given."""
    monkeypatch.chdir(config.path.parent)

    async def main() -> None:
        async with Config(Path("pipelines.toml")).live() as app:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            config.write(spec(1) + "\n[")
            assert await looks(app) == [0, 0]
            assert str(app.last_error).startswith("pipelines.toml:")

    in_virtual_time(main())


# Files


def old(path: Path, text: str) -> None:
    """Write a file whose times are long ago."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1, 1))


def test_looking_reads_files_only_when_their_marks_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read again if its size or times changed, or if they are so recent that they do not tell."""
    path = tmp_path / "a.toml"
    old(path, "one")
    clock = [time.time_ns()]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    reads = []
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        reads.append(self)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    files = Files()
    first = files.look([path])
    assert files.look([path]) == first
    assert len(reads) == 2  # it was made just now
    clock[0] += 10**10
    for _ in range(3):
        assert files.look([path]) == first
    assert len(reads) == 3
    old(path, "two")
    assert files.look([path]) != first
    old(path, "one")
    assert files.look([path]) == first


def test_looking_at_what_is_no_file(tmp_path: Path) -> None:
    """What is missing, a folder, an impossible name and a file too large for a spec are no mistake to look at."""
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (5 * 2**20))
    found = Files().look([tmp_path / "none", tmp_path, Path("a\0b"), large])
    assert found[tmp_path / "none"] is None
    assert found[Path("a\0b")] is None
    assert found[tmp_path] is not None
    assert found[large] is not None
    assert Files().look([large]) == {large: found[large]}
