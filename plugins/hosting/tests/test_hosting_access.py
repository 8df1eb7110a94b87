"""Who gets in with which token, and where a host does not listen without any."""

from typing import Any

import pytest

from perdure.errors import InvalidSetting, NotPermitted
from perdure_hosting.access import Access, Grant, check_exposure, is_loopback
from perdure_hosting.carrier import Principal

TOKEN = "a-token-of-sixteen-or-more"


def grants(*several: Any) -> list[Grant]:
    return [Grant.model_validate(each) for each in several]


def test_without_tokens_whoever_comes_may_do_everything():
    access = Access([])
    assert access.open
    assert access.principal(None) == access.principal("whatever") == Principal()


def test_a_token_says_who_it_is_and_what_it_may_do():
    access = Access(
        grants({"name": "desk", "token": TOKEN, "may_host": ["desk.*"]}, {"name": "all", "token": TOKEN + "2"})
    )
    assert not access.open
    assert access.principal(TOKEN) == Principal("desk", may_host=("desk.*",))
    assert access.principal(TOKEN + "2") == Principal("all")


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "3", "ä" * 20, "\udcff"])
def test_any_other_token_is_refused(token: str | None):
    with pytest.raises(NotPermitted, match="token"):
        Access(grants({"name": "desk", "token": TOKEN})).principal(token)


@pytest.mark.parametrize("token", ["short", "with spaces in it, and long", "ä" * 20, "x" * 20 + "\n"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str):
    with pytest.raises(InvalidSetting, match="'desk'") as refused:
        Access(grants({"name": "desk", "token": token}))
    assert token not in str(refused.value)


@pytest.mark.parametrize("second", [{"name": "desk", "token": TOKEN + "2"}, {"name": "other", "token": TOKEN}])
def test_names_and_tokens_stand_there_once(second: Any):
    with pytest.raises(InvalidSetting, match="twice"):
        Access(grants({"name": "desk", "token": TOKEN}, second))


def test_a_grant_does_not_show_its_token():
    assert TOKEN not in repr(grants({"name": "desk", "token": TOKEN}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_the_loopback_needs_nothing(host: str):
    assert is_loopback(host)
    check_exposure(host, encrypted=False, authenticated=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "host.example", ""])  # noqa: S104 - they are refused
@pytest.mark.parametrize(("encrypted", "authenticated", "missing"), [(True, False, "tokens"), (False, True, "TLS")])
def test_elsewhere_tls_and_authentication_are_needed(host: str, encrypted: bool, authenticated: bool, missing: str):
    with pytest.raises(InvalidSetting, match=f"there is no {missing}"):
        check_exposure(host, encrypted=encrypted, authenticated=authenticated, insecure=False)
    check_exposure(host, encrypted=encrypted, authenticated=authenticated, insecure=True)
    check_exposure(host, encrypted=True, authenticated=True, insecure=False)
