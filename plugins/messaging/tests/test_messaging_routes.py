"""From a topic to those who are subscribed: by type, by prefix, by code; changes, and what they leave behind."""

from __future__ import annotations

import pytest

from perdure.messages import AgentId, Subscription, TopicId
from perdure_messaging.routing import Recipients, Routes


def subscribed(*subscriptions: tuple[str, str, str]) -> list[Subscription]:
    """From agent, topic, kind."""
    return [Subscription("/".join(each), *each) for each in subscriptions]


@pytest.fixture
def routes() -> Routes:
    return Routes(remembered=8)


def test_the_topics_source_is_the_recipients_key(routes: Routes):
    routes.replace("w", subscribed(("shop.cook", "order", "type"), ("shop.cook", "ord", "type")))
    assert routes.recipients(TopicId("order", "table 7")) == Recipients((AgentId("shop.cook", "table 7"),), ())
    assert routes.recipients(TopicId("orders", "table 7")) == Recipients((), ())


def test_a_prefix_takes_every_type_that_begins_with_it(routes: Routes):
    routes.replace("w", subscribed(("shop.cook", "order.", "prefix"), ("shop.clerk", "", "prefix")))
    for type_, expected in (
        ("order.new", ["shop.clerk", "shop.cook"]),
        ("order.", ["shop.clerk", "shop.cook"]),
        ("order", ["shop.clerk"]),
    ):
        assert sorted(agent.type for agent in routes.recipients(TopicId(type_, "1")).agents) == expected


def test_an_agent_is_a_recipient_once_however_many_subscriptions_match(routes: Routes):
    routes.replace("v", subscribed(("a", "order", "type"), ("a", "ord", "prefix"), ("a", "", "prefix")))
    routes.replace("w", subscribed(("a", "order", "type")))
    assert routes.recipients(TopicId("order", "1")).agents == (AgentId("a", "1"),)


def test_a_custom_subscription_names_the_agents_type(routes: Routes):
    routes.replace("v", subscribed(("a", "or", "custom"), ("a", "ord", "custom"), ("b", "x", "custom")))
    routes.replace("w", subscribed(("a", "or", "custom")))
    assert routes.recipients(TopicId("order", "1")) == Recipients((), ("a",))


def test_what_several_have_said_lasts_until_the_last_one_takes_it_back(routes: Routes):
    topic, same = TopicId("order", "1"), subscribed(("a", "order", "type"))
    routes.replace("v", same)
    routes.replace("w", same)
    routes.replace("v", [])
    assert routes.recipients(topic).agents == (AgentId("a", "1"),)
    routes.replace("w", subscribed(("b", "order", "type")))
    assert routes.recipients(topic).agents == (AgentId("b", "1"),)
    routes.replace("w", ())
    assert (routes.recipients(topic), len(routes)) == (Recipients((), ()), 0)


def test_a_flood_of_topics_and_back_leaves_nothing(routes: Routes):
    flood = subscribed(*((f"a{n}", f"topic.{n}", ("type", "prefix", "custom")[n % 3]) for n in range(20_000)))
    routes.replace("w", flood)
    for n in range(20_000):
        found = routes.recipients(TopicId(f"topic.{n}", "1"))
        assert f"a{n}" in {*(agent.type for agent in found.agents), *found.custom}
        assert routes.remembered <= 8
    routes.replace("w", ())
    assert (len(routes), routes.remembered) == (0, 0)


def test_topics_used_last_are_remembered(routes: Routes):
    routes.replace("w", subscribed(("a", "", "prefix")))
    kept = routes.recipients(TopicId("kept", "1"))
    for n in range(100):
        routes.recipients(TopicId(f"topic.{n}", "1"))
        assert routes.recipients(TopicId("kept", "1")) is kept
