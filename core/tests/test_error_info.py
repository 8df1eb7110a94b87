"""Exceptions as data."""

from perdure.errors import CallFailed, ModelUnavailable, StepFailed
from perdure.messages import ErrorInfo


def test_an_error_that_quotes_an_undecodable_file_name_can_be_written():
    info = ErrorInfo.of(FileNotFoundError("no file 'caf\udce9.md'"))
    assert info.message == "no file 'caf\\udce9.md'"
    assert ErrorInfo.model_validate_json(info.model_dump_json()) == info


def chained() -> BaseException:
    try:
        try:
            raise KeyError("inner")  # noqa: TRY301
        except KeyError as error:
            raise ModelUnavailable("outer") from error
    except ModelUnavailable as error:
        return error


def test_causes_and_qualified_names_are_kept():
    info = ErrorInfo.of(chained())
    assert [each.type for each in info.chain()] == ["perdure.errors.ModelUnavailable", "KeyError"]
    assert (info.retryable, str(info)) == (True, "perdure.errors.ModelUnavailable: outer (from KeyError: 'inner')")


def test_of_a_group_the_first_error_is_the_cause():
    info = ErrorInfo.of(ExceptionGroup("two", [ValueError("a"), ValueError("b")]))
    assert [(each.type, each.message) for each in info.chain()][1:] == [("ValueError", "a")]


def test_causes_in_a_circle_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert 2 < len(ErrorInfo.of(first).chain()) < 50


def test_a_failure_that_is_carried_on_keeps_what_it_carries():
    inner = ErrorInfo.of(LookupError("gone"))
    info = ErrorInfo.of(CallFailed("app.flow", ErrorInfo.of(StepFailed("fetch", inner))))
    assert [each.type.rpartition(".")[2] for each in info.chain()] == ["CallFailed", "StepFailed", "LookupError"]


def test_an_error_that_only_carries_another_one_is_not_kept():
    class Passing(Exception):
        passed_on = ErrorInfo.of(ValueError("the handler's own"))

    assert str(ErrorInfo.of(Passing("on its way"))) == "ValueError: the handler's own"
