import asyncio
import json
import re

import pytest
from pydantic import BaseModel

from perdure.errors import InvalidSetting, ModelRefused, UnknownName
from perdure.messages import ChatMessage, ModelRequest, ToolCall, ToolResult, ToolSpec
from perdure.ports import Model
from perdure.testing.model_kit import Answering, ModelKit
from perdure_model_offline import ExtractiveModel, perdure_model

READ = ToolSpec(
    name="read_document",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
DOCUMENT = """\
# The ferry

The ferry leaves the northern harbour at nine in the morning. It carries forty cars and
their passengers to the island.

- In winter the ferry leaves the harbour at ten, because the morning is dark.
- Dogs travel free of charge when they are kept on a lead.

| from | to |
|------|----|
| north | south |

When the storm warning is out, the ferry stays in the harbour and the passengers wait at the inn.
"""


class Statement(BaseModel):
    text: str
    file: str
    line: int
    quote: str


class Briefing(BaseModel):
    title: str
    statements: list[Statement]


class TestOfflineModel(ModelKit):
    provider_model = "offline:extractive"

    @pytest.fixture
    def answering(self) -> Answering:
        def answering(_: object) -> Model:
            return perdure_model("extractive", {})

        return answering


def numbered(path: str, text: str) -> str:
    return "\n".join(f"{path}:{number}: {line}" for number, line in enumerate(text.splitlines(), 1))


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", text=text)


def result(content: str, *, error: bool = False) -> ChatMessage:
    return ChatMessage(role="tool", result=ToolResult(id="c", name="read_document", content=content, error=error))


async def said(*messages: ChatMessage, **options) -> str:
    return (await ExtractiveModel().complete(ModelRequest(messages=messages, **options))).message.text


async def called(text: str, *tools: ToolSpec) -> list[tuple[str, dict]]:
    response = await ExtractiveModel().complete(ModelRequest(messages=(user(text),), tools=tools))
    return [(call.name, json.loads(call.arguments)) for call in response.message.calls]


def tool(name: str, *required: str, **optional: dict) -> ToolSpec:
    properties = {parameter: {"type": "string"} for parameter in required} | optional
    return ToolSpec(name=name, parameters={"type": "object", "properties": properties, "required": list(required)})


async def test_numbered_lines_are_quoted_in_the_same_form_each_from_its_own_line():
    answer = await said(user("Read `a b.md`"), result(numbered("a b.md", DOCUMENT)), tools=(READ,))
    lines = DOCUMENT.splitlines()
    assert len(answer.splitlines()) == 3
    for quoted in answer.splitlines():
        path, number, quote = re.fullmatch(r"(.*?):(\d+): (.*)", quoted).groups()
        assert path == "a b.md"
        assert quote in lines[int(number) - 1]


async def test_a_question_draws_the_passages_that_have_its_words():
    answer = await said(user("Tell me about dogs in `a.md`"), result(numbered("a.md", DOCUMENT)))
    assert "a.md:7: Dogs travel free of charge when they are kept on a lead." in answer.splitlines()


async def test_a_briefing_cites_lines_that_contain_its_quotes():
    documents = {f"docs/{name}.md": DOCUMENT.replace("ferry", name) for name in ("ferry", "train", "coach", "tram")}
    notes = [
        await said(user(f"Read {path}"), result(numbered(path, text)), tools=(READ,))
        for path, text in documents.items()
    ]
    answer = await said(
        ChatMessage(role="system", text="Write a briefing in which each statement cites file and line."),
        user("\n".join(notes)),
        output_schema=Briefing.model_json_schema(),
    )
    briefing = Briefing.model_validate_json(answer)
    assert {statement.file for statement in briefing.statements} == documents.keys()
    assert briefing.title
    for statement in briefing.statements:
        assert statement.quote in documents[statement.file].splitlines()[statement.line - 1]
        assert statement.text == statement.quote


async def test_text_without_numbers_is_quoted_by_the_sentence_across_lines():
    answer = await said(user("Read `a`."), result(DOCUMENT))
    assert answer
    assert all(sentence in DOCUMENT.replace("\n", " ") for sentence in answer.splitlines())


async def test_the_same_request_has_the_same_answer():
    messages = (user("Read `a.md`"), result(numbered("a.md", DOCUMENT)))
    assert len({await said(*messages) for _ in range(3)}) == 1


async def test_json_results_are_read_as_the_text_in_them():
    content = json.dumps({"ok": True, "pages": [numbered("a.md", DOCUMENT)]})
    answer = await said(user("Read `a.md`"), result(content))
    assert answer == await said(user("Read `a.md`"), result(numbered("a.md", DOCUMENT)))


async def test_a_later_question_is_answered_from_what_was_read_before():
    call = ToolCall(id="c", name="read_document", arguments='{"path": "a.md"}')
    earlier = (user("Read `a.md`"), ChatMessage(role="assistant", calls=(call,)), result(numbered("a.md", DOCUMENT)))
    answer = await said(*earlier, ChatMessage(role="assistant", text="It is about a ferry."), user("And the dogs?"))
    assert answer.startswith("a.md:")
    assert "Dogs travel free" in answer


async def test_a_failed_tool_is_reported():
    assert await said(user("Read `b.md`"), result("no such file", error=True)) == "read_document failed: no such file"


@pytest.mark.parametrize("question", ["Who are you?", "What model is this?", "Which model are you?"])
async def test_it_says_what_it_is(question):
    response = await ExtractiveModel().complete(ModelRequest(messages=(user(question),)))
    assert "I am offline:extractive" in response.message.text
    assert response.model == "offline:extractive"


async def test_without_text_it_says_so():
    assert "given no text" in await said(user("What is the weather?"))


async def test_a_limit_on_the_answer_is_kept():
    request = ModelRequest(messages=(user("Read `a.md`"), result(numbered("a.md", DOCUMENT))), max_output_tokens=30)
    response = await ExtractiveModel().complete(request)
    assert response.finish == "length"
    assert 0 < response.usage.output_tokens <= 30


async def test_tokens_are_a_quarter_of_the_characters():
    response = await ExtractiveModel().complete(ModelRequest(messages=(user("Dogs travel free here."),)))
    assert (response.usage.input_tokens, response.usage.output_tokens) == (6, 6)


async def test_each_thing_named_goes_to_the_first_tool_that_it_fits_once():
    assert await called("Read docs/a.md, `docs/b c.md`, and docs/a.md again.", READ, tool("open", "file")) == [
        ("read_document", {"path": "docs/a.md"}),
        ("read_document", {"path": "docs/b c.md"}),
    ]


async def test_kinds_of_things_choose_among_tools():
    tools = (tool("search", "query"), tool("read", "path"), tool("ticket", "ticket_id"))
    assert await called('Compare T-17 with notes.txt and look for "slow ferry".', *tools) == [
        ("ticket", {"ticket_id": "T-17"}),
        ("read", {"path": "notes.txt"}),
        ("search", {"query": "slow ferry"}),
    ]


async def test_a_thing_that_does_not_fit_the_parameter_is_not_passed():
    only_markdown = {"type": "object", "properties": {"path": {"type": "string", "pattern": r"\.md$"}}}
    markdown = ToolSpec(name="read", parameters={**only_markdown, "required": ["path"]})
    assert await called("Read a.txt and a.md.", markdown) == [("read", {"path": "a.md"})]


async def test_other_required_parameters_are_filled_by_rule():
    parameters = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "lines": {"type": "integer", "minimum": 5}, "x": {}},
        "required": ["path", "lines"],
    }
    assert await called("Read a.md.", ToolSpec(name="read", parameters=parameters)) == [
        ("read", {"path": "a.md", "lines": 5})
    ]


async def test_a_tool_without_required_parameters_is_called_by_its_name():
    tools = (tool("list_documents", folder={"type": "string"}), tool("list_birds"))
    assert await called("Please list all the documents.", *tools) == [("list_documents", {})]


@pytest.mark.parametrize("text", ["Read the document, e.g. slowly and/or twice.", "It costs 9 euros.", ""])
async def test_what_names_nothing_calls_nothing(text):
    assert await called(text, READ, tool("ticket", "id")) == []


async def test_twenty_long_documents_take_less_than_a_second_each():
    text = "\n".join(DOCUMENT.replace("nine", f"nine {number}") for number in range(40))
    messages = (user("Read `a.md`"), result(numbered("a.md", text)))
    async with asyncio.timeout(20):
        for _ in range(20):
            assert await said(*messages)


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"'offline:gpt'; known: offline:extractive"):
        perdure_model("gpt", {})


@pytest.mark.parametrize(("settings", "named"), [({"quotes": 0}, "quotes"), ({"quote": 1}, "quote")])
def test_a_wrong_setting_is_named(settings, named):
    with pytest.raises(InvalidSetting, match=rf"\[model-offline\].* does not fit: {named}"):
        perdure_model("extractive", settings)


async def test_quotes_are_as_many_as_configured():
    model = perdure_model("extractive", {"quotes": 1})
    response = await model.complete(ModelRequest(messages=(user("Read `a.md`"), result(numbered("a.md", DOCUMENT)))))
    assert len(response.message.text.splitlines()) == 1


async def test_a_schema_that_allows_nothing_is_refused_by_name():
    schema = {"type": "object", "title": "Odd", "properties": {"a": {"enum": [1], "minimum": 2}}, "required": ["a"]}
    with pytest.raises(ModelRefused, match=r"'offline:extractive' cannot fill the output schema 'Odd'.*'a'"):
        await said(user("x"), output_schema=schema)
