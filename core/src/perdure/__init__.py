"""Perdure makes agents durable, and every part around them replaceable."""

from perdure.agent import Agent, AgentRef, Limits, Tool, agent_ref, tool
from perdure.app import App, run
from perdure.context import Context, Reply
from perdure.hookspecs import hookimpl
from perdure.messages import AgentId
from perdure.runtime import Run, Runtime
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
