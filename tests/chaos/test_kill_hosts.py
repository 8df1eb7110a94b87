"""A short setting of ``kill_hosts``, whose command kills 1,000."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure import AgentId
from perdure.errors import Undeliverable
from perdure.testing import FaultProxy

from . import bank, kill_hosts as chaos, payments, town


@pytest.mark.timeout(300)
@pytest.mark.parametrize("carrier", ["grpc", "http"])
async def test_hosts_and_workers_killed_while_the_network_fails_lose_and_double_no_payment(
    tmp_path: Path, carrier: town.Carrier
) -> None:
    tally = await chaos.kill_hosts(tmp_path, carrier, kills=6, seed=1)
    assert not tally.problems, (tmp_path / "log").read_text()[-5000:]
    assert tally.killed == 6
    assert tally.payments > 0
    assert tally.published == chaos.PUBLISHED


class Books:
    """Stands for a runtime whose bank knows of these payments, at each account, vault and book."""

    def __init__(self, account: list[int], vault: list[int], book: list[int]) -> None:
        self.known = {"bank.account": account, "bank.vault": vault, "bank.book": book}

    async def send(self, message: bank.Statement, to: AgentId) -> Any:
        assert isinstance(message, bank.Statement)
        return {"north": self.known[to.type]}


@pytest.mark.parametrize(
    ("books", "where"),
    [
        (Books([1, 2], [1, 2], [1, 2]), []),
        (Books([1], [1, 2], [1, 2]), ["account"]),
        (Books([1, 2], [1, 2, 2], [1, 2]), ["vault"]),
        (Books([1, 2], [1, 2], [2, 1]), ["book"]),
        (Books([1, 2, 3], [1, 2], []), ["account", "book"]),
    ],
    ids=["right", "lost", "doubled", "out of order", "unpaid and lost"],
)
async def test_what_was_lost_or_doubled_is_found(books: Any, where: list[str]) -> None:
    found = await payments.misbooked(books, {"north": 2})
    assert [problem.partition(" ")[0] for problem in found] == where


async def test_a_payment_that_ends_with_anything_else_than_a_passing_error_is_found() -> None:
    class Broken:
        async def send(self, *_args: object, **_options: object) -> int:
            raise Undeliverable("no such account")

    clients = payments.Clients(Broken(), ["north"])  # type: ignore[arg-type]
    await payments.lapse(0.01)
    await clients.close()
    assert clients.problems == ["payment 1 of north ended with Undeliverable: no such account"]


async def test_a_link_that_never_answers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(town, "PATIENCE", 0.05)

    async def refuse() -> None:
        raise Undeliverable("nobody is there")

    with pytest.raises(TimeoutError, match="over the link of 'north'"):
        await town.Link("north", FaultProxy("127.0.0.1", 1), refuse).answered()
