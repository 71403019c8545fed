"""What must not be written down: values that a spec takes from the environment."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any, Final

import attrs

#: What stands for a secret.
HIDDEN: Final = "***"
#: Shorter texts are taken for settings, not for secrets: they stand everywhere.
SHORTEST: Final = 4


def _longest_first(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({text for text in texts if len(text) >= SHORTEST}, key=lambda text: (-len(text), text)))


@attrs.frozen
class Secrets:
    """Texts that may stand in no log, trace, span or capture.

    Args:
        texts: The texts; those of less than four characters are passed over.
    """

    texts: tuple[str, ...] = attrs.field(default=(), converter=_longest_first, repr=False)

    def hide(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self.texts:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def logged(self, error: BaseException) -> dict[str, Any]:
        """An error as what a log entry holds of it: itself, or its traceback as text where there are secrets."""
        return {"exception": self.traceback(error)} if self.texts else {"exc_info": error}

    def traceback(self, error: BaseException) -> str:
        """An error's traceback without the secrets."""
        return self.hide("".join(traceback.format_exception(error)))


#: For specs that take nothing from the environment, and pipelines made from objects.
NO_SECRETS: Final = Secrets()
