"""Whether an answer fits a request's JSON schema, said so that a person can mend it."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json


def misfit(value: bytes, schema: dict[str, Any]) -> str:
    """What does not fit, naming field and expectation; empty if it all does."""
    # jsonschema takes 60 ms to import and is needed only when somebody answers
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    try:
        data = from_json(value)
    except ValueError as error:
        return f"it is no JSON ({error})"
    validator: Any = Draft202012Validator(schema)
    found = sorted(validator.iter_errors(data), key=lambda error: list(error.absolute_path))
    return "; ".join(f"{'.'.join(map(str, error.absolute_path)) or 'the answer'}: {error.message}" for error in found)
