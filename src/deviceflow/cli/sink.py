"""The places for the token. Each is tested before a login begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow._files import try_to_write, written_whole
from deviceflow.cli import streams
from deviceflow.cli.outfile import check_replaceable
from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import Provider, Token
    from deviceflow.core.secret import Secret


def formatted(token: Token | AccessToken, form: str) -> str:
    """Return a token in clear, in a format of `--format`.

    Raises:
        UsageError: It is not a bearer token, and a header is asked for (RFC 6750 section 2.1).
    """
    if form == "json":
        return json.dumps(token.as_dict())
    if form == "header" and token.token_type.lower() != "bearer":
        raise UsageError(
            f"A token of the type {token.token_type!r} is not for a header Authorization: Bearer."
        )
    text = token.access_token.reveal()
    return f"Authorization: Bearer {text}" if form == "header" else text


class TokenFile:
    """A file for the token, written atomically, with access for its owner only (0600).

    Args:
        name: The file's name.

    Attributes:
        where: The place's name in messages.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, name: str) -> None:
        self.where = name
        self.path: Path = Path(name)
        if not name:
            raise UsageError("The name of the token file is empty.", hint="Use --output FILE.")
        check_replaceable(self.path)
        try:
            try_to_write(self.path)  # the draft is removed at once
        except OSError as trouble:
            why = trouble.strerror
        else:
            return
        raise UsageError(
            f"The token file {name} cannot be written: {why}.",
            hint="Nothing was sent. Name a writable file: --output FILE.",
        )

    def put(self, token: Secret) -> None:
        """Write the token and a newline, atomically.

        Raises:
            DeviceFlowError: The file could not be written.
        """
        try:
            with written_whole(self.path) as file:
                file.write(f"{token.reveal()}\n".encode())
        except OSError as trouble:
            why = trouble.strerror
        except UnicodeError:
            why = "the token is not valid Unicode"
        else:
            return
        raise DeviceFlowError(
            f"The login was approved, but the token could not be written to {self.path}: {why}."
        )


class Stdout:
    """stdout.

    Attributes:
        where: None: no message says where the token is.
    """

    where = None

    def put(self, token: Secret) -> None:
        """Print the token. It raises the same errors as `streams.show`."""
        streams.show(token.reveal(), foreign=True)


class Keyring:
    """The desktop's keyring, with the library `keyring` (extra `cli`).

    The service is `deviceflow`, and the user name is the server's URL and the client.

    Args:
        provider: The provider that issues the token.

    Attributes:
        where: The place's name in messages.

    Raises:
        UsageError: The keyring does not work.
    """

    def __init__(self, provider: Provider) -> None:
        try:
            import keyring  # an extra
        except ModuleNotFoundError:
            raise UsageError(
                "The keyring needs the package keyring.", hint="pip install 'deviceflow[cli]'"
            ) from None
        self._keyring = keyring
        client = provider.client_id or provider.client_name
        self._name = f"{provider.server} {client}"
        self.where = f"the keyring, as {_SERVICE}: {self._name}"
        problem = self._try_out()
        if problem:
            raise UsageError(
                f"The keyring does not work: {problem}.",
                hint="No login was started. Unlock the keyring, or use --output FILE.",
            )

    def _try_out(self) -> str | None:
        """Write, read and delete a test value. Return an error message, or None."""
        probe = f"{_SERVICE} was here"
        try:
            self._keyring.set_password(_SERVICE, probe, probe)
            kept = self._keyring.get_password(_SERVICE, probe) == probe
            self._keyring.delete_password(_SERVICE, probe)
        except self._keyring.errors.NoKeyringError:
            return "this machine has none"
        except Exception as broken:  # noqa: BLE001  # its backends raise whatever they like
            return str(broken).rstrip(".") or type(broken).__name__
        return None if kept else "a test value was not saved"

    def put(self, token: Secret) -> None:
        """Save the token.

        Raises:
            DeviceFlowError: The keyring failed.
        """
        try:
            self._keyring.set_password(_SERVICE, self._name, token.reveal())
        except Exception as broken:  # noqa: BLE001  # likewise
            why = str(broken).replace(token.reveal(), "<secret>") or type(broken).__name__
        else:
            return
        raise DeviceFlowError(
            f"The login was approved, but the token could not be saved in the keyring: {why}."
        )


_SERVICE = "deviceflow"

Sink = TokenFile | Keyring | Stdout
