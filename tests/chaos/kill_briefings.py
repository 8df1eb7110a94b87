"""Kill the server at random moments, during briefings, and hold what is left against the promises.

``uv run python -m tests.chaos.kill_briefings --runs 100 --documents 20``

Each briefing runs in a real ``perdure mcp`` process, over the official client, together with a conversation of several
turns in one session. It is killed by SIGKILL one to three times: at a moment drawn by the clock, or at a random one of
the begins and ends of step bodies, of the commits, of the replays. Where a kill has struck is judged afterwards, by the
witness's file and the journals that the dead process left.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError

from example_briefing.evidence import ran_again
from example_briefing.witness import witnessed
from perdure import Runtime, config
from perdure.clock import SystemClock
from perdure.messages import AgentId, ChatMessage

from . import marker
from .verdicts import show_problems

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from contextlib import AbstractAsyncContextManager

    from example_briefing.witness import Line
    from perdure.messages import RunView

ROOT = Path(__file__).parents[2]
TURNS = 5
CLOCK = SystemClock()
PATIENCE = 60.0  # seconds for one life of the server

_AGAIN = 0.4  # the share of briefings in which a replay is aimed at; and of the others, that die twice

Where = Literal["mid-step", "before commit", "after commit", "in replay", "elsewhere"]
WANTED: tuple[Where, ...] = ("mid-step", "before commit", "after commit", "in replay")


@dataclass
class Tally:
    """What all briefings came to."""

    kills: Counter[Where] = field(default_factory=Counter)
    finished: int = 0
    attempts: int = 0
    steps: int = 0
    problems: list[str] = field(default_factory=list)


class Recorded(NamedTuple):
    """What the journals hold: the runs that have entries, and the recorded steps by run and path."""

    runs: set[str]
    steps: set[tuple[str, str]]


# -- one briefing -----------------------------------------------------------------------------------------------


class Briefed:
    """One briefing and one conversation, through all deaths of their server.

    Args:
        place: A folder of its own.
        documents: How many documents it reads.
        dice: Chance.
    """

    def __init__(self, place: Path, documents: int, dice: random.Random) -> None:
        self.place = place
        self.dice = dice
        self.settings = config.Settings(data=place / "data", plugins=config.PluginSettings(block=frozenset({"otel"})))
        self.witness = place / "witness"
        self.marks = place / "marks"
        self.problems: list[str] = []
        self.kills: list[Where] = []
        self.deaths: list[tuple[Recorded, list[Line]]] = []
        self.finished = False
        self.attempts = self.steps = 0
        write_documents(place / "documents", documents)
        self.bodies = 4 + 3 * documents + 3 * TURNS

    async def run(self, kills: Iterable[str | float]) -> None:
        """Let the server live and die, then once undisturbed; collect what is wrong afterwards."""
        for kill in [*kills, None]:
            await self._live(kill)
            if self.finished:
                break
        if not self.finished:
            self.problems.append("it did not finish in an undisturbed life of its server")
        await self._inspect()

    async def _live(self, kill: str | float | None) -> None:
        """One life of the server: until the work is done, or it is killed by itself or by the clock (seconds)."""
        lines = len(witnessed(self.witness))
        executioner: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                if isinstance(kill, float):
                    executioner = asyncio.create_task(self._execute(lines, kill))
                async with self._server(kill if isinstance(kill, str) else "") as client:
                    await self._work(client)
                    self.finished = True
        except (MCPError, BaseExceptionGroup, OSError) as error:
            if kill is None:
                self.problems.append(f"the server died by itself: {error!r}; see {self.place / 'log'}")
        except TimeoutError:
            self.problems.append(f"nothing was done within {PATIENCE:g} s (kill {kill!r})")
        finally:
            if executioner is not None:
                executioner.cancel()
                with suppress(asyncio.CancelledError):
                    await executioner
        if not self.finished and kill is not None:
            await self._look_at_the_dead(lines)

    async def _execute(self, lines: int, seconds: float) -> None:
        while not (started := [line for line in witnessed(self.witness)[lines:] if line.event == "process"]):
            await CLOCK.sleep_until(CLOCK.now() + 0.005)
        await CLOCK.sleep_until(CLOCK.now() + seconds)
        with suppress(ProcessLookupError):
            os.kill(started[0].pid, signal.SIGKILL)

    @asynccontextmanager
    async def _server(self, kill: str) -> AsyncGenerator[Client]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        parameters = StdioServerParameters(
            command=sys.executable,
            args=[
                *("-m", "perdure_cli", "mcp", "--app", "newsroom", "--app", f"{marker.__name__}:app"),
                *("--data", str(self.settings.data), "--model", "offline:extractive"),
            ],
            env={
                **environment,
                "PYTHONPATH": str(ROOT),
                "PERDURE_PLUGINS__BLOCK": "otel",
                "PERDURE_EXAMPLE_BRIEFING__ROOT": str(self.place / "documents"),
                "PERDURE_EXAMPLE_BRIEFING__WITNESS": str(self.witness),
                marker.KILL: kill,
                marker.MARKS: str(self.marks),
            },
            cwd=self.place,
        )
        with (self.place / "log").open("a") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                yield client

    # -- what the client does, the same in each life

    async def _work(self, client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._brief(client))
            group.create_task(self._talk(client))

    async def _brief(self, client: Client) -> None:
        found = await called(client, "briefing", {"folder": ".", "idempotency_key": "briefing"})
        while found["status"] != "completed":
            if requests := found.get("requests"):
                given = {"request_id": requests[0]["request_id"], "answer": {"approved": True}}
                await client.call_tool("answer_request", given)  # refused if it was answered in an earlier life
            found = await called(client, "get_run", {"run_id": found["run_id"], "wait": 5})
            if found["status"] in {"failed", "cancelled", "parked"}:
                self.problems.append(f"the briefing is {found['status']}: {found.get('error')}")
                return
        if not found["result"]["path"]:
            self.problems.append("the briefing was not published")

    async def _talk(self, client: Client) -> None:
        for turn in range(TURNS):
            message = f'Read "{turn:02}.md", for the time {turn}'
            given = {"message": message, "session_id": "talk", "idempotency_key": f"talk-{turn}"}
            found = await called(client, "reader", given)
            while found["status"] != "completed":
                found = await called(client, "get_run", {"run_id": found["run_id"], "wait": 5})

    # -- what is left

    async def _look_at_the_dead(self, lines: int) -> None:
        """Judge where the kill struck; remember what was recorded by then."""
        before = witnessed(self.witness)
        recorded = await self._recorded()
        self.deaths.append((recorded, before))
        life = before[lines:]
        pids = {line.pid for line in life if line.event == "process"}
        replayed = any(mark.pid in pids and mark.run in recorded.runs for mark in marker.marks(self.marks))
        self.kills.append(struck(life, recorded.steps, replayed=replayed))

    async def _recorded(self) -> Recorded:
        """What the journals hold, read while no process drives."""
        runs, steps = set[str](), set[tuple[str, str]]()
        async with self._open() as runtime:
            for view in await runtime.query.runs(limit=1000):
                entries = await runtime.query.journal(view.id)
                runs |= {view.id} if entries else set()
                steps |= {(view.id, entry.path) for entry in entries if entry.kind == "step"}
        return Recorded(runs, steps)

    async def _inspect(self) -> None:
        """Hold the end against the promises."""
        after = witnessed(self.witness)
        for recorded, before in self.deaths:
            again = ran_again(recorded.steps, before, after)
            self.problems += [f"{line.name} {line.step} ran again after it was recorded" for line in again]
        self.attempts = sum(line.event == "begin" for line in after)
        self.steps = len((await self._recorded()).steps)
        async with self._open() as runtime:
            views = [await runtime.view(view.id) for view in reversed(await runtime.query.runs(limit=1000))]
            self.problems += [f"{view.target} {view.id} is {view.status}" for view in views if not view.finished]
            turns: dict[AgentId, list[RunView]] = {}
            for view in views:
                if view.session is not None:
                    turns.setdefault(AgentId(view.target, view.session), []).append(view)
            for session, held in turns.items():
                log = [ChatMessage.model_validate_json(entry) for entry in await runtime.query.log(session)]
                self.problems += misheard(session, held, log)

    def _open(self) -> AbstractAsyncContextManager[Runtime]:
        return Runtime.open(settings=self.settings, drive=False)


def misheard(session: AgentId, turns: list[RunView], log: list[ChatMessage]) -> list[str]:
    """What is wrong with a session's conversation, given its turns in the order of acceptance."""
    said = [message.text for message in log if message.role == "user"]
    asked = [turn.input for turn in turns]
    if said != asked:
        return [f"session {session} heard {said!r}, and was told {asked!r}"]
    answers = [message.text for message in log if message.role == "assistant" and not message.calls]
    replies = [turn.result["text"] for turn in turns]
    found = [f"session {session} answered {answers!r}, and replied {replies!r}"] if answers != replies else []
    called_ = [call.id for message in log for call in message.calls]
    heard = [message.result.id for message in log if message.result is not None]
    return [*found, f"session {session} called {called_!r} and heard of {heard!r}"] if called_ != heard else found


def struck(life: list[Line], recorded: set[tuple[str, str]], *, replayed: bool) -> Where:
    """Where a kill struck, by what the dead process wrote last and what its journals hold.

    Args:
        life: The witness's lines of that process.
        recorded: The steps that the journals hold.
        replayed: Whether the process had begun to replay a turn that has a journal.
    """
    bodies = [line for line in life if line.event != "process"]
    if not bodies:
        return "in replay" if replayed else "elsewhere"
    last = bodies[-1]
    if last.event == "begin":
        return "mid-step"
    return "after commit" if last.step in recorded else "before commit"


async def called(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool; return its envelope. Raises ``RuntimeError`` if the server refuses."""
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        msg = f"{tool} {arguments} was refused: {result.content}"
        raise RuntimeError(msg)
    return result.structured_content


def write_documents(folder: Path, count: int) -> None:
    """Documents with something to quote in each."""
    folder.mkdir(parents=True)
    for number in range(count):
        lines = [f"# Report {number}", ""]
        lines += [f"Station {number} measured {number * 7 + line} degrees in its hour {line}." for line in range(12)]
        (folder / f"{number:02}.md").write_text("\n".join(lines))


# -- all of them -------------------------------------------------------------------------------------------------


def fate(dice: random.Random, bodies: int) -> list[str | float]:
    """How the server dies in one briefing: by the clock or at a random event; then, perhaps, once more.

    The second death is mostly in a replay, which is over in milliseconds: the clock alone would hardly ever strike it.
    """
    count, delay = dice.randint(1, bodies), dice.choice([0.0, 0.0, dice.uniform(0, 5)])
    ways: list[str | float] = [
        dice.uniform(0.0, 1.0),
        f"begin:{count}:{delay}",
        f"end:{count}:{delay}",
        f"commit:{dice.randint(1, bodies // 2)}:0",
        f"commit:{dice.choice([1, bodies - 3 * TURNS])}:0",  # little goes on at the first and the last of a briefing
    ]
    if dice.random() < _AGAIN:
        middle = f"{dice.choice(['begin', 'end'])}:{dice.randint(bodies // 8, bodies // 2)}:{delay}"
        return [middle, f"replay:{dice.randint(1, 4)}:0"]
    return [dice.choice(ways), *([dice.choice(ways)] if dice.random() < _AGAIN else [])]


async def kill_briefings(runs: int, documents: int, seed: int, place: Path) -> Tally:
    """Run so many briefings; what went wrong is kept in its folder, the rest is removed."""
    tally, dice = Tally(), random.Random(seed)  # noqa: S311 - kills, no keys
    for number in range(runs):
        briefed = Briefed(place / f"{number:03}", documents, dice)
        kills = fate(dice, briefed.bodies)
        await briefed.run(kills)
        tally.kills.update(briefed.kills)
        tally.finished += briefed.finished
        tally.attempts += briefed.attempts
        tally.steps += briefed.steps
        tally.problems += [f"{number:03} (kills {kills}): {problem}" for problem in briefed.problems]
        if not briefed.problems:
            shutil.rmtree(briefed.place)
        click.echo(f"{number + 1:4}/{runs}  {', '.join(briefed.kills) or 'it was done before the kill'}")
    return tally


def show(tally: Tally, seconds: float) -> None:
    """Print what all came to."""
    click.echo(f"\nkills: {sum(tally.kills.values())}")
    for where, count in tally.kills.most_common():
        click.echo(f"  {where:14} {count:4}  {'#' * count}")
    click.echo(f"briefings that finished: {tally.finished}")
    click.echo(f"recorded steps: {tally.steps}, bodies that began: {tally.attempts}")
    click.echo(f"time: {seconds:.0f} s")
    show_problems(tally.problems)


@click.command()
@click.option("--runs", default=100, show_default=True, help="How many briefings.")
@click.option("--documents", default=20, show_default=True, help="How many documents each reads.")
@click.option("--least", default=10, show_default=True, help="How often each kind of moment must be struck.")
@click.option("--seed", type=int, help="Chance, to have it again.")
def main(runs: int, documents: int, least: int, seed: int | None) -> None:
    """Kill the server during briefings. Exit code 0 if all promises held and each kind of moment was struck."""
    seed = seed if seed is not None else int.from_bytes(os.urandom(4))
    click.echo(f"seed {seed}")
    began, place = time.monotonic(), Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    tally = asyncio.run(kill_briefings(runs, documents, seed, place))
    show(tally, time.monotonic() - began)
    rare = [where for where in WANTED if tally.kills[where] < least]
    if rare:
        click.echo(f"struck less than {least} times: {', '.join(rare)}")
    if tally.problems:
        click.echo(f"what is left of them: {place}")
    else:
        shutil.rmtree(place)
    sys.exit(1 if tally.problems or rare or tally.finished < runs else 0)


if __name__ == "__main__":
    main()
