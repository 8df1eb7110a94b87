"""The manifest is honest: no promise lacks a test, none is cited that there is not, and what is left for later is."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from .bites import BITES
from .manifest import (
    DRAWN,
    PAGE,
    ROOT,
    Promise,
    cited_here,
    drawn,
    is_there,
    kit_tests,
    kits,
    mentioned,
    promises,
    runs,
)

PROMISES = promises()
BUILT = [promise for promise in PROMISES.values() if promise.is_built]


def name_of(promise: Promise) -> str:
    return promise.id


def test_the_promises_are_numbered_without_a_gap():
    assert list(PROMISES) == [f"P{number}" for number in range(1, 19)]


@pytest.mark.parametrize("promise", BUILT, ids=name_of)
def test_each_promise_that_is_built_is_held_by_a_test_of_this_folder(promise):
    assert [test for test, cited in cited_here().items() if promise.id in cited and test.startswith("of_")]


@pytest.mark.parametrize("promise", BUILT, ids=name_of)
def test_each_promise_that_is_built_is_broken_by_something_that_its_own_tests_catch(promise):
    bites = [bite for bite in BITES.values() if bite.promise == promise.id]
    own = {f"Guarantees.{test.partition('::')[2]}" for test, cited in cited_here().items() if promise.id in cited}
    assert own & {test for bite in bites for test in bite.caught_by}


def test_each_bite_names_tests_that_hold_the_promise():
    for what, bite in BITES.items():
        own = {f"Guarantees.{test.partition('::')[2]}" for test, cited in cited_here().items() if bite.promise in cited}
        assert set(bite.caught_by) <= own | set(PROMISES[bite.promise].held), what


@pytest.mark.parametrize("promise", BUILT, ids=name_of)
def test_each_promise_is_held_over_each_store_and_transport_that_it_names(promise):
    own = [{"memory", "sqlite"}]
    places = own + [set(kits()[cited.partition(".")[0]]) for cited in promise.held if "::" not in cited]
    assert set(promise.over) == set.union(*places)


@pytest.mark.parametrize("promise", PROMISES.values(), ids=name_of)
def test_each_test_that_a_promise_names_is_there(promise):
    lacking = [cited for cited in promise.held if "::" in cited and not is_there(cited)]
    named = [cited.split(".") for cited in promise.held if "::" not in cited]
    lacking += [f"{kit}.{test}" for kit, test in named if kit not in kits() or test not in kit_tests(kit)]
    assert lacking == []


@pytest.mark.parametrize(("kit", "places"), kits().items(), ids=list(kits()))
def test_each_kit_is_run_where_the_manifest_says(kit, places):
    assert kit_tests(kit)
    assert [place for place in places.values() if not (is_there(place) and runs(place, kit))] == []


@pytest.mark.parametrize("kind", ["store", "transport"])
def test_each_store_and_transport_is_a_place_of_its_kit(kind):
    places = {place for run in kits().values() for place in run}
    installed = {path.name.removeprefix(f"{kind}-") for path in ROOT.glob(f"plugins/{kind}-*")}
    assert installed
    assert installed <= places


def test_no_test_cites_an_unknown_promise():
    assert [f"{where}: {id_}" for where, id_ in mentioned() if id_ not in PROMISES] == []


def test_every_test_of_a_guarantee_cites_its_promise():
    assert [test for test, cited in cited_here().items() if test.startswith("of_") and not cited] == []


@pytest.mark.parametrize("promise", [promise for promise in PROMISES.values() if promise.later], ids=name_of)
def test_what_is_left_for_later_is_not_there_yet(promise):
    for later in promise.later:
        assert later.why
        assert not is_built(later.seen_by), f"{later.what} is built: hold {promise.id} over it"


def is_built(sign: str) -> bool:
    if match := re.fullmatch(r"([\w.]+)\.(\w+)\((\w+)\)", sign):
        function = getattr(importlib.import_module(match[1]), match[2])
        return match[3] in inspect.signature(function).parameters
    assert (ROOT / sign).parent.is_dir(), f"{sign!r} would be nowhere"
    return (ROOT / sign).exists()


def test_what_is_not_built_is_left_for_later_with_a_reason():
    assert [promise.id for promise in PROMISES.values() if not (promise.is_built or promise.later)] == []
    assert [promise.id for promise in PROMISES.values() if not promise.is_built and promise.held] == []


def test_the_promises_stand_in_the_docs_as_they_stand_in_the_manifest():
    found = DRAWN.search(PAGE.read_text())
    assert found
    assert found[0] == drawn()
