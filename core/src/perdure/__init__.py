"""Perdure makes agents durable, and every part around them replaceable."""

from perdure.agent import Agent, AgentRef, Limits, Tool, agent_ref, tool
from perdure.app import App, run
from perdure.context import Context, Reply
from perdure.hookspecs import hookimpl
from perdure.messages import AgentId
from perdure.runs import Run
from perdure.runtime import Runtime
from perdure.saga import Saga
from perdure.steps import Attempt, Retry, step
from perdure.workflow import Workflow, WorkflowRef, workflow, workflow_ref

__all__ = [
    "Agent",
    "AgentId",
    "AgentRef",
    "App",
    "Attempt",
    "Context",
    "Limits",
    "Reply",
    "Retry",
    "Run",
    "Runtime",
    "Saga",
    "Tool",
    "Workflow",
    "WorkflowRef",
    "agent_ref",
    "hookimpl",
    "run",
    "step",
    "tool",
    "workflow",
    "workflow_ref",
]
