"""What a type checker must refuse: each line that is wrong says so, and a waiver that is not needed is an error."""

from perdure import Agent, App, Context, step, tool, workflow


@tool
async def read_document(path: str) -> str:
    return path


@step(timeout=1)
async def size(path: str) -> int:
    return len(path)


@workflow
async def measured(ctx: Context, path: str) -> int:
    await ctx.step(size, 3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.step(size)  # pyright: ignore[reportCallIssue]
    text: str = await ctx.step(size, path)  # pyright: ignore[reportAssignmentType]
    await ctx.ask(text, int, default=0)  # pyright: ignore[reportCallIssue]
    return await ctx.call(measured, wrong=path)  # pyright: ignore[reportCallIssue]


@workflow  # pyright: ignore[reportArgumentType]
async def without_context(path: str) -> str:
    return path


app = App("newsroom", agents=[Agent("reader", tools=[read_document])], workflows=[measured])


async def outside() -> None:
    await read_document(1)  # pyright: ignore[reportArgumentType]
    async with app.open() as runtime:
        await runtime.start(measured, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
