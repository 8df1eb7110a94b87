"""Commands that hand something to a run: with another process that drives, and with none."""

from __future__ import annotations

from pathlib import Path

import pytest

BOUNDED = ("--timeout", "60s")


def begun(perdure, *words: str) -> str:
    document = perdure("run", *words, "--detach", "--json").document
    return document["run"]["id"]


def status_of(perdure, run: str) -> str:
    return perdure("show", run, "--json").document["run"]["status"]


# -- another process drives -----------------------------------------------------------------------------------


def test_events_reach_a_run_that_another_process_drives(driven) -> None:
    run = begun(driven, "journey", "--id", "by-events")
    assert run == "by-events"
    sent = driven("send", run, "arrived", '"Rome"', "--key", "first", "--json").document
    assert sent.pop("status") in {"running", "waiting"}  # the other process is at it
    assert sent == {"run": run, "asked": True, "driven": True}
    assert driven("send", run, "arrived", '"Rome"', "--key", "first", "--json").document["asked"] is False
    assert "was sent to run by-events before" in driven("send", run, "arrived", '"Rome"', "--key", "first").out
    assert driven("send", run, "arrived", '"Oslo"').code == 0
    ran = driven("wait", run, *BOUNDED)
    assert ran.code == 0
    assert [line.strip(' ",') for line in ran.out.splitlines()] == ["[", "Rome", "Oslo", "]"]
    assert ran.err == ""
    ran = driven("send", run, "arrived", '"Bonn"')
    assert ran.code == 2
    assert "nothing to send an event to" in ran.err


def test_a_payload_that_is_no_json_is_refused(driven) -> None:
    run = begun(driven, "journey")
    ran = driven("send", run, "arrived", "Rome")
    assert ran.code == 2
    assert "the payload is no JSON" in ran.err
    assert driven("send", "run_x", "arrived").code == 2


def test_a_run_is_asked_and_changed_while_another_process_drives(driven) -> None:
    run = begun(driven, "journey")
    assert driven("update", run, "visit", "town=Rome").out == "1\n"
    assert driven("update", run, "visit", "--input", '{"town": "Oslo"}', "--json", "--key", "k").document == 2
    assert driven("update", run, "visit", "town=Oslo", "--json", "--key", "k").document == 2
    assert driven("query", run, "where", "--json").document == ["Rome", "Oslo"]
    assert driven("query", run, "where", "upper=true", "--json").document == ["ROME", "OSLO"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("update", "visit", "town=rome"), "rome is no town"),
        (("update", "visit", "village=Rome"), "village"),
        (("update", "leave"), "'leave'"),
        (("update", "visit", "Rome"), "expected key=value, got 'Rome'"),
        (("update", "visit", "town=Rome", "town=Oslo"), "'town' twice"),
        (("update", "visit", "town=Rome", "--input", "{}"), "given twice"),
        (("update", "visit", "--input", "[]"), "expected an object"),
        (("query", "whither"), "'whither'"),
        (("query", "where", "upper=perhaps"), "upper"),
    ],
)
def test_a_question_that_does_not_fit_is_explained(words, says, driven, until) -> None:
    run = begun(driven, "journey", "--id", "asked-badly")
    command, *rest = words
    ran = driven(command, run, *rest)
    assert ran.code == 2
    assert says in ran.err
    until(driven, run, "waiting")


def test_a_suspended_run_takes_nothing_until_it_is_resumed(driven, until) -> None:
    run = begun(driven, "journey", "towns=1")
    until(driven, run, "waiting")
    suspended = driven("suspend", run, "--reason", "a look", "--json").document
    assert suspended == {"run": run, "status": "suspended", "asked": True, "driven": True}
    assert f"run {run} is suspended already" in driven("suspend", run).out
    assert "suspended  a look" in driven("show", run).out
    ran = driven("send", run, "arrived", '"Rome"')
    assert "what arrives for it waits" in ran.out
    assert f"perdure resume {run}" in ran.out
    ran = driven("wait", run, "--timeout", "0s")
    assert ran.code == 3
    assert f"perdure resume {run}" in ran.out
    assert driven("show", run, "--follow").code == 3
    assert driven("resume", run, "--json").document["driven"] is True
    assert "Rome" in driven("wait", run, *BOUNDED).out
    assert driven("resume", run).code == 2


@pytest.mark.parametrize(("command", "status"), [("cancel", "cancelled"), ("terminate", "terminated")])
def test_a_run_that_another_process_drives_is_ended(command, status, driven) -> None:
    run = begun(driven, "approve", "text=this")
    ended = driven(command, run, "--reason", "enough", "--json").document
    assert ended == {"run": run, "status": status, "asked": True, "driven": True}
    assert driven(command, run, "--json").document["asked"] is False
    ran = driven("wait", run, *BOUNDED)
    assert ran.code == 1
    assert ran.err == f"perdure: run '{run}' was {status}: enough\n"


def test_a_failed_run_is_retried_from_the_step_that_failed(driven, desk) -> None:
    run = begun(driven, "mend", f"path={desk / 'nail'}")
    assert driven("wait", run, *BOUNDED).code == 1
    assert driven("retry", run, "--at", "9", "--json").code == 0
    assert driven("wait", run, *BOUNDED).code == 1
    Path("nail").write_text("Nail")
    ran = driven("retry", run, "--json")
    assert ran.document["driven"] is True
    assert driven("wait", run, *BOUNDED).out == "Hammer and Nail\n"
    journal = driven("show", run, "--json").document["journal"]
    assert [(entry["number"], entry["name"], entry["error"]) for entry in journal] == [
        (1, "noted", None),
        (2, "found", None),
    ]
    ran = driven("retry", run)
    assert ran.code == 2
    assert "--at N" in ran.err
    assert driven("retry", run, "--at", "1").code == 0


def test_what_has_not_finished_is_not_retried(driven) -> None:
    ran = driven("retry", begun(driven, "journey"))
    assert ran.code == 2
    assert "has not finished" in ran.err


def test_a_run_is_forked_from_any_line_of_its_journal(driven, desk) -> None:
    Path("nail").write_text("Nail")
    run = begun(driven, "mend", f"path={desk / 'nail'}", "--tag", "kept=yes")
    assert driven("wait", run, *BOUNDED).out == "Hammer and Nail\n"
    Path("nail").write_text("Screw")
    forked = driven("fork", run, "--at", "1", "--id", f"{run}-again", "--json").document
    assert forked["run"]["id"] == f"{run}-again"
    assert forked["run"]["tags"] == {"kept": "yes"}
    assert driven("wait", f"{run}-again", *BOUNDED).out == "Hammer and Screw\n"
    assert driven("wait", run, *BOUNDED).out == "Hammer and Nail\n"
    ran = driven("fork", run, "--at", "1", "--id", f"{run}-again")
    assert ran.code == 2
    assert "is there already" in ran.err
    assert driven("fork", run).code == 2


def test_a_wait_ends_with_its_time_or_with_a_question(driven, until) -> None:
    run = begun(driven, "approve", "text=this")
    until(driven, run, "waiting")
    ran = driven("wait", run, "--timeout", "0s")
    assert ran.code == 3
    assert f"run {run} is waiting" in ran.out
    ran = driven("wait", run, *BOUNDED, "--until-waiting", "--json")
    assert ran.code == 3
    (request,) = ran.document["requests"]
    assert driven("answer", request["id"], "approved=true").code == 0
    assert driven("wait", run, *BOUNDED, "--json").document["status"] == "completed"
    assert driven("wait", "run_x", *BOUNDED).code == 2


def test_a_parked_run_is_resumed_with_code_that_fits(perdure, bare, start, monkeypatch, desk) -> None:
    run = perdure("run", "journey", "towns=1", "--detach", "--json").document["run"]["id"]
    Path("empty_desk.py").write_text("from perdure import App\napp = App('desk')\n")
    monkeypatch.syspath_prepend(str(desk))
    ran = bare("show", run, "--follow", "--app", "empty_desk:app")
    assert ran.code == 1
    assert "is parked: " in ran.err
    assert bare("runs", "--target", "desk.journey", "--json").document[0]["status"] == "parked"
    assert "what arrives for it waits" in perdure("send", run, "arrived", '"Rome"').out
    assert "is parked already" in perdure("suspend", run).out
    ran = perdure("resume", run)
    assert ran.code == 0
    assert "no process drives it at present" in ran.out
    assert start("worker", "--json").line()["state"] == "ready"
    assert "Rome" in perdure("wait", run, *BOUNDED).out


# -- nobody drives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("send", "arrived", '"Rome"'), ("suspend",), ("cancel",), ("terminate",)],
    ids=["send", "suspend", "cancel", "terminate"],
)
def test_what_nobody_takes_up_is_said_to_be_safe(words, perdure) -> None:
    run = perdure("run", "journey", "--detach", "--json").document["run"]["id"]
    command, *rest = words
    ran = perdure(command, run, *rest)
    assert ran.code == 0
    assert "no process drives it at present" in ran.out
    assert "perdure worker" in ran.out


def test_an_update_that_nobody_takes_up_stands_when_its_time_is_over(perdure, start) -> None:
    run = perdure("run", "journey", "--detach", "--json").document["run"]["id"]
    ran = perdure("update", run, "visit", "town=Rome", "--key", "k", "--timeout", "3s")
    assert ran.code == 3
    assert "no process drives it" in ran.err
    assert "'k'" in ran.err
    assert start("worker", "--json").line()["state"] == "ready"
    assert perdure("update", run, "visit", "town=Rome", "--key", "k").out == "1\n"


def test_a_query_needs_nobody_who_drives(perdure) -> None:
    run = perdure("run", "journey", "--detach", "--json").document["run"]["id"]
    assert perdure("query", run, "where", "--json").document == []


# -- beginning ---------------------------------------------------------------------------------------------------


def test_a_run_has_the_id_that_was_chosen_and_what_that_means_again_is_said(perdure, desk) -> None:
    words = ("run", "mend", f"path={desk / 'nail'}", "--id", "mend-1")
    assert perdure(*words).code == 1
    ran = perdure(*words)
    assert ran.code == 1
    assert "was started before" in ran.err
    assert perdure(*words, "--reuse", "fail").code == 2
    Path("nail").write_text("Nail")
    assert perdure(*words, "--reuse", "restart-failed").out == "Hammer and Nail\n"
    Path("nail").write_text("Screw")
    assert perdure(*words, "--reuse", "restart-failed").out == "Hammer and Nail\n"
    assert perdure(*words, "--reuse", "restart").out == "Hammer and Screw\n"
    assert "generation 2, begun anew" in perdure("show", "mend-1").out


def test_a_delayed_run_is_accepted_and_says_when_it_begins(perdure) -> None:
    ran = perdure("run", "add", "1", "--delay", "2h", "--detach", "--id", "later", "--tag", "who=Ada")
    assert ran.code == 0
    assert "it begins at " in ran.out
    shown = perdure("show", "later").out
    assert "begins     20" in shown
    assert "tags       who=Ada" in shown
    assert status_of(perdure, "later") == "pending"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--delay", "soon"), "'soon' is no duration"),
        (("--tag", "urgent"), "--tag: expected key=value"),
        (("--tag", "a=1", "--tag", "a=2"), "'a' twice"),
        (("--reuse", "never"), "restart-failed"),
    ],
    ids=["delay", "tag", "twice", "reuse"],
)
def test_options_of_a_start_that_do_not_fit_are_explained(words, says, perdure) -> None:
    ran = perdure("run", "add", "1", *words)
    assert ran.code == 2
    assert says in ran.err
