"""Agents and workflows as MCP tools: ``perdure mcp``.

The command is found by name (entry point ``mcp`` in the group ``perdure.commands``); importing this package alone
imports nothing else, the MCP SDK least of all.
"""
