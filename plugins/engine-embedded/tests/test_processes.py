"""Functions in child processes: what travels, and what comes back."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import pytest

from perdure import Attempt
from perdure.errors import (
    InvalidInput,
    ModelUnavailable,
    NotEncodable,
    ProcessDied,
    ProcessFailed,
    RetryableError,
    UsageError,
)
from perdure.messages import ErrorInfo
from perdure.steps import StepCall, StepOptions
from perdure_engine_embedded.processes import run_apart, run_in_process

from . import process_bodies as bodies

PATIENCE = 60.0

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one pool for all of them

posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups and signals")


async def ran(fn: Any, *args: Any, returns: Any = Any, **kwargs: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await run_in_process(fn, args, kwargs, returns=returns)


# -- what travels


async def test_arguments_and_results_travel_by_their_declared_types():
    assert await ran(bodies.add, 1, c=2) == 4.0
    moved = await ran(
        bodies.move, [bodies.Point(1), {"x": 2, "y": 3.5}], day="2026-01-02", returns=dict[str, bodies.Point]
    )
    assert moved == {"Friday": bodies.Point(3, 3.5)}
    assert await ran(bodies.tupled, returns=tuple[int, ...]) == (1, 2)
    assert await ran(bodies.tupled, returns=list[int]) == [1, 2]


async def test_large_values_travel():
    text = "ä\n" * 1_000_000
    assert await ran(bodies.double, text) == text * 2


async def test_the_child_looks_for_modules_where_its_parent_does(monkeypatch, tmp_path):
    (tmp_path / "made_up_in_a_test.py").write_text("def where() -> str:\n    return __file__\n")
    assert await ran(bodies.search_path) == sys.path
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("made_up_in_a_test")
    assert await ran(module.where) == str(tmp_path / "made_up_in_a_test.py")
    assert await ran(bodies.search_path) == sys.path


@pytest.mark.parametrize(
    ("fn", "value"),
    [(bodies.as_tool, "W"), (bodies.as_tool.fn, "W"), (bodies.wrapped, "ww"), (bodies.House.static, "w")],
    ids=["a tool", "its function", "a decorated function", "a static method"],
)
async def test_what_a_module_defines_under_a_name_may_run(fn, value):
    assert await ran(fn, "w") == value


@pytest.mark.parametrize(
    "fn",
    [
        bodies.nameless,
        bodies.closure(),
        bodies.House().method,
        bodies.on_the_loop,
        bodies.shown,
        partial(bodies.add, 1),
        bodies.House(),
    ],
    ids=["lambda", "closure", "method", "async", "hidden", "partial", "instance"],
)
async def test_what_a_child_could_not_find_is_refused(fn):
    with pytest.raises(UsageError, match="cannot run in a process: expected a plain function that its module defines"):
        await ran(fn)


async def test_arguments_that_do_not_fit_are_refused_before_anything_runs():
    with pytest.raises(InvalidInput, match="'add' does not fit: a: input should be a valid integer"):
        await ran(bodies.add, "one")
    with pytest.raises(InvalidInput, match="'add' takes 2 positional arguments"):
        await ran(bodies.add, 1, 2, 3)


async def test_a_result_that_does_not_fit_is_refused():
    with pytest.raises(NotEncodable, match="the result of 'misfit'"):
        await ran(bodies.misfit)
    with pytest.raises(InvalidInput, match="the result of 'tupled' does not fit"):
        await ran(bodies.tupled, returns=str)


async def test_the_caller_s_context_is_entered_around_the_function():
    within = (bodies.standing_in, ["key", 3])
    async with asyncio.timeout(PATIENCE):
        assert await run_in_process(bodies.where_am_i, (), {}, within=within) == ["key", 3]
        assert await run_in_process(bodies.where_am_i, (), {}) == []


async def test_what_a_child_tells_is_heard_before_its_result():
    heard = []
    async with asyncio.timeout(PATIENCE):
        assert await run_in_process(bodies.report, (5,), {}, heard=heard.append) == 5
        assert await run_in_process(bodies.report, (1,), {}) == 1  # nobody listens
    assert heard.pop() == {"x": 5, "y": 0.0}
    assert sorted(number for _, number in heard) == [0, 1, 2, 3, 4]
    assert {text for text, _ in heard} == {"x" * 70_000}


async def test_a_step_in_a_process_sees_its_attempt_and_is_retried_by_its_error():
    beats = []
    call = StepCall.bind(bodies.attempted, ("w",), {}, StepOptions())
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(bodies.Own) as caught:
            await call.attempt(Attempt("key", beat=beats.append), run_apart)
        assert call.retry.pause(1, caught.value) is not None
        value = await call.attempt(Attempt("key", 2, {"page": 3}, beats.append), run_apart)
    assert value == ("w", "key", 2, {"page": 3})
    assert beats == [{"word": "w"}] * 2


# -- what comes back


@pytest.mark.parametrize(
    ("how", "kind", "message", "args"),
    [
        ("value", ValueError, "wrong", ("wrong",)),
        ("key", KeyError, "'lost'", ("lost",)),
        ("own", bodies.Own, "('mine', 3, None)", ("mine", 3, None)),
        ("late", ModelUnavailable, "busy", ("busy",)),
        ("bytes", FileNotFoundError, "no file 'caf\\udce9.md'", ("no file 'caf\\udce9.md'",)),
    ],
    ids=["value", "key", "own", "late", "bytes"],
)
async def test_an_error_comes_back_as_the_type_it_was(how, kind, message, args):
    with pytest.raises(kind) as caught:
        await ran(bodies.fail, how)
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert caught.value.args == args
    assert 'process_bodies.py", line' in caught.value.__notes__[0]
    assert "in fail" in caught.value.__notes__[0]


async def test_what_an_error_carries_comes_back_too():
    with pytest.raises(ModelUnavailable) as caught:
        await ran(bodies.fail, "late")
    assert caught.value.retry_after == 45.0


async def test_an_error_whose_text_is_not_its_arguments_keeps_its_text(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        await ran(bodies.no_such_file, str(tmp_path / "absent"))
    assert str(caught.value) == f"[Errno 2] No such file or directory: {str(tmp_path / 'absent')!r}"


async def test_causes_come_back():
    with pytest.raises(ValueError, match="outer") as caught:
        await ran(bodies.chained)
    assert isinstance(caught.value.__cause__, bodies.Own)
    assert [each.type for each in ErrorInfo.of(caught.value).chain()] == [
        "ValueError",
        f"{bodies.__name__}.Own",
    ]


@pytest.mark.parametrize(
    ("how", "type_name", "message", "retryable"),
    [
        ("picky", f"{bodies.__name__}.Picky", "code 7", False),
        ("passing", f"{bodies.__name__}.PickyButPassing", "busy", True),
        ("stop", "StopIteration", "over", False),
        ("local", f"{bodies.__name__}.Local", "here", False),
        ("carried", "perdure.errors.StepFailed", "'inner' failed as a step: KeyError: 'k'", False),
    ],
    ids=["picky", "passing", "stop", "local", "carried"],
)
async def test_an_error_that_cannot_be_made_again_is_carried(how, type_name, message, retryable):
    with pytest.raises(ProcessFailed) as caught:
        await ran(bodies.fail, how)
    error = caught.value
    assert (error.name, error.error.type, error.error.message) == ("fail", type_name, message)
    assert isinstance(error, RetryableError) == error.error.retryable == ErrorInfo.of(error).retryable == retryable
    assert str(error) == f"'fail' failed in a child process: {error.error}"


@pytest.mark.parametrize(
    ("fn", "args", "how"),
    [
        (bodies.leave, (3,), "with exit code 3"),
        (bodies.leave, (0,), "with exit code 0"),
        (bodies.fail, ("exit",), "with exit code 4"),
        pytest.param(bodies.crash, (), r"by signal 11 \(Segmentation fault", marks=posix),
        pytest.param(bodies.mute, (), "by signal 9", marks=posix),
    ],
    ids=["it leaves", "it leaves in peace", "it exits", "it crashes", "it closes its mouth"],
)
async def test_a_child_that_dies_is_an_error_worth_another_attempt(fn, args, how, capfd):
    with pytest.raises(ProcessDied, match=f"the child process of '{fn.__name__}' ended {how}") as caught:
        await ran(fn, *args)
    assert isinstance(caught.value, RetryableError)
    assert await ran(bodies.add, 1) == 2.5
