"""The errors: their branches, what they carry, and what they say."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Final

import pytest

from deviceflow import Client, Studio, errors
from deviceflow.core.secret import Secret
from deviceflow.errors import DeviceFlowError

FAMILY: Final[dict[type[DeviceFlowError], tuple[type[Exception], ...]]] = {
    errors.DeviceFlowError: (Exception,),
    errors.UsageError: (DeviceFlowError,),
    errors.InvalidArgumentError: (errors.UsageError, ValueError),
    errors.IllegalTransitionError: (errors.UsageError,),
    errors.UnknownLoginError: (errors.UsageError, LookupError),
    errors.InsecureURLError: (errors.UsageError, ValueError),
    errors.ServerError: (DeviceFlowError,),
    errors.UnreachableError: (errors.ServerError,),
    errors.ProtocolError: (errors.ServerError,),
    errors.RejectedError: (errors.ServerError,),
    errors.LoginError: (DeviceFlowError,),
    errors.ExpiredError: (errors.LoginError,),
    errors.DeniedError: (errors.LoginError,),
    errors.LoginCancelledError: (errors.LoginError,),
    errors.OutcomeUnknownError: (errors.LoginError,),
    errors.WrongApproverError: (errors.LoginError,),
    errors.StoreError: (DeviceFlowError,),
    errors.SealError: (errors.StoreError,),
    errors.TokenGoneError: (errors.UsageError,),
    errors.UnknownGrantError: (errors.UsageError, LookupError),
    errors.LoginPending: (DeviceFlowError,),
    errors.LoginBusyError: (DeviceFlowError,),
    errors.WaitTimeoutError: (DeviceFlowError, TimeoutError),
    errors.StudioAuthError: (DeviceFlowError,),
    errors.InvalidScopesError: (errors.StudioAuthError, ValueError),
    errors.AuthorizationExpiredError: (errors.StudioAuthError,),
}
BRANCHES: Final = (
    errors.UsageError,
    errors.ServerError,
    errors.LoginError,
    errors.StoreError,
    errors.LoginBusyError,
    errors.LoginPending,
    errors.WaitTimeoutError,
    errors.StudioAuthError,
)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    row = r"^( *)[*+-] (\w+Error|LoginPending)(?: \(also an? (\w+)\))?"
    rows = re.findall(row, errors.__doc__ or "", re.MULTILINE)
    path: list[str] = []
    tree: dict[str, tuple[str, ...]] = {}
    for indent, name, also in rows:
        path = [*path[: len(indent) // 2], name]
        tree[name] = tuple(filter(None, (path[-2] if path[:-1] else "Exception", also)))

    assert tree == {
        kind.__name__: tuple(base.__name__ for base in bases) for kind, bases in FAMILY.items()
    }


def test_no_error_is_left_out_here() -> None:
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }

    assert defined == FAMILY.keys()


@pytest.mark.parametrize("kind", FAMILY)
def test_error_has_its_parents(kind: type[DeviceFlowError]) -> None:
    assert kind.__bases__ == FAMILY[kind]


@pytest.mark.parametrize("kind", FAMILY)
def test_error_is_in_one_branch(kind: type[DeviceFlowError]) -> None:
    branches = [branch for branch in BRANCHES if issubclass(kind, branch)]

    assert len(branches) == (0 if kind is DeviceFlowError else 1)


@pytest.mark.parametrize("kind", FAMILY)
def test_each_argument_is_optional(kind: type[DeviceFlowError]) -> None:
    error = kind()

    assert error.message == kind.default_message
    assert error.message.endswith(".")
    assert (error.flow_id, error.state, error.reason) == (None, None, None)
    assert error.hint == (kind.default_hint or None)


@pytest.mark.parametrize("kind", FAMILY)
def test_error_carries_what_it_is_given(kind: type[DeviceFlowError]) -> None:
    error = kind("It broke.", flow_id="f1", state="polling", reason="denied", hint="Mend it.")

    assert (error.message, error.args) == ("It broke.", ("It broke.",))
    assert (error.flow_id, error.state, error.reason) == ("f1", "polling", "denied")
    assert str(error) == "It broke. Mend it. [flow f1]"


@pytest.mark.parametrize(
    "kind",
    [
        errors.UnreachableError,
        errors.ProtocolError,
        errors.RejectedError,
        errors.ExpiredError,
        errors.DeniedError,
        errors.LoginCancelledError,
        errors.OutcomeUnknownError,
        errors.WaitTimeoutError,
        errors.UnknownLoginError,
        errors.SealError,
        errors.LoginBusyError,
        errors.TokenGoneError,
    ],
)
def test_error_that_waiting_ends_with_says_what_to_do_next(kind: type[DeviceFlowError]) -> None:
    assert kind.default_hint
    assert str(kind()) == f"{kind.default_message} {kind.default_hint}"


def test_message_alone_is_the_text() -> None:
    assert str(DeviceFlowError("It broke.")) == "It broke."


@pytest.mark.parametrize("kind", FAMILY)
def test_error_survives_a_pickle_and_a_copy(kind: type[DeviceFlowError]) -> None:
    error = kind("It broke.", flow_id="f1", state="polling", reason="denied", hint="Mend it.")
    error.add_note("seen twice")

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == str(error)


def test_trigger_survives_too() -> None:
    error = errors.IllegalTransitionError(trigger="poll", state="expired")

    again = pickle.loads(pickle.dumps(error))

    assert (again.trigger, again.state) == ("poll", "expired")


def test_wait_of_a_busy_flow_survives_as_well() -> None:
    assert errors.LoginBusyError().wait_seconds == 0

    again = pickle.loads(pickle.dumps(errors.LoginBusyError(wait_seconds=7.5)))

    assert again.wait_seconds == 7.5


def test_the_login_of_a_need_stays_where_it_is() -> None:
    error = errors.LoginPending(name="nightly", wait_seconds=5)
    error.login = Client().create(Studio())

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (again.name, again.wait_seconds, again.login) == ("nightly", 5, None)


def test_a_person_is_told_the_link_or_the_command() -> None:
    error = errors.LoginPending(name="nightly", command="deviceflow login nightly")
    assert error.how_to_log_in() == "deviceflow login nightly"
    error.link = Secret("https://jobs.example.com/need/LINK-CANARY")

    assert error.how_to_log_in() == "https://jobs.example.com/need/LINK-CANARY"
    assert error.how_to_log_in(link=False) == "deviceflow login nightly"
    assert "LINK-CANARY" not in f"{error} {error!r} {vars(error)}"
    assert pickle.loads(pickle.dumps(error)).how_to_log_in() == "deviceflow login nightly"


def test_trigger_is_optional() -> None:
    assert errors.IllegalTransitionError().trigger is None
