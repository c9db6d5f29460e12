"""The conformance kit: runs any device-flow client, by its command, against scripted servers.

    pytest --deviceflow-client "deviceflow login --issuer {issuer} --client-id {client_id}"

or in a program::

    for result in Kit(command).run():
        print(result.check.name, result.verdict, result.problems)

It needs nothing but the standard library, and POSIX.
"""

from __future__ import annotations

from deviceflow.testing.conformance._checks import CHECKS, Check
from deviceflow.testing.conformance._judge import Result
from deviceflow.testing.conformance._run import Kit
from deviceflow.testing.conformance._table import lines, markdown

__all__ = ["CHECKS", "Check", "Kit", "Result", "lines", "markdown"]
