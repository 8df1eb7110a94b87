"""Runs that outlive calls, clients and servers; people who answer."""

import asyncio
import os
import signal

import pytest
from mcp.shared.exceptions import MCPError
from opentelemetry import trace

from perdure import Runtime, config

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODES = ("legacy", "2026-07-28")
UNDER_WAY = {"pending", "running"}
FERRY = (
    "The ferry leaves the northern harbour at nine in the morning. The museum is shut on Mondays. "
    "Bread is baked twice a day."
)


async def test_a_request_is_answered_and_the_result_comes(shop, call, refusal):
    client = await shop.client()
    asked = await client.call_tool("approve", {"what": "Send it?"})
    [request] = asked.structured_content["requests"]
    run = asked.structured_content["run_id"]
    wrong = await refusal(client, "answer_request", request_id=request["request_id"], answer="yes")
    still = await call(client, "get_run", run_id=run, wait=50)
    done = await call(client, "answer_request", request_id=request["request_id"], answer={"approved": True})
    late = await refusal(client, "answer_request", request_id=request["request_id"], answer={"approved": False})
    seen = await call(client, "get_run", run_id=run)
    assert asked.structured_content["status"] == "waiting"
    assert "answer_request" in asked.content[1].text
    assert request["prompt"] == "Send it?"
    assert request["answer_schema"]["required"] == ["approved"]
    assert request["deadline"].endswith("+00:00")
    assert "'yes' is not of type 'object'; the request stays open" in wrong
    assert still["requests"] == [request]
    assert done == {"run_id": run, "status": "completed", "result": {"approved": True}}
    assert "a request is answered once" in late
    assert seen == done


async def test_what_a_called_workflow_asks_is_asked_by_the_run_that_was_called(shop, call):
    client = await shop.client()
    asked = await call(client, "delegate", what="Send it?")
    [request] = asked["requests"]
    done = await call(client, "answer_request", request_id=request["request_id"], answer={"approved": False})
    assert asked["status"] == "waiting"
    assert done == {"run_id": asked["run_id"], "status": "completed", "result": {"approved": False}}


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_times_out_or_cancels_leaves_the_run_alone(shop, call, gate, mode):
    client = await shop.client(mode)
    with pytest.raises(MCPError, match="timed out"):
        await client.call_tool("gate", {"port": gate.port, "idempotency_key": "t"}, read_timeout_seconds=0.5)
    await gate.arrival()
    cancelled = asyncio.create_task(client.call_tool("gate", {"port": gate.port, "idempotency_key": "t"}))
    again = asyncio.create_task(call(client, "gate", port=gate.port, idempotency_key="t"))
    await client.call_tool("nothing", {})  # both calls have arrived by now
    cancelled.cancel()
    await asyncio.wait([cancelled])
    process = await gate.open()
    done = await again
    seen = await call(client, "get_run", run_id=done["run_id"])
    assert done["status"] == "completed"
    assert done["result"] == process
    assert seen == done


async def test_progress_is_told_while_a_call_waits_and_names_the_run(shop, gate):
    told: list[tuple[float, str]] = []
    enough = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((progress, message))
        if len(told) >= 3:
            enough.set()

    client = await shop.client()
    called = asyncio.create_task(client.call_tool("gate", {"port": gate.port}, progress_callback=note))
    await enough.wait()
    await gate.open()
    run = (await called).structured_content["run_id"]
    values = [progress for progress, _ in told]
    assert values == sorted(set(values))
    assert all(message.startswith(run) for _, message in told)


async def test_a_call_returns_when_its_budget_is_spent_and_the_run_goes_on(serve, call, gate):
    async with serve("--app", "mcp_shop:app", "--wait-budget", "0.2") as client:
        going = await client.call_tool("gate", {"port": gate.port})
        run = going.structured_content["run_id"]
        still = await call(client, "get_run", run_id=run, wait=1000)
        sleeping = await client.call_tool("patience", {})
        process = await gate.open()
        while (done := await call(client, "get_run", run_id=run, wait=1000))["status"] in UNDER_WAY:
            pass
    assert going.structured_content.keys() == {"run_id", "status"}
    assert going.structured_content["status"] in UNDER_WAY
    assert "get_run" in going.content[1].text
    assert still == going.structured_content
    assert sleeping.structured_content["status"] == "waiting"
    assert "requests" not in sleeping.structured_content
    assert done["result"] == process


async def test_the_wait_budget_is_a_setting(serve, call, gate, tmp_path):
    (tmp_path / "perdure.toml").write_text("[mcp]\nwait_budget = 0\n")
    async with serve() as client:
        going = await call(client, "gate", port=gate.port)
        await gate.open()
    assert going["status"] in UNDER_WAY


async def test_a_run_is_cancelled_only_when_that_is_asked_for(serve, call):
    async with serve("--app", "mcp_shop:app", "--wait-budget", "0.2") as client:
        waiting = await call(client, "patience")
    async with serve() as client:
        alive = await call(client, "get_run", run_id=waiting["run_id"])
        gone = await call(client, "cancel_run", run_id=waiting["run_id"], reason="changed my mind")
        again = await call(client, "cancel_run", run_id=waiting["run_id"])
    assert alive["status"] == "waiting"
    assert gone["status"] == "cancelled"
    assert "changed my mind" in gone["error"]["message"]
    assert again == gone


@pytest.mark.parametrize("mode", MODES)
async def test_a_conversation_goes_on_after_kill_9(serve, call, mode):
    async with serve(mode=mode) as client:
        said = await call(client, "clerk", message=FERRY)
        server = (await call(client, "who"))["result"]
        os.kill(server, signal.SIGKILL)
    async with serve(mode=mode) as client:
        answer = await call(client, "clerk", message="When does the ferry leave?", session_id=said["session_id"])
        fresh = await call(client, "clerk", message="When does the ferry leave?")
    assert answer["session_id"] == said["session_id"]
    assert "nine in the morning" in answer["result"]
    assert fresh["session_id"] != said["session_id"]
    assert "nine in the morning" not in fresh["result"]


async def test_a_run_goes_on_after_kill_9_and_repeats_no_recorded_step(serve, call, gate, tmp_path):
    witness = tmp_path / "witness.txt"
    arguments = {"path": str(witness), "port": gate.port, "idempotency_key": "k"}
    async with serve() as client:
        lost = asyncio.create_task(client.call_tool("two_steps", arguments))
        os.kill(await gate.arrival(), signal.SIGKILL)
        with pytest.raises(MCPError, match="Connection closed"):
            await lost
    await gate.forget()
    async with serve() as client:
        done = asyncio.create_task(call(client, "two_steps", **arguments))
        await gate.open()
        assert (await done)["result"] == ["first", "second"]
    assert witness.read_text().split() == ["first", "second"]


async def test_two_servers_share_one_database_and_one_outlives_the_other(serve, call, gate, tmp_path):
    witness = tmp_path / "witness.txt"
    arguments = {"path": str(witness), "port": gate.port, "idempotency_key": "k"}
    async with serve() as first, serve(mode="legacy") as second:
        through_second = await call(second, "order", order={"item": "stamp", "amount": 1})
        seen_by_first = await call(first, "get_run", run_id=through_second["run_id"])
        asked = await call(first, "approve", what="Send it?")
        request = asked["requests"][0]["request_id"]
        answered = await call(second, "answer_request", request_id=request, answer={"approved": True})
        driver = (await call(first, "who"))["result"]
        same_driver = (await call(second, "who"))["result"]

        calls = {asyncio.create_task(call(client, "two_steps", **arguments)) for client in (first, second)}
        assert await gate.arrival() == driver
        os.kill(driver, signal.SIGKILL)
        [lost], waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        assert isinstance(lost.exception(), MCPError)
        await gate.forget()
        heir = await gate.open()
        done = await waiting.pop()
    assert seen_by_first == through_second
    assert answered["result"] == {"approved": True}
    assert same_driver == driver
    assert heir != driver
    assert done["result"] == ["first", "second"]
    assert witness.read_text().split() == ["first", "second"]


async def test_the_runtime_starts_runs_under_the_clients_trace(shop):
    caller = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=True)
    client = await shop.client()
    with trace.use_span(trace.NonRecordingSpan(caller)):
        result = await client.call_tool("nothing", {})
    settings = config.Settings(
        data=shop.data(), plugins=config.PluginSettings(allow={"store-sqlite", "engine-embedded"})
    )
    async with Runtime.open(settings=settings, drive=False) as runtime:
        view = await runtime.view(result.structured_content["run_id"])
    assert view.headers["trace"] == f"{caller.trace_id:032x}"
