"""The promises about the author's code, about what is stored, and about what others get to see."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure import AgentId
from perdure.errors import RunFailed, RunParked
from perdure.messages import Delivery, ErrorInfo
from perdure.testing import Harness
from perdure_otel import Otel, Settings
from perdure_otel.contexts import span_id

from . import house
from .bench import Bench
from .ground import Ground
from .house import traces


class OfCode(Bench):
    """P9, P12, P15, P16, P17."""

    @pytest.mark.promise("P9")
    async def test_volatile_and_durable_see_the_same_results_and_the_same_errors(self, ground: Ground) -> None:
        async with ground.open() as h:
            volatile = (await self.within(h.runtime.send("v", AgentId("house.probe", "s")))).text
            durable = (await self.within(h.call(house.probe, "v", session="t"))).text
        assert volatile == durable
        assert "(1, 1)" in volatile
        assert "StepFailed from LookupError" in volatile
        assert "CallFailed from RuntimeError" in volatile.replace("perdure.errors.StepFailed from ", "")

    @pytest.mark.promise("P12")
    async def test_code_that_no_longer_matches_parks_the_run_and_says_where(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.before)
            await self.recorded(h, run, 1)
            journal = await run.journal()
        async with ground.open(house.open_house(ground.store, house.after)) as h:
            await run.on(h.runtime).send("said", 1)
            with pytest.raises(RunParked) as caught:
                await self.within(h.result(run))
            assert [word for word in ("body", "wait_at", "house.py:") if word not in str(caught.value)] == []
            assert await run.on(h.runtime).journal() == journal
        async with ground.open() as h:
            assert await self.within(h.result(run)) == ["first", "last"]
        assert traces.bodies == ["first", "last"]

    @pytest.mark.promise("P12")
    async def test_a_run_whose_code_is_not_there_is_parked_and_keeps_what_arrives(self, ground: Ground) -> None:
        async with ground.open() as h:
            run = await h.start(house.collect, 2)
            await run.send("said", 1)
            await self.stands(h, run, "waiting")
        empty = house.House("house")
        empty.store = ground.store
        async with ground.open(empty) as h:
            await run.on(h.runtime).send("said", 2)
            with pytest.raises(RunParked, match=r"house\.collect"):
                await self.within(h.result(run))
        async with ground.open() as h:
            assert await self.within(h.result(run)) == [1, 2]

    @pytest.mark.promise("P15")
    async def test_no_stored_or_received_byte_is_executed_or_imported(
        self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "canary.py").write_text("class Boom(Exception):\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        hostile: Any = {
            "__class__": "canary.Boom",
            "py/object": "canary.Boom",
            "!!python/object": "canary.Boom",
            "pickle": "ccanary\nBoom\n.",
            "code": "__import__('canary')",
        }
        boom = ErrorInfo(type="canary.Boom", message="__import__('canary')", cause=ErrorInfo(type="canary.Boom"))
        async with ground.open() as h:
            run = await h.start(house.tells, "bread")
            await run.send("said", json.dumps(hostile))
            await self.within(h.until_waiting(run))
            caller = await h.start(house.waits, "child")
            await self.stands(h, caller, "waiting")
            path = (await ground.store.runs())[0].path or ""
            error = boom.model_dump_json().encode()
            await ground.store.accept([Delivery(caller.id, "reply", path, 0.0, error=error)])
            with pytest.raises(RunFailed, match=r"canary\.Boom"):
                await self.within(h.result(caller))
            await h.crash()
            (request,) = await self.within(h.until_waiting(run))
            await h.answer(request, value=False)
            assert await self.within(h.result(run)) == json.dumps(hostile)
        assert "canary" not in sys.modules

    @pytest.mark.promise("P16")
    async def test_contents_stay_out_of_logs_and_traces(
        self, ground: Ground, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        spans = tmp_path / "spans.jsonl"
        async with ground.open(house.open_house(ground.store), _otel(spans)) as h:
            run = await h.start(house.tells, house.SECRET)
            await run.send("said", house.SECRET)
            (request,) = await self.within(h.until_waiting(run))
            await h.crash()
            await h.answer(request, value=True)
            with pytest.raises(RunFailed, match=house.SECRET):
                await self.within(h.result(run))
        logged = "\n".join(logging.Formatter().format(record) for record in caplog.records)
        assert house.SECRET not in logged
        assert len(_exported(spans)) > 5
        assert house.SECRET not in spans.read_text()

    @pytest.mark.promise("P17")
    async def test_one_request_is_one_trace_and_a_kill_loses_no_span(self, ground: Ground, tmp_path: Path) -> None:
        spans = tmp_path / "spans.jsonl"
        async with ground.open(house.open_house(ground.store), _otel(spans)) as h:
            run = await h.start(house.consults, "bread")
            (request,) = await self.within(h.until_waiting(run))
            await h.crash()
            await h.answer(request, value=True)
            await self.stands(h, run, "waiting")
            await h.crash()
            assert await self.within(h.skip(run)) == "heard it says bread:0"
            facts = await self._facts(h)
        exported = _exported(spans)
        assert {span["traceId"] for span in exported} == {exported[0]["traceId"]}
        assert facts - {span["spanId"] for span in exported} == set()
        assert len(facts) >= 8

    @staticmethod
    async def _facts(h: Harness) -> set[str]:
        """The span ids of all that was recorded; what a call returned is the span of the run that was called."""
        found: set[str] = set()
        for view in await h.runtime.query.runs():
            entries = await h.runtime.query.journal(view.id)
            found |= {
                f"{span_id(view.id, entry.path, entry.attempt):016x}"
                for entry in entries
                if entry.kind in {"step", "answer", "timer"}
            }
            found.add(f"{span_id(view.id):016x}")
        return found


def _otel(path: Path) -> Otel:
    return Otel(Settings(exporter="file", path=str(path), delay=0.01))


def _exported(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    scopes = [scope for line in lines for batch in line["resourceSpans"] for scope in batch["scopeSpans"]]
    return [span for scope in scopes for span in scope["spans"]]
