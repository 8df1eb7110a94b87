"""Retry, timeouts, attempts and what a step knows of its function."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from typing import Any

import pytest

from perdure import Attempt, Retry, step, tool
from perdure.errors import DeadlineExceeded, ModelUnavailable, NotEncodable, StoreUnavailable, UsageError
from perdure.steps import DEFAULT_RETRY, NEVER, StepCall, StepOptions

PATIENCE = 60.0


def bind(fn: Any, *args: Any, **options: Any) -> StepCall:
    return StepCall.bind(fn, args, {}, StepOptions(**options))


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"first": -1.0}, {"backoff": 0.5}, {"cap": -1.0}, {"first": math.nan}, {"cap": math.nan}],
    ids=str,
)
def test_a_retry_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match=r"Retry\(.*\): expected attempts >= 1, first >= 0, backoff >= 1, cap >= 0"):
        Retry(**wrong)


def test_pauses_grow_to_the_cap_and_end_with_the_attempts():
    retry = Retry(attempts=5, first=1.0, backoff=3.0, cap=10.0)
    error = StoreUnavailable("later")
    assert [retry.pause(attempt, error) for attempt in range(1, 6)] == [1.0, 3.0, 9.0, 10.0, None]


def test_a_pause_after_very_many_attempts_is_the_cap():
    assert Retry(attempts=10_000, cap=60.0).pause(5_000, StoreUnavailable("later")) == 60.0
    assert Retry(attempts=10_000, first=0.0).pause(5_000, StoreUnavailable("later")) == 0.0


def test_only_errors_that_are_worth_it_are_tried_again():
    assert DEFAULT_RETRY.pause(1, ValueError("no")) is None
    assert NEVER.pause(1, StoreUnavailable("later")) is None
    retry = Retry(first=1.0, on=(OSError, KeyError))
    assert [retry.pause(1, error) for error in (ConnectionError(), KeyError(), StoreUnavailable())] == [1.0, 1.0, None]


class Polite(Exception):
    def __init__(self, retry_after: Any) -> None:
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("asked", "pause"), [(90.0, 90.0), (0.1, 1.0), (None, 1.0), ("90", 1.0), (-5, 1.0), (math.nan, 1.0)], ids=str
)
def test_what_the_error_asks_for_is_respected_when_it_is_longer(asked, pause):
    assert Retry(first=1.0, cap=2.0, on=(Polite,)).pause(1, Polite(asked)) == pause


def test_a_model_s_retry_after_is_respected():
    assert DEFAULT_RETRY.pause(1, ModelUnavailable("busy", retry_after=45.0)) == 45.0


# -- attempts


def test_outside_a_step_there_is_no_attempt():
    with pytest.raises(UsageError, match=r"outside a step: call it in a function that ctx\.step runs"):
        Attempt.current()


async def test_a_body_sees_its_attempt_in_the_loop_and_in_a_thread():
    def threaded() -> tuple[Attempt, int]:
        return Attempt.current(), threading.get_ident()

    async def looped() -> tuple[Attempt, int]:
        return Attempt.current(), threading.get_ident()

    attempt = Attempt("key", 3)
    assert await bind(looped).attempt(attempt) == (attempt, threading.get_ident())
    seen, thread = await bind(threaded).attempt(attempt)
    assert seen == attempt
    assert thread != threading.get_ident()
    with pytest.raises(UsageError):
        Attempt.current()


async def test_a_sync_function_that_returns_an_awaitable_is_awaited():
    async def body() -> str:
        return "awaited"

    def deferred() -> Any:
        return body()

    assert await bind(deferred).attempt(Attempt("key")) == "awaited"


class Service:
    async def __call__(self) -> str:
        return "called"

    async def method(self) -> str:
        return "method"


async def test_callables_of_all_kinds_may_be_steps():
    service = Service()
    for fn, value in ((service, "called"), (service.method, "method"), (functools.partial(max, 1), 2)):
        args = (2,) if value == 2 else ()
        call = bind(fn, *args)
        assert call.is_async == (value != 2)
        assert await call.attempt(Attempt("key")) == value
    assert (bind(service).name, bind(service.method).name) == ("Service", "method")


async def test_a_timeout_ends_an_async_body():
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(DeadlineExceeded, match=r"step 'slow' took longer than its timeout of 0\.01 s"):
        await bind(slow, timeout=0.01).attempt(Attempt("key"))
    assert ended.is_set()


async def test_a_timeout_leaves_a_thread_behind():
    release = threading.Event()
    try:
        with pytest.raises(DeadlineExceeded, match="step 'wait' took longer"):
            await bind(release.wait, PATIENCE, timeout=0.01).attempt(Attempt("key"))
    finally:
        release.set()


async def test_a_timeout_of_the_body_s_own_is_its_own():
    async def impatient() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await bind(impatient, timeout=PATIENCE).attempt(Attempt("key"))


async def test_a_cancelled_attempt_cancels_its_body():
    began, ended = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(bind(body, timeout=PATIENCE).attempt(Attempt("key")))
    async with asyncio.timeout(PATIENCE):
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


# -- options


@step(retry=NEVER, timeout=2.0, name="fetched")
def fetch(url: str) -> tuple[str, int]:
    return url, 1


@step
def plain() -> None: ...


def test_a_function_s_own_options_hold_unless_the_call_has_others():
    call = bind(fetch, "u")
    assert (call.name, call.retry, call.timeout, call.returns) == ("fetched", NEVER, 2.0, tuple[str, int])
    other = bind(fetch, "u", retry=DEFAULT_RETRY, timeout=0.5, name="again", returns=list[str], role="tool")
    assert (other.name, other.retry, other.timeout, other.returns) == ("again", DEFAULT_RETRY, 0.5, list[str])
    assert (other.role, call.role) == ("tool", "step")
    assert fetch("u") == ("u", 1)
    assert (bind(plain).retry, bind(plain).timeout, bind(plain).name) == (DEFAULT_RETRY, None, "plain")


def test_a_partial_has_its_function_s_name_and_type():
    call = bind(functools.partial(plain))
    assert (call.name, call.returns) == ("plain", type(None))


async def test_a_tool_may_be_a_step_under_its_name_with_its_options():
    @tool(name="search", retry=NEVER)
    async def look_up(word: str) -> tuple[str, int]:
        return word, 1

    call = bind(look_up, "w")
    assert (call.name, call.retry, call.returns) == ("search", NEVER, tuple[str, int])
    assert call.encode(await call.attempt(Attempt("key"))) == (b'["w",1]', ("w", 1))


def test_a_fingerprint_may_be_given_and_spares_the_arguments():
    assert bind(fetch, asyncio.Event, fingerprint="mine").fingerprint == "mine"
    with pytest.raises(NotEncodable, match="an argument of fetched"):
        bind(fetch, asyncio.Event)


def test_results_are_what_the_function_declares():
    call = bind(fetch, "u")
    assert call.encode(("u", 1))[1] == call.decode(call.encode(("u", 1))[0]) == ("u", 1)
    with pytest.raises(NotEncodable, match="the result of step 'fetched'"):
        call.encode(("u", "one"))


def test_jitter_spreads_the_pauses_and_never_beyond_its_part():
    pauses = {Retry(first=10, jitter=0.2, on=(OSError,)).pause(1, OSError()) for _ in range(200)}
    assert len(pauses) > 100
    assert all(8 <= pause <= 12 for pause in pauses)


def test_an_error_that_is_never_worth_another_attempt_ends_them():
    retry = Retry(on=(OSError,), never_on=(FileNotFoundError,))
    assert retry.pause(1, PermissionError()) is not None
    assert retry.pause(1, FileNotFoundError()) is None


@pytest.mark.parametrize("jitter", [-0.1, 1.1])
def test_jitter_is_a_part_of_the_pause(jitter):
    with pytest.raises(UsageError, match="jitter from 0 to 1"):
        Retry(jitter=jitter)
