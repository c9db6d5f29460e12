"""Where the token goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    from deviceflow.secret import Secret


class TokenFile:
    """A file for the token, that only its owner can read, and that is never there half-written.

    It is made sure that it can be written before a person is asked for anything: an approval that
    nobody can keep would be lost.

    Args:
        name: The file's name.

    Raises:
        UsageError: It cannot be written there.
    """

    def __init__(self, name: str) -> None:
        self.path = Path(name)
        if self.path.is_dir():
            raise UsageError(f"{name} is a directory.", hint="Name a file in it: --output FILE.")
        try:
            # Readable by the owner alone from the first moment (0600), by mkstemp's promise.
            handle, self._draft = tempfile.mkstemp(
                prefix=f".{self.path.name}.", dir=self.path.parent
            )
        except OSError as trouble:
            why = trouble.strerror
        else:
            os.close(handle)
            return
        raise UsageError(
            f"The token could not be written to {name}: {why}.",
            hint="Nobody was asked for anything. Name a file that can be written: --output FILE.",
        )

    def put(self, token: Secret) -> None:
        """Write the token and a newline, all or nothing.

        Raises:
            DeviceFlowError: The disk would not take it.
        """
        try:
            with open(self._draft, "w", encoding="utf-8") as draft:  # noqa: PTH123
                draft.write(token.reveal() + "\n")
                draft.flush()
                os.fsync(draft.fileno())
            os.replace(self._draft, self.path)  # noqa: PTH105
        except OSError as trouble:
            why = trouble.strerror
        else:
            return
        raise DeviceFlowError(
            f"The login was approved, but its token could not be written to {self.path}: {why}.",
            hint="The token is lost: revoke it at the server, then log in again.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        Path(self._draft).unlink(missing_ok=True)
