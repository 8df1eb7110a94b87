"""``perdure demo``: a briefing over MCP whose server is killed in the middle, and goes on."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from opentelemetry import trace
from rich.markdown import Markdown
from rich.text import Text

from example_briefing.desk import Desk, DeskSettings
from example_briefing.evidence import account, miscited, ran_again
from example_briefing.witness import Line, witnessed
from perdure import Runtime, hookimpl
from perdure.clock import SystemClock
from perdure.errors import PluginError, UsageError, WorkFailed
from perdure_cli.asking import aside, interactive, value_for
from perdure_cli.display import console, emit_json
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from rich.console import Console

    from perdure.config import Settings
    from perdure.ports import Query
    from perdure_cli.invocation import Invocation

DOCUMENTS: Final = Path(__file__).parent / "documents"
"""What the demo reads by default: pages about Perdure itself."""

_LOOK: Final = 0.005
_SERVER_STARTS: Final = 30.0
_BODIES_PER_DOCUMENT: Final = 3  # the model asks for the document, the tool reads it, the model quotes


@click.command("demo")
@click.option(
    "--path", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of Markdown or text."
)
@click.option("--yes", is_flag=True, help="Approve the briefing without asking.")
@output_options
@runtime_options
@click.pass_obj
def demo(invocation: Invocation, path: Path | None, *, yes: bool) -> None:
    """See a run survive kill -9.

    Starts `perdure mcp` as a child process, calls the workflow 'briefing' over MCP, kills the server in the middle,
    starts it again and calls again with the same idempotency key. Ends with exit code 0 only if no recorded step ran
    again and each citation is right.
    """
    if not yes and not interactive():
        msg = "perdure demo asks you to approve the briefing, and there is no terminal to ask on: run it with --yes"
        raise UsageError(msg)
    asyncio.run(Demonstration(invocation, (path or DOCUMENTS).resolve(), yes=yes).show())


@dataclass(frozen=True)
class Outcome:
    """What the demo found, as ``--json`` prints it.

    Attributes:
        run: The run's id.
        approved: Whether the briefing was published.
        briefing: Path of the published briefing.
        documents: How many were read.
        steps: Recorded steps of the run and of all that it called.
        attempts: Bodies that began, by the witness.
        recorded_at_kill: Steps that were recorded when the server was dead.
        ran_again: How many of those began again afterwards.
        citations: Statements whose cited line contains their quote.
        tokens: Input and output together.
        seconds: From the first start to the end, approval included.
        data: Where everything lies.
        witness: The witness's file.
        show: The command that shows the run.
    """

    run: str
    approved: bool
    briefing: str | None
    documents: int
    steps: int
    attempts: int
    recorded_at_kill: int
    ran_again: int
    citations: int
    tokens: int
    seconds: float
    data: str
    witness: str
    show: str


class Demonstration:
    """One demo.

    Args:
        invocation: Data folder, model and the like.
        root: The documents.
        yes: Approve without asking.
    """

    def __init__(self, invocation: Invocation, root: Path, *, yes: bool) -> None:
        self._invocation = invocation
        self._settings: Settings = invocation.settings()
        self._desk = Desk(DeskSettings(root=root), self._settings.data)
        self._yes = yes
        self._key = f"demo-{secrets.token_hex(4)}"
        self._place = self._settings.data.resolve() / "demo"
        self._witness = self._place / f"{self._key}.witness"
        self._clock = SystemClock()
        self._out: Console = console(stderr=invocation.json)

    async def show(self) -> None:
        """Show it, and say how it ended.

        Raises:
            WorkFailed: A promise did not hold, or the run failed.
        """
        # Open from the first to the last act, so that where traces are configured, ours are exported: the root of what
        # both servers do.
        async with Runtime.open(settings=self._settings, drive=False) as runtime:
            with trace.get_tracer("perdure.demo").start_as_current_span("perdure demo"):
                await self._show(runtime.query)

    async def _show(self, query: Query) -> None:
        began = time.monotonic()
        documents = self._desk.documents(".")
        self._place.mkdir(parents=True, exist_ok=True)
        self._tell("documents", f"{len(documents)} in {self._desk.root}")
        self._tell("model", self._settings.model)
        await self._until_killed(1 + len(documents) * _BODIES_PER_DOCUMENT // 3)
        before = witnessed(self._witness)
        at_kill = await account(query, _run_of(before) or "")
        self._tell("dead", f"{len(at_kill.steps)} steps are recorded; {_unfinished(before)} bodies were cut short")
        run, publication = await self._until_finished()
        after = witnessed(self._witness)
        whole = await account(query, run)
        again = ran_again(at_kill.steps, before, after)
        wrong = miscited(publication, self._desk)
        outcome = Outcome(
            run=run,
            approved=publication["path"] is not None,
            briefing=publication["path"],
            documents=len(documents),
            steps=len(whole.steps),
            attempts=sum(line.event == "begin" for line in after),
            recorded_at_kill=len(at_kill.steps),
            ran_again=len(again),
            citations=len(publication["statements"]) - len(wrong),
            tokens=whole.usage.input_tokens + whole.usage.output_tokens,
            seconds=round(time.monotonic() - began, 1),
            data=str(self._settings.data.resolve()),
            witness=str(self._witness),
            show=f"perdure show {run}{self._options()}",
        )
        self._conclude(outcome, again, wrong)

    # -- the acts

    async def _until_killed(self, bodies: int) -> None:
        """Start the server, call the workflow, and kill the server when so many step bodies have ended."""
        async with self._server() as client:
            pid = await self._process(1)
            self._tell("server", f"perdure mcp, process {pid}; it offers {await _offers(client)}")
            self._tell("call", f"briefing(folder='.', idempotency_key={self._key!r})")
            call = asyncio.create_task(client.call_tool("briefing", self._arguments()))
            ended = await self._watch(lambda lines: _ended(lines) >= bodies or call.done())
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self._tell("kill -9", f"process {pid}, when {_ended(ended)} step bodies had ended")
            with suppress(MCPError):  # the connection went with the server
                await call

    async def _until_finished(self) -> tuple[str, dict[str, Any]]:
        """Start the server again, call again with the same key, approve; return the run's id and result."""
        async with self._server() as client:
            pid = await self._process(2)
            self._tell("server", f"perdure mcp, process {pid}")
            self._tell("call", f"briefing(folder='.', idempotency_key={self._key!r}), the same again")
            call = asyncio.create_task(client.call_tool("briefing", self._arguments()))
            await self._watch(lambda _: call.done())
            found = _structured(await call)
            self._tell("run", found["run_id"])
            while found["status"] not in {"completed", "failed", "cancelled", "parked"}:
                found = await self._next(client, found)
        if found["status"] != "completed":
            msg = f"run {found['run_id']!r} is {found['status']}: {found['error']['message']}"
            raise WorkFailed(msg)
        return found["run_id"], found["result"]

    async def _next(self, client: Client, found: dict[str, Any]) -> dict[str, Any]:
        requests = found.get("requests")
        if not requests:
            return _structured(await client.call_tool("get_run", {"run_id": found["run_id"], "wait": 30}))
        request = requests[0]
        answer = {"approved": True, "comment": "approved by --yes"}
        if not self._invocation.json:
            self._out.print(Markdown(request["prompt"]) if self._out.is_terminal else request["prompt"])
        if not self._yes:
            answer = await aside(lambda: value_for(request["answer_schema"]))
        self._tell("answer", "approved" if answer["approved"] else "not approved")
        given = {"request_id": request["request_id"], "answer": answer}
        return _structured(await client.call_tool("answer_request", given))

    def _conclude(self, outcome: Outcome, again: list[Line], wrong: list[dict[str, Any]]) -> None:
        if self._invocation.json:
            emit_json(asdict(outcome))
        else:
            self._out.print(Text("\n"), _table(outcome), soft_wrap=True, sep="")
        if again:
            listed = ", ".join(f"{line.name} ({line.run} {line.path})" for line in again)
            msg = f"recorded steps ran again: {listed}; the witness is {self._witness}"
            raise WorkFailed(msg)
        if wrong:
            msg = f"cited lines do not contain their quotes: {wrong!r}"
            raise WorkFailed(msg)

    # -- the server

    @asynccontextmanager
    async def _server(self) -> AsyncGenerator[Client]:
        """The child process, and the official client connected to it; its log goes to a file."""
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "perdure_cli", *self._server_options()],
            env={
                **os.environ,
                "PERDURE_EXAMPLE_BRIEFING__ROOT": str(self._desk.root),
                "PERDURE_EXAMPLE_BRIEFING__WITNESS": str(self._witness),
            },
        )
        with self._log().open("a", encoding="utf-8") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                yield client

    def _log(self) -> Path:
        return self._place / f"{self._key}.log"

    def _server_options(self) -> list[str]:
        settings = self._settings
        chosen = {"--data": str(settings.data.resolve()), "--model": settings.model}
        return ["mcp", "--app", "newsroom", *(word for pair in chosen.items() for word in pair)]

    def _arguments(self) -> dict[str, Any]:
        return {"folder": ".", "idempotency_key": self._key}

    async def _process(self, number: int) -> int:
        """The id of the server's process, by the witness. Raises ``PluginError`` if it does not come up."""
        until = self._clock.now() + _SERVER_STARTS
        while self._clock.now() < until:
            started = [line.pid for line in witnessed(self._witness) if line.event == "process"]
            if len(started) >= number:
                return started[number - 1]
            await self._clock.sleep_until(self._clock.now() + _LOOK)
        msg = f"the server did not start within {_SERVER_STARTS:g} s; its log is {self._log()}"
        raise PluginError(msg)

    async def _watch(self, enough: Callable[[list[Line]], bool]) -> list[Line]:
        """Show how far the bodies are, until it is enough."""
        with self._out.status("working") as status:
            while not enough(lines := witnessed(self._witness)):
                status.update(f"{_ended(lines)} step bodies have ended")
                await self._clock.sleep_until(self._clock.now() + _LOOK)
        return lines

    # -- looking

    def _options(self) -> str:
        """What the person typed to get to this data, for the commands that we name."""
        return "" if self._invocation.data is None else f" --data {self._invocation.data}"

    def _tell(self, what: str, detail: str) -> None:
        self._out.print(f"{what:>10}  {detail}", soft_wrap=True)


def _structured(result: Any) -> dict[str, Any]:
    if result.is_error or result.structured_content is None:
        msg = f"the server refused the call: {' '.join(item.text for item in result.content)}"
        raise WorkFailed(msg)
    return result.structured_content


async def _offers(client: Client) -> str:
    return ", ".join(tool.name for tool in (await client.list_tools()).tools)


def _ended(lines: list[Line]) -> int:
    return sum(line.event == "end" for line in lines)


def _unfinished(lines: list[Line]) -> int:
    return sum(line.event == "begin" for line in lines) - sum(line.event in {"end", "fail"} for line in lines)


def _run_of(lines: list[Line]) -> str | None:
    """The workflow's run: the one whose step came first."""
    return next((line.run for line in lines if line.run), None)


def _table(outcome: Outcome) -> Text:
    """Names and values in two columns; paths and commands stay in one piece, to be copied."""
    rows = {
        "briefing": outcome.briefing or "not published",
        "steps": f"{outcome.steps} recorded, of {outcome.documents} documents",
        "attempts": f"{outcome.attempts} step bodies began, by the witness",
        "recorded steps that ran again": f"{outcome.ran_again} of the {outcome.recorded_at_kill} that the kill left",
        "citations": f"{outcome.citations}, each found in its line",
        "tokens": f"{outcome.tokens}",
        "time": f"{outcome.seconds} s",
        "data": outcome.data,
        "witness": outcome.witness,
        "look at it": outcome.show,
    }
    width = max(map(len, rows)) + 2
    return Text("\n").join(Text.assemble((f"{name:{width}}", "bold"), value) for name, value in rows.items())


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return demo
