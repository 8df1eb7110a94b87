"""What a client can call: one tool for each agent and workflow, and three for what became of their runs.

Tool names are the short names where they stand for one thing only, else ``app__name``: at most 64 letters, digits,
``_`` and ``-``, which is what every client and model takes (not so the dot of qualified names).
"""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from mcp.types import Tool, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from perdure import Agent, encoding
from perdure.errors import InvalidInput, PluginMissing, UsageError
from perdure_mcp.envelopes import envelope_schema, result_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from perdure import Runtime

A = TypeVar("A", bound=BaseModel)

Key = Annotated[str, Field(min_length=1, max_length=256)]

Kind: TypeAlias = Literal["agent", "workflow"]

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST: Final = 64
_KINDS: Final[tuple[Kind, ...]] = ("agent", "workflow")
_KEY: Final = "idempotency_key"
_KEY_HELP: Final = (
    "Any text that is unique to this piece of work. A second call with the same key is the first call: it starts"
    " nothing new and returns the same run. Give one, and repeat it when you retry after a timeout or lost connection."
)
_OUTLIVES: Final = (
    "Returns when the work is done, waits for an answer, or goes on for longer than this call may take: look at"
    " 'status', then use get_run or answer_request. A timeout of this call does not stop the work."
)


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AgentArguments(_Arguments):
    """What an agent's tool takes."""

    message: str = Field(description="What the agent is told.")
    session_id: Key | None = Field(
        default=None,
        description="The session_id of an earlier result: goes on with that conversation. Leave it out to begin anew.",
    )
    idempotency_key: Key | None = Field(default=None, description=_KEY_HELP)


class GetRunArguments(_Arguments):
    """What ``get_run`` takes."""

    run_id: str = Field(description="The run_id of an earlier result.")
    wait: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for it to finish or to ask something; bounded by the server's wait budget.",
    )


class AnswerArguments(_Arguments):
    """What ``answer_request`` takes."""

    request_id: str = Field(description="The request_id of an open request, from the 'requests' of a result.")
    answer: Any = Field(description="The answer: JSON that fits the request's answer_schema.")


class CancelArguments(_Arguments):
    """What ``cancel_run`` takes."""

    run_id: str = Field(description="The run_id of an earlier result.")
    reason: str = Field(default="", description="Why; it is kept with the run.")


class Call(NamedTuple):
    """A tool's arguments, as ``Runtime.submit`` takes them."""

    payload: bytes
    key: str | None
    session: str | None


@dataclass(frozen=True)
class Exposed:
    """An agent or workflow as a tool.

    Attributes:
        tool_name: Its name for clients.
        target: Its qualified name.
        kind: What it is.
        declared: Its declaration.
    """

    tool_name: str
    target: str
    kind: Kind
    declared: Any

    @property
    def key_argument(self) -> str:
        """The argument for the idempotency key; a workflow's own parameter of that name comes first."""
        name = _KEY
        while self.kind == "workflow" and name in self.declared.parameters.model.model_fields:
            name = f"perdure_{name}"
        return name

    def tool(self) -> Tool:
        """Its description for clients. Raises ``UsageError`` for a workflow whose input has no schema."""
        described = self.declared.description or f"The {self.kind} {self.target}."
        return Tool(
            name=self.tool_name,
            title=self.target,
            description=f"{described}\n\n{_OUTLIVES}",
            input_schema=self._input_schema(),
            output_schema=envelope_schema(result_schema(self.kind, self.declared)),
            annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=False),
        )

    def call(self, arguments: Mapping[str, Any]) -> Call:
        """What its arguments submit; a workflow's own are left to the runtime to check. Raises ``InvalidInput``."""
        if self.kind == "agent":
            given = parsed(AgentArguments, arguments, self.tool_name)
            payload = encoding.encode(given.message, Any, f"the message to {self.target!r}")
            return Call(payload, given.idempotency_key, given.session_id)
        own = dict(arguments)
        key = own.pop(self.key_argument, None)
        try:
            key = _KEYS.validate_python(key)
        except ValidationError as error:
            where = f"argument {self.key_argument!r} of tool {self.tool_name!r}"
            raise InvalidInput(encoding.describe(error, where)) from error
        return Call(encoding.encode(own, Any, f"the input of {self.target!r}"), key, None)

    def _input_schema(self) -> dict[str, Any]:
        if self.kind == "agent":
            return _schema(AgentArguments)
        schema: dict[str, Any] = deepcopy(self.declared.parameters.schema)
        key: dict[str, Any] = {**_KEYS.json_schema(), "default": None, "description": _KEY_HELP}
        schema["properties"] = {**schema.get("properties", {}), self.key_argument: key}
        return schema


def exposed(runtime: Runtime, apps: Iterable[str] = ()) -> list[Exposed]:
    """LLM agents and workflows of a runtime as tools, sorted by qualified name.

    Message agents live in the memory of a process and take no part in durable work: they are left out.

    Args:
        runtime: Where they are.
        apps: Names of apps; if there are any, only what belongs to these.

    Raises:
        PluginMissing: Nothing that is installed executes one of the agents.
        UsageError: There is nothing.
    """
    wanted = set(apps)
    found: list[tuple[str, Kind, Any]] = [
        (target, kind, declared)
        for kind in _KINDS
        for target, declared in sorted(runtime.catalog.declared(kind).items())
        if (not wanted or app_of(target) in wanted) and (kind == "workflow" or isinstance(declared, Agent))
    ]
    if not found:
        broken = "".join(f"; {info.error}" for info in runtime.plugins.broken())
        msg = f"nothing to serve: install a package with agents or workflows, or pass --app MODULE:ATTRIBUTE{broken}"
        raise (PluginMissing if broken else UsageError)(msg)
    for target, kind, _ in found:
        if kind == "agent":
            runtime.catalog.handler(target)
    names = tool_names([target for target, _, _ in found])
    return sorted((Exposed(names[target], target, kind, declared) for target, kind, declared in found), key=_by_target)


def app_of(target: str) -> str:
    """The app in a qualified name."""
    return target.rpartition(".")[0]


def tool_names(targets: Iterable[str]) -> dict[str, str]:
    """A name for each qualified name, unique, the same in whatever order they come."""
    targets = sorted(targets)
    shorts = {target: _fit(target.rpartition(".")[2]) for target in targets}
    count = Counter(shorts.values())
    taken = {tool.name for tool in CONTROLS}
    names = {target: short for target, short in shorts.items() if count[short] == 1 and short not in taken}
    taken.update(names.values())
    for target in targets:
        if target not in names:
            plain = _fit(target.replace(".", "__"))
            names[target] = plain if plain not in taken else _marked(plain, target)
            taken.add(names[target])
    return names


def parsed(model: type[A], arguments: Mapping[str, Any], tool: str) -> A:
    """A tool's arguments. Raises ``InvalidInput`` naming field and expectation."""
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as error:
        raise InvalidInput(encoding.describe(error, f"the input of tool {tool!r}")) from error


def _by_target(each: Exposed) -> str:
    return each.target


def _fit(name: str) -> str:
    plain = _UNFIT.sub("_", name)
    return plain if len(plain) <= _LONGEST else _marked(plain, name)


def _marked(plain: str, name: str) -> str:
    """Told apart by a hash of what was lost."""
    mark = blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{plain[: _LONGEST - len(mark) - 1]}_{mark}"


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    del schema["title"]
    schema.pop("description", None)  # a docstring for readers of this module
    for field in schema["properties"].values():
        field.pop("title", None)
    return schema


_KEYS: Final[TypeAdapter[str | None]] = TypeAdapter(Key | None)

CONTROLS: Final = (
    Tool(
        name="get_run",
        title="Look at a run",
        description="How a run stands: its status, and its result, open requests or error.",
        input_schema=_schema(GetRunArguments),
        output_schema=envelope_schema(),
        annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    ),
    Tool(
        name="answer_request",
        title="Answer a request",
        description=(
            "Answers a question that a run waits on, then returns how the run goes on. A request is answered once."
            " Ask the user; answer by yourself only if you were told to."
        ),
        input_schema=_schema(AnswerArguments),
        output_schema=envelope_schema(),
        annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False),
    ),
    Tool(
        name="cancel_run",
        title="Cancel a run",
        description="Asks a run to stop; its clean-up code still runs. What is finished stays as it is.",
        input_schema=_schema(CancelArguments),
        output_schema=envelope_schema(),
        annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True),
    ),
)
