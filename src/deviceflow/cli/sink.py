"""Where the token goes. Each place is tried before a person is asked for anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow._files import try_to_write, written_whole
from deviceflow.cli import streams
from deviceflow.cli.outfile import check_replaceable
from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    from deviceflow.core.provider import Provider
    from deviceflow.core.secret import Secret


class TokenFile:
    """A file for the token, that only its owner can read, and that is never there half-written.

    Args:
        name: The file's name.

    Attributes:
        where: What to call the place.

    Raises:
        UsageError: It cannot be written there.
    """

    def __init__(self, name: str) -> None:
        self.where = name
        self.path = Path(name)
        if not name:
            raise UsageError("The file for the token has no name.", hint="Name it: --output FILE.")
        check_replaceable(self.path)
        try:
            try_to_write(self.path)  # whoever is killed meanwhile leaves nothing behind
        except OSError as trouble:
            why = trouble.strerror
        else:
            return
        raise UsageError(
            f"The token could not be written to {name}: {why}.",
            hint="Nothing was sent yet. Name a file that can be written: --output FILE.",
        )

    def put(self, token: Secret) -> None:
        """Write the token and a newline, all or nothing.

        Raises:
            DeviceFlowError: The disk would not take it.
        """
        try:
            with written_whole(self.path) as file:
                file.write(f"{token.reveal()}\n".encode())
        except OSError as trouble:
            why = trouble.strerror
        except UnicodeError:
            why = "it is no proper Unicode"
        else:
            return
        raise DeviceFlowError(
            f"The login was approved, but its token could not be written to {self.path}: {why}."
        )


class Stdout:
    """stdout, for what has no other place.

    Attributes:
        where: None: whoever looks there sees it.
    """

    where = None

    def put(self, token: Secret) -> None:
        """Print the token; raises what `streams.show` does."""
        streams.show(token.reveal(), foreign=True)


class Keyring:
    """The desktop's keyring, by the library of that name (extra `cli`).

    A token is kept under the service `deviceflow`, by the server's address and the client.

    Args:
        provider: Who issues the token.

    Attributes:
        where: What to call the place.

    Raises:
        UsageError: There is no keyring here that keeps anything.
    """

    def __init__(self, provider: Provider) -> None:
        try:
            import keyring  # an extra
        except ModuleNotFoundError:
            raise UsageError(
                "The keyring needs a library.", hint="pip install 'deviceflow[cli]'"
            ) from None
        self._keyring = keyring
        client = provider.client_id or provider.client_name
        self._name = f"{provider.server} {client}"
        self.where = f"the keyring, as {_SERVICE}: {self._name}"
        problem = self._try_out()
        if problem:
            raise UsageError(
                f"The keyring does not work here: {problem}.",
                hint="Nobody was asked for anything. Unlock it, or use --output FILE.",
            )

    def _try_out(self) -> str | None:
        """Write, read and remove a word that is no secret; return what went wrong."""
        probe = f"{_SERVICE} was here"
        try:
            self._keyring.set_password(_SERVICE, probe, probe)
            kept = self._keyring.get_password(_SERVICE, probe) == probe
            self._keyring.delete_password(_SERVICE, probe)
        except Exception as broken:  # noqa: BLE001  # its backends raise whatever they like
            return str(broken) or type(broken).__name__
        return None if kept else "it does not keep what it is given"

    def put(self, token: Secret) -> None:
        """Keep the token.

        Raises:
            DeviceFlowError: The keyring would not take it.
        """
        try:
            self._keyring.set_password(_SERVICE, self._name, token.reveal())
        except Exception as broken:  # noqa: BLE001  # likewise
            why = str(broken).replace(token.reveal(), "<secret>") or type(broken).__name__
        else:
            return
        raise DeviceFlowError(
            f"The login was approved, but the keyring would not keep its token: {why}."
        )


_SERVICE = "deviceflow"

Sink = TokenFile | Keyring | Stdout
