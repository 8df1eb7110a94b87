"""What a client sees and gets: tools, schemas, results, refusals."""

import json

import pytest
from mcp.shared.exceptions import MCPError

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODES = ("legacy", "auto", "2026-07-28")
STATUSES = {"pending", "running", "waiting", "completed", "failed", "cancelled", "terminated", "parked", "suspended"}


@pytest.mark.parametrize("mode", MODES)
async def test_every_agent_and_workflow_is_a_tool_with_its_schema(shop, mode):
    client = await shop.client(mode)
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    own = {"order", "gate", "two_steps", "approve", "delegate", "patience", "fail", "nothing", "keyed", "who"}
    assert tools.keys() == {"clerk", "scribe", *own, "get_run", "answer_request", "cancel_run"}
    order = tools["order"]
    assert order.description.startswith("Order something.\n\n")
    assert order.title == "shop.order"
    assert order.input_schema["properties"].keys() == {"order", "express", "idempotency_key"}
    assert order.input_schema["required"] == ["order"]
    assert order.input_schema["$defs"]["Order"]["properties"]["amount"]["minimum"] == 1
    assert tools["clerk"].description.startswith("Sells things.")
    assert tools["clerk"].input_schema["properties"].keys() == {"message", "session_id", "idempotency_key"}
    assert tools["clerk"].input_schema["required"] == ["message"]
    for tool in tools.values():
        fields = tool.output_schema["properties"]
        assert fields.keys() == {"run_id", "status", "result", "requests", "error", "session_id"}
        assert set(fields["status"]["enum"]) == STATUSES
    assert tools["clerk"].output_schema["properties"]["result"]["type"] == "string"
    assert tools["scribe"].output_schema["properties"]["result"]["required"] == ["headline"]
    assert tools["nothing"].output_schema["properties"]["result"]["type"] == "null"
    assert tools["get_run"].annotations.read_only_hint
    assert tools["cancel_run"].annotations.destructive_hint


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_instructions_name_the_apps_and_say_how_to_wait_and_answer(shop, mode):
    client = await shop.client(mode)
    says = client.instructions
    assert "- shop: Sells things by post. Tools: approve (workflow), clerk (agent)" in says
    for word in ("get_run", "answer_request", "cancel_run", "idempotency_key", "session_id"):
        assert word in says


@pytest.mark.parametrize("mode", MODES)
async def test_results_are_structured_and_a_copy_of_them_is_text(shop, mode):
    client = await shop.client(mode)
    ordered = await client.call_tool("order", {"order": {"item": "stamp", "amount": 2}})
    nothing = await client.call_tool("nothing", {})
    summary = await client.call_tool("scribe", {"message": "The ferry leaves at nine in the morning."})
    assert ordered.structured_content["status"] == "completed"
    assert ordered.structured_content["result"] == {"order": {"item": "stamp", "amount": 2}, "lines": ["2 x stamp"]}
    assert json.loads(ordered.content[0].text) == ordered.structured_content
    assert nothing.structured_content.keys() == {"run_id", "status", "result"}
    assert nothing.structured_content["result"] is None
    assert summary.structured_content["result"]["headline"]
    assert summary.structured_content["session_id"]


async def test_a_call_that_does_not_fit_is_told_the_field_and_what_was_expected(shop, refusal):
    client = await shop.client()
    wrong = await refusal(client, "order", order={"item": "stamp", "amount": 0})
    missing = await refusal(client, "order", ordr={})
    no_text = await refusal(client, "clerk", message=7)
    unknown = await refusal(client, "clerk", message="hello", sesion_id="s")
    no_key = await refusal(client, "order", order={"item": "stamp", "amount": 1}, idempotency_key=7)
    no_run = await refusal(client, "get_run", run_id="run_unheard_of")
    no_request = await refusal(client, "answer_request", request_id="req_unheard_of", answer=True)
    not_cancelled = await refusal(client, "cancel_run", run_id="run_unheard_of")
    no_wait = await refusal(client, "get_run", run_id="run_unheard_of", wait=-1)
    too_large = await refusal(client, "clerk", message="x" * (5 * 1024 * 1024))
    with pytest.raises(MCPError, match=r"unknown tool 'ordr'; known: .*order"):
        await client.call_tool("ordr", {})
    assert "order.amount: input should be greater than or equal to 1 (got 0)" in wrong
    assert "order: field required" in missing
    assert "ordr: extra inputs are not permitted" in missing
    assert "message: input should be a valid string (got 7)" in no_text
    assert "sesion_id: extra inputs are not permitted" in unknown
    assert "'idempotency_key'" in no_key
    assert "unknown run 'run_unheard_of'; take the run_id" in no_run
    assert "unknown request 'req_unheard_of'; take the request_id" in no_request
    assert "unknown run 'run_unheard_of'" in not_cancelled
    assert "wait: input should be greater than or equal to 0" in no_wait
    assert "5,242,882 bytes, the limit is 4,194,304" in too_large


async def test_the_same_key_is_the_same_run(shop, call):
    client = await shop.client()
    first = await call(client, "order", order={"item": "stamp", "amount": 1}, idempotency_key="k")
    again = await call(client, "order", order={"item": "stamp", "amount": 9}, idempotency_key="k")
    other = await call(client, "order", order={"item": "stamp", "amount": 1}, idempotency_key="l")
    said = await call(client, "clerk", message="hello", idempotency_key="k")
    said_again = await call(client, "clerk", message="hello", idempotency_key="k")
    assert again == first
    assert other["run_id"] != first["run_id"]
    assert said_again == said


async def test_a_workflows_own_idempotency_key_is_its_own(shop, call):
    client = await shop.client()
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    one = await call(client, "keyed", idempotency_key="mine", perdure_idempotency_key="k")
    two = await call(client, "keyed", idempotency_key="yours", perdure_idempotency_key="k")
    assert tools["keyed"].input_schema["properties"].keys() == {"idempotency_key", "perdure_idempotency_key"}
    assert one["result"] == "mine"
    assert two == one


async def test_a_failed_run_is_a_result_that_says_so_and_no_log_has_its_contents(serve, call, stderr):
    async with serve() as client:
        failed = await call(client, "fail", detail="the password is xyzzy")
        seen = await call(client, "get_run", run_id=failed["run_id"])
    assert failed["status"] == "failed"
    assert "result" not in failed
    assert failed["error"]["type"] == "perdure.errors.StepFailed"
    assert "ValueError: the password is xyzzy" in failed["error"]["message"]
    assert seen == failed
    assert "xyzzy" not in stderr.read_text()


async def test_what_apps_print_is_no_protocol(serve, call, stderr):
    async with serve() as client:
        await call(client, "order", order={"item": "stamp", "amount": 1})
    assert "an app that prints while it is imported" in stderr.read_text()
    assert "a step that prints" in stderr.read_text()


async def test_names_that_several_apps_share_are_told_apart(serve, call, refusal):
    async with serve("--app", "mcp_shop:app", "--app", "mcp_shop:other") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        shown = await call(client, "museum__clerk", message="hello")
    async with serve("--app", "mcp_shop:other") as client:
        alone = {tool.name for tool in (await client.list_tools()).tools}
        known = await call(client, "get_run", run_id=shown["run_id"])
    async with serve() as client:
        hidden = await refusal(client, "get_run", run_id=shown["run_id"])
        untouched = await refusal(client, "cancel_run", run_id=shown["run_id"])
    assert {"shop__clerk", "museum__clerk", "shop__patience", "museum__patience", "scribe"} <= names
    assert "clerk" not in names
    assert alone == {"clerk", "patience", "get_run", "answer_request", "cancel_run"}
    assert known == shown
    assert "unknown run" in hidden
    assert "unknown run" in untouched
