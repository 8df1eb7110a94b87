"""CloudEvents in and out of the HTTP binding's modes, as the specification's examples have them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from perdure.errors import InvalidInput, PayloadTooLarge
from perdure_transport_http import fuzz
from perdure_transport_http.cloudevents import (
    Event,
    MediaUnsupported,
    as_binary,
    as_structured,
    from_batch,
    from_binary,
    from_structured,
)

HEADERS = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "shop.order"}
ATTRIBUTES = {name.removeprefix("ce-"): value for name, value in HEADERS.items()}
EVENT = Event("1", "/shop", "shop.order", "application/json", b'{"n": 1}', {})
JSON = "application/json"
PROTOBUF = "application/x-protobuf"


def binary(body: bytes = b'{"n": 1}', *, content: str = JSON, **headers: str) -> Event:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return from_binary({**HEADERS, **more}.items(), content, body)


def structured(**attributes: Any) -> Event:
    return from_structured(json.dumps({**ATTRIBUTES, "data": {"n": 1}, **attributes}).encode())


# -- reading


def test_a_binary_event_is_headers_and_a_body_that_is_left_as_it_is():
    assert binary() == EVENT
    assert binary(b'{ "n":1.10 }').data == b'{ "n":1.10 }'


def test_a_structured_event_is_one_object():
    assert structured() == EVENT._replace(data=b'{"n":1}')


def test_a_batch_is_an_array_of_them():
    body = json.dumps([{**ATTRIBUTES, "id": str(n), "data": n} for n in range(3)]).encode()
    assert [(each.id, each.data) for each in from_batch(body, 3)] == [("0", b"0"), ("1", b"1"), ("2", b"2")]
    assert from_batch(b"[]", 3) == []
    with pytest.raises(PayloadTooLarge, match="3 events, and 2 are allowed"):
        from_batch(body, 2)
    with pytest.raises(InvalidInput, match="JSON array of events, not a dict"):
        from_batch(b"{}", 2)
    with pytest.raises(InvalidInput, match="event 2 of the batch is null"):
        from_batch(json.dumps([ATTRIBUTES, None]).encode(), 2)


def test_other_attributes_and_extensions_are_kept_as_text():
    more = {"time": "2031-01-01T00:00:00Z", "subject": "42"}
    assert binary(ce_time=more["time"], ce_subject="42").more == more
    assert structured(**more, flag=True, count=3, gone=None).more == {**more, "flag": "true", "count": "3"}


@pytest.mark.parametrize("value", ["Euro%20%E2%82%AC", '"Euro %E2%82%AC"', "Euro €"])
def test_headers_are_percent_encoded_utf8(value: str):
    assert binary(ce_subject=value).more == {"subject": "Euro €"}


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("", JSON),
        ("application/json; charset=utf-8", JSON),
        ("Text/JSON", JSON),
        ("application/vnd.shop+json", JSON),
        ("application/protobuf", PROTOBUF),
        (PROTOBUF, PROTOBUF),
    ],
)
def test_data_is_json_or_a_protocol_buffer(content: str, kept: str):
    assert binary(content=content).content == kept


def test_without_data_it_is_null():
    assert binary(b"").data == b"null"
    assert binary(b"", content=PROTOBUF).data == b""
    assert from_structured(json.dumps(ATTRIBUTES).encode()).data == b"null"


def test_bytes_in_a_structured_event_are_base64():
    text = b64encode(b"\x08\x01").decode()
    event = from_structured(json.dumps({**ATTRIBUTES, "datacontenttype": PROTOBUF, "data_base64": text}).encode())
    assert (event.data, event.content) == (b"\x08\x01", PROTOBUF)


@pytest.mark.parametrize("content", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
def test_data_of_another_type_is_refused(content: str):
    with pytest.raises(MediaUnsupported, match="expected 'application/json' or 'application/x-protobuf'"):
        binary(content=content)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"specversion": "0.3"}, "'specversion' of the body is '0.3', expected '1.0'"),
        ({"specversion": None}, "'specversion' of the body is None"),
        ({"id": "", "type": None}, "no 'id' and no 'type' in the body"),
        ({"Subject": "x"}, "attribute 'Subject' in the body has no name"),
        ({"subject": {}}, "attribute 'subject' in the body is no text"),
        ({"subject": 1.5}, "attribute 'subject' in the body is no text"),
        ({"subject": "x\ny"}, "attribute 'subject' in the body is no text"),
        ({"subject": "x" * 5000}, "attribute 'subject' in the body is no text"),
        ({f"x{n}": "" for n in range(70)}, "at most 64"),
        ({"data_base64": "AA=="}, "both 'data' and 'data_base64'"),
        ({"data": None, "data_base64": "A"}, "no base64"),
        ({"data": None, "data_base64": 1}, "no base64"),
    ],
    ids=[
        "version",
        "no version",
        "missing",
        "name",
        "object",
        "float",
        "control",
        "long",
        "many",
        "both",
        "base64",
        "number",
    ],
)
def test_what_is_no_event_is_named(attributes: dict[str, Any], message: str):
    with pytest.raises(InvalidInput, match=message):
        structured(**attributes)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000], ids=repr)
def test_what_is_no_json_is_no_event(body: bytes):
    with pytest.raises(InvalidInput, match="no JSON"):
        from_structured(body)


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_object_is_no_event(body: bytes):
    with pytest.raises(InvalidInput, match="expected a JSON object"):
        from_structured(body)


def test_a_header_that_is_no_utf8_or_stands_there_twice_is_refused():
    with pytest.raises(InvalidInput, match="percent-encoded UTF-8"):
        binary(ce_subject="%ff")
    with pytest.raises(InvalidInput, match="'CE-Id' stands there twice"):
        from_binary([*HEADERS.items(), ("CE-Id", "2")], JSON, b"")


def test_a_header_that_smuggles_a_line_is_refused():
    with pytest.raises(InvalidInput, match="without controls"):
        binary(ce_subject="x%0d%0aSet-Cookie: y")


# -- writing


@pytest.mark.parametrize("content", [JSON, PROTOBUF])
def test_what_is_written_is_read_again(content: str):
    data = b'{"n": 1}' if content == JSON else b"\x00\xff"
    event = Event("1 %", "/a/ü", "shop.order", content, data, {"subject": 'Euro "€" \\'})
    headers, body = as_binary(event)
    media = headers.pop("Content-Type")
    assert all(value.isascii() and "\n" not in value for value in headers.values())
    assert from_binary(headers.items(), media, body) == event
    again = from_structured(as_structured(event))
    assert again._replace(data=b"") == event._replace(data=b"")
    assert again.data == (b'{"n":1}' if content == JSON else data)


# -- anything


def test_whatever_comes_is_an_event_or_a_typed_error():
    assert sum(fuzz.attack(seed) for seed in range(20)) > 200


def test_the_fuzzer_runs_for_the_time_it_is_given(capsys: pytest.CaptureFixture[str]):
    assert fuzz.main(["--seconds", "0", "--seed", "7"]) == 0
    assert capsys.readouterr().out.startswith("1 rounds")


def test_the_fuzzer_finds_what_is_not_the_same_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz, "as_structured", lambda event: as_structured(event._replace(id="another")))
    with pytest.raises(AssertionError, match="another one after it was written in the structured mode"):
        fuzz.attack(0)
