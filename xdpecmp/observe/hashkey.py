"""Where the hash key comes from, or why there is none, in words; how far a search is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..instance.instance import Instance
from ..instance.keystore import KeyStore
from ..model.hashkey import KeyState, Origin
from ..program.keysearch import SEEDS
from .state import SearchState

_STARTS_SECONDS = 5.0
"""So long an agent may take to begin with it."""
_LOOK_SECONDS = 0.5

KNOWN = {
    Origin.SYSCTL: "set by sysctl (net.ipv4.fib_multipath_hash_seed)",
    Origin.MEMORY: "Linux's own, read from kernel memory",
    Origin.SEARCH: "Linux's own, found by search",
    Origin.OWN: "a seed of xdpecmp's own, since Linux's key is not known",
}


def search_state(state: KeyState, store: KeyStore) -> SearchState | None:
    """None if nothing is searched."""
    if state.key is not None or not state.searching or not store.is_searched():
        return None
    progress = store.progress()
    left = progress and progress.seconds_left(SEEDS)
    return SearchState(
        progress.tried if progress else 0, SEEDS, None if left is None else round(left, 1)
    )


def progress(instance: Instance, store: KeyStore) -> Iterator[str]:
    """How far the agent's search is, twice a second until it ends; nothing if there is none."""
    state, before, began = instance.key_state(), store.stamp(), False
    deadline = time.monotonic() + _STARTS_SECONDS
    while state.searching and instance.agent_pid() is not None:
        if store.stamp() != before:
            yield "found"
            return
        search = search_state(state, store)
        if search is not None:
            began = True
            yield str(search)
        elif time.monotonic() >= deadline:
            return
        time.sleep(_LOOK_SECONDS)
        state = instance.key_state()
    if began and state.missing:
        yield state.missing


def why_missing(state: KeyState) -> str:
    """Why it could not be read, and what happens then; "" if there is nothing to say."""
    if not state.missing:
        return "all seeds are tried, at idle priority" if state.searching else ""
    if state.searching:
        return f"{state.missing}; so all seeds are tried, at idle priority"
    return state.missing
