"""The part of the store's conformance kit about which runs are listed, and what is shown of runs and requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.messages import Progress, Request, RunFilter
from perdure.testing.store_facts import (
    StoreBench,
    answer_of,
    ask,
    at,
    begin,
    commit_of,
    end,
    event_of,
    halt,
    seen,
    start_of,
    taken,
    turn_of,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Start
    from perdure.ports import DurableStore


def _tagged(run: str, seconds: float, target: str = "app.flow", **tags: str) -> Start:
    return start_of(run, target=target)._replace(at=at(seconds), tags=tags)


async def _fill(store: DurableStore) -> None:
    """Six runs, ten seconds apart."""
    await store.accept(
        [
            _tagged("a", 0, city="Köln", tier="1"),
            _tagged("b", 10, city="Köln", tier="2"),
            _tagged("c", 20, "app.other", city="Köln", tier="1"),
            _tagged("d", 30, city="Bonn", tier="1"),
            _tagged("e", 40, "app.other"),
            _tagged("f", 50, tier="1"),
        ]
    )
    claims, _ = await store.claim("a", at(50))
    held = {claim.start.run: claim for claim in claims}
    await end(store, held["a"], at=at(60))
    await end(store, held["b"], status="failed", at=at(70))
    await end(store, held["c"], status="cancelled", at=at(80))
    await store.commit(waiting(held["d"], at=at(90)), worker="a")
    await halt(store, held["e"], at=at(100))


FILTERS = {
    "all": (RunFilter(), "fedcba"),
    "target": (RunFilter(target="app.other"), "ec"),
    "no such target": (RunFilter(target="app.nothing"), ""),
    "status": (RunFilter(status=("failed",)), "b"),
    "any of some statuses": (RunFilter(status=("pending", "waiting", "completed")), "fda"),
    "tag": (RunFilter(tags={"tier": "1"}), "fdca"),
    "all of some tags": (RunFilter(tags={"tier": "1", "city": "Köln"}), "ca"),
    "no such value": (RunFilter(tags={"tier": "3"}), ""),
    "since": (RunFilter(since=at(30)), "fed"),
    "until": (RunFilter(until=at(30)), "cba"),
    "since and until": (RunFilter(since=at(10), until=at(40)), "dcb"),
    "idle": (RunFilter(idle_since=at(80)), "fba"),
    "target and status": (RunFilter(target="app.other", status=("suspended", "completed")), "e"),
    "tag and status": (RunFilter(tags={"tier": "1"}, status=("pending", "completed")), "fa"),
    "tag, target and time": (RunFilter(tags={"tier": "1"}, target="app.flow", since=at(20)), "fd"),
    "status and idle": (RunFilter(status=("failed", "cancelled"), idle_since=at(75)), "b"),
}


class StoreLists(StoreBench):
    """Lists and views."""

    # -- lists ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", list(FILTERS))
    async def test_runs_are_listed_that_fit_everything_that_is_given(self, store: DurableStore, name: str) -> None:
        await _fill(store)
        which, fitting = FILTERS[name]
        assert [view.id for view in await store.runs(which)] == list(fitting)

    @pytest.mark.parametrize("name", list(FILTERS))
    async def test_what_fits_is_listed_by_pages(self, store: DurableStore, name: str) -> None:
        await _fill(store)
        which, fitting = FILTERS[name]
        listed: list[str] = []
        while page := await store.runs(which, before=listed[-1] if listed else None, limit=2):
            assert len(page) <= 2
            listed += [view.id for view in page]
        assert listed == list(fitting)

    async def test_the_children_of_a_run_are_listed_with_other_filters(self, store: DurableStore) -> None:
        claim = await begin(store)
        starts = [_tagged(name, 0, odd=odd)._replace(parent="r") for name, odd in (("x", "1"), ("y", "0"), ("z", "1"))]
        claims = await store.commit(commit_of(claim, starts=tuple(starts)), worker="a")
        await end(store, claims[0])
        assert [view.id for view in await store.runs(RunFilter(parent="r"))] == ["z", "y", "x"]
        assert [view.id for view in await store.runs(RunFilter(parent="r", tags={"odd": "1"}))] == ["z", "x"]
        assert [view.id for view in await store.runs(RunFilter(parent="r", status=("completed",)))] == ["x"]

    async def test_a_delivery_is_something_written_about_a_run(self, store: DurableStore) -> None:
        await store.commit(waiting(await begin(store)), worker="a")
        await store.accept([event_of("r", "e")._replace(at=at(50))])
        assert [view.id for view in await store.runs(RunFilter(idle_since=at(50)))] == []
        assert [view.id for view in await store.runs(RunFilter(idle_since=at(51)))] == ["r"]

    # -- views ------------------------------------------------------------------------------------------------

    async def test_a_view_shows_with_what_a_run_was_started(self, store: DurableStore) -> None:
        start = turn_of("t", "s1")._replace(
            key="k",
            parent="p",
            path="0/t#1",
            ancestry=("p",),
            headers={"h": "ü"},
            tags={"a": "b", "é": ""},
            version=4,
            due=at(9),
        )
        await store.accept([start])
        for view in (await seen(store, "t"), (await store.runs())[0]):
            assert (view.kind, view.target, view.session, view.key) == ("turn", "app.agent", "s1", "k")
            assert (view.parent, view.path, view.ancestry, view.headers) == ("p", "0/t#1", ("p",), {"h": "ü"})
            assert (view.tags, view.version, view.generation, view.due) == ({"a": "b", "é": ""}, 4, 0, at(9))

    async def test_a_run_that_waits_until_it_is_due_is_given_with_all_that_it_was_started_with(
        self, store: DurableStore
    ) -> None:
        start = start_of("r")._replace(tags={"a": "b"}, version=4, due=at(9), on_close="terminate", generation=2)
        await store.accept([start])
        assert (await taken(store, "r", now=9)).start == start

    async def test_progress_is_shown_until_there_is_other_progress(self, store: DurableStore) -> None:
        claim = await begin(store)
        assert (await seen(store)).progress is None
        half = Progress(text="read", done=1, total=2)
        await store.commit(commit_of(claim, progress=half.model_dump_json().encode()), worker="a")
        await store.commit(commit_of(claim), worker="a")
        assert (await seen(store)).progress == half
        assert (await store.runs())[0].progress == half
        await end(store, claim, progress=b'{"text":"done"}')
        assert (await seen(store)).progress == Progress(text="done")

    # -- requests ---------------------------------------------------------------------------------------------

    async def test_a_request_says_who_is_asked(self, store: DurableStore) -> None:
        claim = await begin(store)
        asked = Request("q", "r", "0/q#1", "?", {}, at(0), to="the boss of 日本")
        await store.commit(commit_of(claim, asks=(asked,)), worker="a")
        view = await store.request("q")
        assert view is not None
        assert view.to == "the boss of 日本"

    async def test_a_request_that_is_asked_again_is_handed_on_to_somebody_else(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        first = (await store.requests())[0]
        again = Request("q", "r", "0/q#1", "Really?", {"type": "boolean"}, at(9), to="boss")
        await store.commit(commit_of(claim, at=at(9), asks=(again,)), worker="a")
        assert list(await store.requests()) == [first.model_copy(update={"to": "boss"})]
        await store.accept([answer_of("r", "q", b"true")])

    async def test_a_request_that_was_answered_stays_so_when_it_is_asked_again(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await store.accept([answer_of("r", "q", b"true")])
        await store.commit(commit_of(claim, asks=(Request("q", "r", "0/q#1", "?", {}, at(0), to="x"),)), worker="a")
        assert list(await store.requests()) == []
        view = await store.request("q")
        assert view is not None
        assert view.status == "answered"

    async def test_a_request_that_is_handed_on_and_withdrawn_at_once_is_closed(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        again = Request("q", "r", "0/q#1", "Really?", {}, at(0), to="boss")
        await store.commit(commit_of(claim, asks=(again,), closes=("q",)), worker="a")
        assert list(await store.requests()) == []
