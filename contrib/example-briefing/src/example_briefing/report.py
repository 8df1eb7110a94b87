"""What the newsroom writes, and what it asks: values that travel between its agents, steps and people."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Statement(BaseModel):
    """One thing that a briefing says, with the line that bears it out."""

    text: str = Field(description="One sentence that says what matters")
    file: str = Field(description="The document that bears it out, by its path")
    line: int = Field(ge=1, description="The line in that document, from 1")
    quote: str = Field(description="The words of that line that bear it out, copied exactly")


class Briefing(BaseModel):
    """What the editor writes."""

    title: str = Field(description="What the briefing is about, in a few words")
    statements: list[Statement] = Field(min_length=1, max_length=12, description="The most important first")


class Draft(BaseModel):
    """A briefing whose citations were looked up.

    Attributes:
        title: As the editor wrote it.
        statements: Those whose quotes stand in their documents; line numbers are corrected.
        dropped: The statements whose quotes stand nowhere in their document.
    """

    title: str
    statements: list[Statement]
    dropped: list[Statement] = []

    def markdown(self) -> str:
        """The briefing for people."""
        lines = [f"# {self.title}", ""]
        for statement in self.statements:
            lines += [f"- {statement.text}", f"  > {statement.quote} ({statement.file}:{statement.line})", ""]
        return "\n".join(lines)


class Approval(BaseModel):
    """A person's word on a draft."""

    approved: bool = Field(description="publish it?")
    comment: str = ""


class Publication(BaseModel):
    """What became of a briefing; ``path`` is the published file, ``None`` if it was not approved."""

    title: str
    statements: list[Statement]
    path: str | None = None
    comment: str = ""
