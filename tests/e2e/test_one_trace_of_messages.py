"""A request over three processes, and what is published on its way, is one trace, whatever carries it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from perdure_otel.testing import Collector, Received, collecting

from .commands import PATIENCE, PROCESSES, perdure

PRODUCER, CONSUMER = 4, 5


class Story:
    """The spans of one request."""

    def __init__(self, collector: Collector) -> None:
        self.spans = collector.spans

    def one(self, name: str, service: str) -> Received:
        [span] = [each for each in self.spans.values() if (each.name, each.service) == (name, service)]
        return span


@pytest.fixture(scope="module", params=["grpc", "http"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    with collecting() as collector:
        asyncio.run(have_a_story_printed(request.param, tmp_path_factory.mktemp(request.param), collector.endpoint))
    return Story(collector)


async def have_a_story_printed(transport: str, folder: Path, endpoint: str) -> None:
    program = Path(shutil.copy(PROCESSES / "newsdesk.py", folder))

    def traced(name: str) -> dict[str, str]:
        return {
            "PERDURE_OTEL__EXPORTER": "otlp",
            "PERDURE_OTEL__ENDPOINT": endpoint,
            "PERDURE_OTEL__SERVICE_NAME": name,
            "PERDURE_OTEL__DELAY": "0.05",
        }

    async with perdure(folder, "host", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0", env=traced("host")) as ready:
        at = dict(zip(("grpc", "http"), (each.split()[0] for each in ready[1]["addresses"]), strict=True))[transport]
        async with (
            perdure(folder, "worker", "newsdesk:desk", "--host", at, "--data", "d", env=traced("desk")) as (desk, _),
            perdure(folder, "worker", "newsdesk:press", "--host", at, "--data", "p", env=traced("press")) as (press, _),
        ):
            where = {"grpc": "PERDURE_TRANSPORT_GRPC__HOST", "http": "PERDURE_TRANSPORT_HTTP__URL"}[transport]
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, str(program)),
                cwd=folder,
                env=os.environ | traced("client") | {"PERDURE_TRANSPORT": transport, where: at},
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await asyncio.wait_for(client.communicate(), PATIENCE)
            assert (client.returncode, said) == (0, b"on page 7\n")
            for reader in (desk, press):
                assert await reader.stdout.readline() == b"page 7 is read\n"


def test_it_is_one_trace_of_three_processes(story: Story) -> None:
    assert len({span.trace for span in story.spans.values()}) == 1
    assert {span.service for span in story.spans.values()} == {"client", "desk", "press"}
    assert len({span.pid for span in story.spans.values()}) == 3


def test_each_hop_is_sent_in_one_process_and_processed_in_another(story: Story) -> None:
    way = [
        story.one("send desk.editor", "client"),
        story.one("process desk.editor", "desk"),
        story.one("send press.printer", "desk"),
        story.one("process press.printer", "press"),
        story.one("publish printed", "press"),
    ]
    assert [span.parent for span in way] == ["", *(span.id for span in way[:-1])]
    for service in ("desk", "press"):
        assert story.one(f"process {service}.reader", service).parent == way[-1].id
    assert len(story.spans) == len(way) + 2


def test_spans_are_those_of_the_conventions_for_messaging(story: Story) -> None:
    for span in story.spans.values():
        operation, destination = span.name.split()
        assert span.kind == (CONSUMER if operation == "process" else PRODUCER)
        assert span.attributes["messaging.system"] == "perdure"
        assert span.attributes["messaging.operation.name"] == operation
        assert span.attributes["messaging.operation.type"] == ("send" if operation == "publish" else operation)
        assert span.attributes["messaging.destination.name"] == destination
        assert not span.failed


def test_what_messages_say_is_in_no_span(story: Story) -> None:
    assert not [span for span in story.spans.values() if "rain" in span.texts.lower()]
