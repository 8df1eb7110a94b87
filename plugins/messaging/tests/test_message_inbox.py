"""A message for a durable agent as a turn, and the turn's end as its reply."""

from __future__ import annotations

import pytest
from pydantic_core import from_json

from perdure import AgentId
from perdure.errors import UsageError
from perdure.messages import Envelope, ErrorInfo, RunView, TopicId
from perdure_messaging.inbox import ANCESTRY, Facts, answer_of, turn_of, untagged, with_ancestry

EDITOR = AgentId("news.editor", "a key/with signs")
DRAFT = Envelope(
    "m1",
    "request",
    EDITOR,
    "news.draft",
    b'{"text":"na\xc3\xafve \xe2\x98\x95","n":[1,2.5,null]}',
    AgentId("news.reporter", "7"),
    {"traceparent": "00-ab-cd-01", ANCESTRY: '["news.chief/1","run_1"]'},
    1000.5,
    content="application/json",
)


def view(**facts):
    about = {
        "id": "turn_1",
        "kind": "turn",
        "target": EDITOR.type,
        "created": 1.0,
        "updated": 2.0,
        "status": "completed",
    }
    return RunView(**{**about, **facts})


def test_a_message_comes_out_of_its_turn_as_it_went_in():
    start = turn_of(DRAFT, at=5.0)
    assert (start.kind, start.target, start.session, start.at) == ("turn", EDITOR.type, EDITOR.key, 5.0)
    assert (start.ancestry, start.headers) == (("news.chief/1", "run_1"), {"traceparent": "00-ab-cd-01"})
    value = from_json(start.input)
    type_, content, payload = untagged(value)
    again = Facts.model_validate(value["of"]).envelope(
        EDITOR, type_, payload, with_ancestry(start.headers, start.ancestry)
    )
    assert again._replace(content=content, headers=DRAFT.headers) == DRAFT
    assert from_json(again.headers[ANCESTRY]) == from_json(DRAFT.headers[ANCESTRY])


def test_bytes_that_are_no_json_come_out_as_they_went_in():
    packed = DRAFT._replace(payload=b"\x00\xff\x10", content="application/x-protobuf")
    assert untagged(from_json(turn_of(packed, at=5.0).input)) == (
        "news.draft",
        "application/x-protobuf",
        b"\x00\xff\x10",
    )


def test_one_message_is_one_turn_for_each_of_its_agents():
    event = DRAFT._replace(kind="event", sender=None, topic=TopicId("drafts", "7/x"))
    keys = [turn_of(event._replace(target=AgentId("news.editor", key)), at=5.0).key for key in ("1", "2", "1")]
    assert keys[0] == keys[2] != keys[1]
    start = turn_of(event, at=5.0)
    facts = Facts.model_validate(from_json(start.input)["of"])
    assert (facts.kind, facts.topic, facts.sender, start.ancestry) == ("event", "drafts/7/x", None, ())


@pytest.mark.parametrize(
    "odd",
    [{"target": None}, {"target": AgentId("news.editor", "")}, {"kind": "reply"}, {"content": ""}],
    ids=["no target", "no key", "reply", "live"],
)
def test_what_is_no_message_to_an_agent_as_bytes_is_no_turn(odd):
    with pytest.raises(UsageError, match="'m1' cannot become a turn"):
        turn_of(DRAFT._replace(**odd), at=5.0)


def test_a_finished_turn_is_a_reply_to_whoever_asked():
    answer = answer_of(DRAFT, view(result={"type": "news.article", "value": {"title": "x"}}))
    assert answer == Envelope("m1", "reply", DRAFT.sender, "news.article", b'{"title":"x"}', content="application/json")
    nothing = answer_of(DRAFT, view(result={"type": "none", "value": None}))
    assert (nothing.kind, nothing.payload) == ("reply", b"null")


def test_a_turn_that_did_not_complete_is_an_error_with_the_name_of_its_type():
    failed = answer_of(DRAFT, view(status="failed", error=ErrorInfo(type="app.NoSuchDraft", message="no draft")))
    assert (failed.kind, failed.target, failed.error.type) == ("error", DRAFT.sender, "app.NoSuchDraft")
    assert answer_of(DRAFT, view(status="terminated")).error.type == "perdure.errors.RunCancelled"
    parked = answer_of(DRAFT, view(status="parked", error=ErrorInfo(type="perdure.errors.UnknownName", message="gone")))
    assert [each.type for each in parked.error.chain()] == ["perdure.errors.RunParked", "perdure.errors.UnknownName"]
