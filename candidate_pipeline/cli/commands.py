"""Commands that are listed without being imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from candidate_pipeline.plugin import Command
from candidate_pipeline.registry import resolve


class LazyCommand(TyperCommand):
    """A command known by its name and help; the function behind it is imported when it is called."""

    def __init__(self, name: str, words: str, command: Command) -> None:
        """Remember where the function is."""
        super().__init__(name, help=command.help, short_help=command.help)
        self._words = words
        self._command = command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the function and let its own command parse the arguments."""
        function = resolve(self._command.target, f"the command {self._words!r}")
        app = typer.Typer(add_completion=False)
        settings = getattr(function, "context_settings", None)
        app.command(self.name, help=function.__doc__ or self._command.help, context_settings=settings)(function)
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


def build_group(name: str, commands: Mapping[str, Command]) -> TyperGroup:
    """A click group of commands named by one or two words; the first of two words is a group of its own."""
    top = TyperGroup(name=name, help="Ranked feeds from typed plugins, wired in TOML and explained row by row.")
    groups: dict[str, TyperGroup] = {}
    for words, command in sorted(commands.items()):
        first, _, second = words.partition(" ")
        if not second:
            top.add_command(LazyCommand(first, words, command))
            continue
        if first not in groups:
            groups[first] = TyperGroup(name=first, help=f"Commands about {first}.")
            top.add_command(groups[first])
        groups[first].add_command(LazyCommand(second, words, command))
    return top
