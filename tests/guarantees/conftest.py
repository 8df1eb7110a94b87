"""The marker that a guarantee's test cites its promises with."""

import pytest

pytest.register_assert_rewrite(
    *(f"tests.guarantees.{name}" for name in ("bench", "ground", "of_code", "of_waiting", "of_work"))
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(id): the promise of promises.toml that this test holds")
