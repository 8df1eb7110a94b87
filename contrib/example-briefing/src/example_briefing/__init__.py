"""The newsroom: readers and an editor write a briefing with citations, which a person approves."""

from example_briefing.newsroom import app, briefing, editor, reader

__all__ = ["app", "briefing", "editor", "reader"]
