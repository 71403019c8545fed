"""`extends`: another file, or another pipeline, as the base of this one.

The rule: the nearer one wins, key by key. Tables merge; anything else replaces. A component's or resource's table that
says another `use` replaces the base's table whole, for options of another class would make no sense in it. In a list,
the entry `"..."` stands for the base's entries, and `"-name"` leaves one of them out.

Files are merged first, the farthest first, then pipelines of the merged spec; overrides come after both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import attrs

from candidate_pipeline.spec.document import SCHEMA, Document, describe, is_file
from candidate_pipeline.spec.merging import KEY, REST, Allowance, Merge
from candidate_pipeline.spec.positions import TomlPath
from candidate_pipeline.spec.problems import Problem, SpecError, nearest

#: How many bases may stand behind one another.
MAX_CHAIN: Final = 8


def extended(document: Document, problems: list[Problem]) -> Document:
    """A document with every `extends` resolved, in which each value knows where it was written.

    Args:
        document: What to resolve; it is left as it is.
        problems: Mistakes are appended here.
    """
    allowance = Allowance()
    whole = _files(document, problems, allowance)
    tables = whole.data.get("pipelines")
    if isinstance(tables, dict):
        _Pipelines(whole, tables, problems, allowance).resolve()
    return whole


def unresolved(document: Document, path: TomlPath, entries: list[Any], at: int) -> tuple[str, str] | None:
    """Message and hint for an entry of a pipeline's list that refers to a base which the list does not have.

    Returns:
        `None` if another entry of the list tells the same mistake.
    """
    entry, key = entries[at], path[-1]
    origin = document.origin((*path, at))
    pipeline = str(path[1])
    if entry != REST and REST in entries:
        return None
    if origin is not None and origin.how != "file":
        return f"{entry!r} refers to a base, and an override replaces the whole list", "write all entries of the list"
    if entry != REST:
        return f"{entry!r} leaves an entry of the base out, but the list takes none", f"add the entry {REST!r}"
    if pipeline in document.bases:
        base = document.bases[pipeline]
        return f"{REST!r} stands for {key} of {base!r}, which has none", "leave the entry out"
    hint = f'add extends = "<pipeline>" to [pipelines.{pipeline}]'
    return f"{REST!r} stands for a base's entries, and there is no base", hint


def _files(document: Document, problems: list[Problem], allowance: Allowance) -> Document:
    """A document merged with the files that it extends, one behind another."""
    chain = [document]
    while KEY in chain[-1].data:
        base = _base_file(chain, problems)
        if base is None:
            break
        chain.append(base)
    incomplete = KEY in chain[-1].data
    given = chain[-1].data.get(KEY)
    lacking = chain[-1].base / given if isinstance(given, str) else None
    whole = chain.pop().copy()
    whole.data.pop(KEY, None)
    while chain:
        near = chain.pop().copy()
        if "schema" in near.data:  # it hides that of the base
            _check_schema(whole, problems)
        near.data.pop(KEY, None)
        near.incomplete = incomplete
        near.data = Merge(near, whole, problems, allowance, files=True).tables(near.data, whole.data, (), ())
        near.files += whole.files
        whole = near
    whole.incomplete, whole.lacking = incomplete, lacking
    return whole


def _check_schema(base: Document, problems: list[Problem]) -> None:
    """Report a base of another version of the format."""
    found = base.data.get("schema", SCHEMA)
    if type(found) is not int or found != SCHEMA:
        problems.append(base.problem("E106", f"schema: wanted {SCHEMA}, found {describe(found)}", ("schema",)))


def _base_file(chain: list[Document], problems: list[Problem]) -> Document | None:
    """The file that the last one of a chain extends, or `None` after reporting why there is none."""
    document = chain[-1]
    given = document.data[KEY]
    mistake = _file_mistake(chain, given)
    if mistake is not None:
        code, message, hint = mistake
        problems.append(document.problem(code, message, (KEY,), hint=hint))
        return None
    path = document.base / given
    try:
        return Document.read(path, _name(document, given, path))
    except SpecError as error:
        for problem in error.problems:
            whole = not problem.location.line  # of the file as a whole, such as one that is not UTF-8
            message = f"extends: {given!r}: {problem.message}"
            problems.append(document.problem("E108", message, (KEY,)) if whole else problem)
        return None


def _file_mistake(chain: list[Document], given: Any) -> tuple[str, str, str] | None:
    """What is wrong with the file that the last one of a chain extends: code, message and hint."""
    document = chain[-1]
    if not isinstance(given, str):
        return "E102", f"extends: wanted a string, found {describe(given)}", ""
    if not given.endswith(".toml"):
        pipelines = document.data.get("pipelines")
        named = isinstance(pipelines, dict) and given in pipelines
        hint = "a pipeline is extended in a pipeline's own table" if named else ""
        return "E108", f"extends: wanted a file that ends in .toml, found {describe(given)}", hint
    path = document.base / given
    if not is_file(path):
        hint = nearest(path.name, _siblings(path.parent, document))
        return "E108", f"extends: no file {given!r} beside {Path(document.name).name}", hint
    seen = [known.files[0] if known.files else known.base / known.name for known in chain]
    if path.resolve() in seen:
        names = [known.name for known in chain[seen.index(path.resolve()) :]]
        return "E108", f"the files extend each other: {' -> '.join([*names, names[0]])}", ""
    if len(chain) > MAX_CHAIN:
        return "E108", f"extends: at most {MAX_CHAIN} files may stand behind one another, found more", ""
    return None


def _siblings(folder: Path, document: Document) -> list[str]:
    """The other specs in a folder."""
    try:
        return [found.name for found in folder.glob("*.toml") if found.is_file() and found not in document.files]
    except (OSError, ValueError):
        return []


def _name(document: Document, given: str, path: Path) -> str:
    """What messages call a base file: from where the file that names it is called, if that is a path."""
    folder = Path(document.name).parent
    named = folder / given if document.files and folder.resolve() == document.base else path
    tidy = Path(os.path.normpath(named))
    return str(tidy if tidy.resolve() == path.resolve() else named)


@attrs.define
class _Pipelines:
    """Resolves what pipelines of one document extend, in place.

    Args:
        document: The document.
        tables: Its pipelines.
        problems: Mistakes are appended here.
        allowance: How many values may still be inherited.
        depths: By pipeline that is resolved, how many bases stand behind it.
    """

    document: Document
    tables: dict[str, Any]
    problems: list[Problem]
    allowance: Allowance
    depths: dict[str, int] = attrs.field(factory=dict)

    def resolve(self) -> None:
        """Merge every pipeline with its bases, the farthest first."""
        for name in self.tables:
            chain = self._chain(name)
            while chain:
                self._merge(chain.pop())
        for table in self.tables.values():
            if isinstance(table, dict):
                table.pop(KEY, None)

    def _chain(self, name: str) -> list[str]:
        """A pipeline and those behind it that are not resolved yet, the nearest first."""
        chain = [name]
        while chain[-1] not in self.depths:
            base = self._base(chain[-1])
            if base is None:
                self.depths[chain[-1]] = 0
                chain.pop()
                break
            if base in chain:
                circle = [*chain[chain.index(base) :], base]
                message = f"the pipelines extend each other: {' -> '.join(circle)}"
                self._unsound(*circle)
                self._report(message, chain[-1])
                for each in circle:
                    self.depths[each] = 0
                return chain[: chain.index(base)]
            chain.append(base)
        else:
            chain.pop()
        return chain

    def _base(self, name: str) -> str | None:
        """What a pipeline extends, or `None` if that is nothing, or a mistake that is reported."""
        table = self.tables[name]
        if not isinstance(table, dict) or KEY not in table:
            return None
        base = table[KEY]
        if isinstance(base, str) and isinstance(self.tables.get(base), dict):
            return base
        self._unsound(name)
        if not isinstance(base, str):
            message = f"extends: wanted the name of a pipeline, found {describe(base)}"
            self.problems.append(self.document.problem("E102", message, ("pipelines", name, KEY)))
        elif base not in self.tables and not self.document.incomplete:
            others = [other for other in self.tables if other != name]
            file = "a file is extended at the top, above all tables" if base.endswith(".toml") else ""
            self._report(f"extends: no pipeline {base!r}", name, file or nearest(base, others))
        return None

    def _merge(self, name: str) -> None:
        table = self.tables[name]
        base = table[KEY]
        self.depths[name] = self.depths[base] + 1
        if self.depths[name] > MAX_CHAIN:
            if self.depths[name] == MAX_CHAIN + 1:
                self._report(f"extends: at most {MAX_CHAIN} pipelines may stand behind one another, found more", name)
            self._unsound(name)
            return
        if base in self.document.unsound:
            self._unsound(name)
        self.document.bases[name] = base
        merge = Merge(self.document, self.document, self.problems, self.allowance, files=False)
        own = {key: value for key, value in table.items() if key != KEY}
        inherited = {key: value for key, value in self.tables[base].items() if key != KEY}
        self.tables[name] = merge.tables(own, inherited, ("pipelines", name), ("pipelines", base))

    def _unsound(self, *names: str) -> None:
        self.document.unsound |= set(names)

    def _report(self, message: str, name: str, hint: str = "") -> None:
        self.problems.append(self.document.problem("E108", message, ("pipelines", name, KEY), hint=hint))
