"""Every event that can be: for tests by hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from deviceflow import Secret, Studio
from deviceflow.audit.events import render, render_store_event
from deviceflow.core.actions import ACTIONS, STORE_EVENTS
from deviceflow.core.flow import Flow, Transition
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.states import Reason, State

if TYPE_CHECKING:
    from collections.abc import Callable

_ACTIONS: Final = [action for action in ACTIONS.values() if action not in STORE_EVENTS]

# Half a character and the character NUL among them, which no database and no encoder takes.
_texts: Final = st.text(st.characters(exclude_categories=()), max_size=40)
_seconds: Final = st.floats(0, 1e12) | st.integers(0, 10**12) | st.sampled_from([1e-5, 5e-5, 1.0])
_times: Final = st.floats(0, 2.5e11)
_ids: Final = st.text("abcDEF019-_", min_size=1, max_size=20)
_origins: Final = st.builds(
    Origin,
    *(st.none() | _texts for _ in range(2)),
    st.none() | st.integers(0, 2**31),
    *(st.none() | _texts for _ in range(3)),
)


@st.composite
def events(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    """Draw an event that is no link of a chain yet."""
    if draw(st.integers(0, 9)) == 0:
        action, seq = draw(st.sampled_from(STORE_EVENTS)), draw(st.integers(1, 2**53 - 1))
        return render_store_event(action, draw(_times), seq, draw(_texts), draw(_origins))
    name = draw(_texts | st.integers() | st.floats(0, 1e9))
    scopes = draw(st.lists(st.sampled_from(["MODELS", "datasets", "Experiments"]), max_size=3))
    server = Studio("https://studio.example.com").with_request(client_name=name, scopes=scopes)
    flow = Flow(draw(_ids), server, draw(_times))
    flow.attempt = draw(st.integers(0, 2**53 - 1))
    flow.interval = draw(_seconds.filter(bool))
    flow.in_doubt = draw(st.booleans())
    flow.reason = draw(st.none() | st.sampled_from(Reason))
    if draw(st.booleans()):
        granted = draw(st.none() | st.lists(_texts, max_size=3).map(tuple))
        flow.token = Token(Secret("t" * 20), scopes=granted)
        flow.user_code = draw(st.none() | _texts)
    transition = Transition(
        draw(st.integers(1, 2**53 - 1)),
        draw(_times),
        draw(st.sampled_from(_ACTIONS)),
        draw(st.sampled_from(State)),
        draw(st.sampled_from(State)),
        draw(st.none() | st.integers(100, 999)),
        draw(st.none() | _seconds),
        draw(st.none() | _seconds),
        draw(st.none() | _texts),
    )
    return render(flow, transition, draw(_origins))
