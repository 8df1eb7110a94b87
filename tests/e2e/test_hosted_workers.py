"""`perdure host` and two `perdure worker` processes: what one publishes the other hears, once."""

from __future__ import annotations

from perdure import AgentId, App, Runtime
from perdure.clock import SystemClock
from perdure.testing import MemoryStore

from .commands import PATIENCE, PROCESSES, perdure
from .processes.talkers import ROUNDS, Begin, HowMany


async def test_two_workers_answer_each_other_and_each_prints_exactly_five(tmp_path):
    async with perdure(tmp_path, "host", "--bind", "127.0.0.1:0") as (_, ready):
        at = ready["addresses"][0].split()[0]
        (tmp_path / "talkers.py").write_text((PROCESSES / "talkers.py").read_text())
        lines: dict[str, list[str]] = {}
        async with (
            perdure(tmp_path, "worker", "talkers:left", "--host", at, "--data", "left") as (left, _),
            perdure(tmp_path, "worker", "talkers:right", "--host", at, "--data", "right") as (right, _),
        ):
            settings = {"transport": "grpc", "transport-grpc": {"host": at}, "data": str(tmp_path / "here")}
            async with Runtime.open(App("starter"), store=MemoryStore(SystemClock()), **settings) as runtime:
                assert {each.type for each in await runtime.agents()} >= {"left.talker", "right.talker"}
                await runtime.send(Begin(), AgentId("left.talker", "table"), deadline=PATIENCE)
                for name, process in (("left", left), ("right", right)):
                    lines[name] = [(await process.stdout.readline()).decode().strip() for _ in range(ROUNDS)]
                for name in ("left", "right"):  # after all that was published has arrived
                    assert (
                        await runtime.send(HowMany(), AgentId(f"{name}.talker", "table"), deadline=PATIENCE) == ROUNDS
                    )
        for name, process in (("left", left), ("right", right)):
            lines[name] += (await process.stdout.read()).decode().splitlines()[:-1]  # the last says that it stopped
    assert lines["left"] == [f"heard right {number}" for number in range(1, ROUNDS + 1)]
    assert lines["right"] == [f"heard left {number}" for number in range(1, ROUNDS + 1)]
