"""Starting, watching, answering and cancelling, without a terminal."""

from __future__ import annotations

import json

import pytest


def test_a_workflow_is_run_and_its_result_printed(perdure) -> None:
    ran = perdure("run", "add", "first=2", "second=3")
    assert ran.code == 0
    assert ran.out == "5\n"
    assert "summed" in ran.err
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize("words", [("2", "3"), ("2", "second=3"), ("--input", '{"first": 2, "second": 3}')])
def test_arguments_come_in_order_by_name_or_as_json(words, perdure) -> None:
    assert perdure("run", "desk.add", *words).out == "5\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("third=3",), "has no 'third'"),
        (("1", "2", "3"), "one word too many"),
        (("first=1", "first=2"), "'first' twice"),
        (("first=one",), "first: "),
        ((), "first: "),
        (("--input", "{"), "--input is no JSON"),
        (("1", "--input", "{}"), "given twice"),
    ],
)
def test_input_that_does_not_fit_is_explained(words, says, perdure) -> None:
    ran = perdure("run", "add", *words)
    assert ran.code == 2
    assert says in ran.err
    assert perdure("runs", "--json").document == []


def test_an_agent_is_run_in_a_session(perdure) -> None:
    ran = perdure("run", "clerk", 'Read "shelf/7"', "--session", "s", "--json")
    assert ran.code == 0
    assert "ninety books" in ran.document["result"]["text"]
    assert ran.document["session"] == "s"


def test_a_run_tells_how_far_it_has_come_while_it_is_followed(perdure) -> None:
    assert "1/2 asking the clerk\n" in perdure("run", "consult").err


def test_the_same_key_is_the_same_run(perdure) -> None:
    first = perdure("run", "add", "1", "--key", "k", "--json").document
    second = perdure("run", "add", "1", "--key", "k", "--json").document
    assert first["id"] == second["id"]


def test_a_failed_run_ends_with_one(perdure) -> None:
    ran = perdure("run", "fail")
    assert ran.code == 1
    assert "the lamp is broken" in ran.err
    assert "Traceback" not in ran.err
    ran = perdure("run", "fail", "--json")
    assert ran.code == 1
    assert ran.document["status"] == "failed"


def waiting(perdure) -> dict:
    ran = perdure("run", "approve", "text=this", "--json")
    assert ran.code == 3
    return ran.document


def test_a_request_without_a_terminal_is_left_open_and_explained(perdure) -> None:
    ran = perdure("run", "approve", "text=this")
    assert ran.code == 3
    assert "Approve this?" in ran.out
    assert "perdure answer req_" in ran.out
    assert "approved=true" in ran.out
    assert "--follow" in ran.out


@pytest.mark.parametrize(
    "words",
    [
        ("approved=true", "note=a = b", "copies=2"),
        ('{"approved": true, "note": "a = b", "copies": 2}',),
        ("true", "green", "2", "a = b"),
    ],
)
def test_a_request_is_answered_and_the_run_goes_on(words, perdure) -> None:
    view = waiting(perdure)
    ran = perdure("answer", view["requests"][0]["id"], *words)
    assert ran.code == 0
    assert "no process drives it at present" in ran.out
    ran = perdure("show", view["id"], "--follow")
    assert ran.code == 0
    assert "'copies': 2, 'note': 'a = b'" in ran.out


@pytest.mark.parametrize("words", [("approved=perhaps",), ('{"approved": 1}',), ("shade=red",), ("[",)])
def test_an_answer_that_does_not_fit_is_refused_and_the_request_stays_open(words, perdure) -> None:
    request = waiting(perdure)["requests"][0]["id"]
    assert perdure("answer", request, *words).code == 2
    assert perdure("answer", request, "approved=true", "--json").document["driven"] is False
    ran = perdure("answer", request, "approved=true")
    assert ran.code == 2
    assert "answered" in ran.err


def test_an_unknown_request_and_a_missing_value_are_explained(perdure) -> None:
    ran = perdure("answer", "req_x", "true")
    assert ran.code == 2
    assert "perdure runs --status waiting" in ran.err
    ran = perdure("answer", waiting(perdure)["requests"][0]["id"])
    assert ran.code == 2
    assert "no terminal" in ran.err


def test_a_detached_run_is_only_accepted(perdure) -> None:
    ran = perdure("run", "add", "1", "--detach", "--json")
    assert ran.code == 0
    assert ran.document["driven"] is False
    assert ran.document["run"]["status"] == "pending"
    assert perdure("show", ran.document["run"]["id"], "--follow").out == "2\n"


def test_a_run_is_cancelled(perdure) -> None:
    view = waiting(perdure)
    ran = perdure("cancel", view["id"], "--reason", "changed my mind")
    assert ran.code == 0
    assert "no process drives it at present" in ran.out
    ran = perdure("show", view["id"], "--follow")
    assert ran.code == 1
    assert "changed my mind" in ran.err
    assert "cancelled already" in perdure("cancel", view["id"]).out
    assert perdure("cancel", "run_x").code == 2


def test_runs_are_listed_newest_first_and_filtered(perdure) -> None:
    perdure("run", "add", "1")
    perdure("run", "clerk", 'Read "shelf/7"', "--session", "mine")
    perdure("run", "fail")
    assert [view["target"] for view in perdure("runs", "--json").document] == ["desk.fail", "desk.clerk", "desk.add"]
    assert [view["target"] for view in perdure("runs", "--json", "--limit", "1").document] == ["desk.fail"]
    assert [view["target"] for view in perdure("runs", "--json", "--status", "failed").document] == ["desk.fail"]
    assert [view["target"] for view in perdure("runs", "--json", "--target", "add").document] == ["desk.add"]
    shown = perdure("runs").out
    assert "mine" in shown
    assert all(len(line) <= 160 for line in shown.splitlines())


def test_a_run_is_shown_with_its_journal_as_a_tree(perdure) -> None:
    run = perdure("run", "insist", "--json").document["id"]
    ran = perdure("show", run)
    assert ran.code == 0
    assert "completed" in ran.out
    assert "stubborn#1" in ran.out
    assert "attempt 1" in ran.out
    assert "3 attempts" in ran.out
    document = perdure("show", run, "--json").document
    assert [entry["kind"] for entry in document["journal"]] == ["attempt", "attempt", "step"]
    assert document["journal"][-1]["value"] == 3


def test_what_a_run_has_called_is_shown_below_it(perdure) -> None:
    view = perdure("run", "consult", "--json").document
    document = perdure("show", view["id"], "--json").document
    (child,) = document["called"].values()
    assert child["run"]["target"] == "desk.clerk"
    assert [entry["role"] for entry in child["journal"]] == ["model", "tool", "model"]
    assert perdure("show", view["id"], "--depth", "0", "--json").document["called"] == {}
    shown = perdure("show", view["id"]).out
    assert child["run"]["id"] in shown
    assert "look_up#1" in shown
    assert "Is that enough?" in shown
    assert perdure("answer", view["requests"][0]["id"], "true").code == 0
    assert "ninety books" in perdure("show", view["id"], "--follow").out


def test_an_unknown_run_is_explained(perdure) -> None:
    ran = perdure("show", "run_x")
    assert ran.code == 2
    assert "perdure runs" in ran.err


def test_a_chat_goes_on_where_it_stopped(perdure, monkeypatch, desk) -> None:
    def talk(*words: str, text: str):
        (desk / "said").write_text(text)
        with (desk / "said").open() as file:
            monkeypatch.setattr("sys.stdin", file)
            return perdure("chat", "clerk", *words)

    ran = talk(text='Read "shelf/7"\n\nRead "shelf/8"\n')
    assert ran.code == 0
    assert "shelf/7" in ran.out
    assert "shelf/8" in ran.out
    session = ran.err.split()[1]
    assert f"perdure chat desk.clerk --session {session}" in ran.err
    ran = talk("--session", session, "--json", text="Who are you?\n")
    assert ran.document["session"] == session
    assert json.dumps(ran.document["turns"][0]["status"]) == '"completed"'
    assert len(perdure("runs", "--json").document) == 3
    assert perdure("chat", "nobody").code == 2
