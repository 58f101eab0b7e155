"""Strict JSON: what it returns, and every way in which it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from profiles.headers import BadModelFile, load_json_object

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "rope_scaling": {"factor": 64.0, "beta_fast": 32.0, "mscale": 1e-6},
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "biggest": 2**63 - 1,
    "smallest": -(2**63),
    "name": 'Kimi "K2.5" 月之暗面 😀 \\ [[[{',
}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_returns_what_was_written(tmp_path: Path, ascii_only: bool) -> None:
    content = json.dumps(CONFIG, ensure_ascii=ascii_only, indent=2).encode()
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert load_json_object(path, len(content), "model configuration") == CONFIG
    assert load_json_object(str(path), len(content), "model configuration") == CONFIG
    assert load_json_object(content, len(content), "model configuration") == CONFIG


def test_allows_64_levels_and_brackets_in_text() -> None:
    content = b'{"a":' + b"[" * 63 + b'"' + b"[{" * 1000 + b'\\"[[["' + b"]" * 63 + b"}"
    value: object = load_json_object(content, 10_000, "plan")["a"]
    for _ in range(63):
        assert isinstance(value, list)
        (value,) = value
    assert value == "[{" * 1000 + '"[[['


def test_allows_the_same_key_in_different_objects() -> None:
    assert load_json_object(b'{"a":{"a":1},"b":{"a":2}}', 100, "plan") == {"a": {"a": 1}, "b": {"a": 2}}


REFUSED = {
    "nothing": (b"", "not JSON"),
    "an array": (b"[]", "the top level must be an object"),
    "a number": (b"1", "the top level must be an object"),
    "two objects": (b"{}{}", r"not JSON: Extra data \(line 1 column 3\)"),
    "a comment": (b"{/**/}", "not JSON"),
    "a comma at the end": (b'{"a":1,}', "not JSON"),
    "single quotes": (b"{'a':1}", "not JSON"),
    "a raw control character": (b'{"a":"\n"}', "not JSON: Invalid control character"),
    "a null byte": (b'{"a":1}\0', "not JSON"),
    "no end": (b'{"a":[', "not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "begins with a byte order mark; plain UTF-8 is allowed"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "byte 0 is not UTF-8"),
    "Latin-1": ('{"a":"ä"}'.encode("latin-1"), "byte 6 is not UTF-8"),
    "overlong UTF-8": (b'{"a":"\xc0\x80"}', "byte 6 is not UTF-8"),
    "a surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "byte 6 is not UTF-8"),
    "half a surrogate pair": (b'{"a":"\\ud83d"}', "byte 6 begins half of a surrogate pair"),
    "the other half": (b'{"a":"\\uDE00"}', "byte 6 begins half of a surrogate pair"),
    "halves in the wrong order": (b'{"a":"\\ude00\\ud83d"}', "byte 6 begins half of a surrogate pair"),
    "half a pair after a backslash": (b'{"a":"\\\\\\ud83d"}', "byte 8 begins half of a surrogate pair"),
    "half a pair as a key": (b'{"\\ud83d":1}', "byte 2 begins half of a surrogate pair"),
    "a key twice": (b'{"a":1,"a":1}', "key 'a' appears twice in one object"),
    "a key twice by escape": (b'{"a":1,"\\u0061":2}', "key 'a' appears twice"),
    "a key twice far below": (b'{"x":[{"y":{"b":0,"a":1,"a":2}}]}', "key 'a' appears twice"),
    "NaN": (b'{"a":NaN}', "NaN is not JSON; finite numbers are allowed"),
    "Infinity": (b'{"a":[Infinity]}', "Infinity is not JSON"),
    "-Infinity": (b'{"a":-Infinity}', "-Infinity is not JSON"),
    "1e999": (b'{"a":1e999}', "number '1e999' is beyond a double"),
    "-1e999": (b'{"a":-1e999}', "number '-1e999' is beyond a double"),
    "a million digits after the point": (b'{"a":0.' + b"1" * 1_000_000 + b"}", "is beyond a double"),
    "2^63": (b'{"a":9223372036854775808}', "integer '9223372036854775808' does not fit the 64 signed bits"),
    "-2^63-1": (b'{"a":-9223372036854775809}', "does not fit the 64 signed bits"),
    "5,000 digits": (b'{"a":' + b"9" * 5000 + b"}", "integer '9+'… does not fit the 64 signed bits"),
    "a leading zero": (b'{"a":01}', "not JSON"),
    "65 levels": (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "nested more than the 64 levels that are allowed"),
    "100,000 open brackets": (b"[" * 100_000, "nested more than the 64 levels"),
    "100,000 open braces": (b'{"a":' * 100_000, "nested more than the 64 levels"),
    "a million open brackets": (b"[" * 1_000_000, "more than the 250,000 values that are allowed"),
    "brackets that only close": (b"[]" * 65 + b"]" * 100_000, "a bracket closes that was never opened"),
    "a million values": (b'{"a":[' + b"0," * 1_000_000 + b"0]}", "more than the 250,000 values"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_clear_line(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    with pytest.raises(BadModelFile, match=f"^inventory: .*{message}") as caught:
        load_json_object(content, 10_000_000, "inventory")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadModelFile) as from_file:
        load_json_object(path, 10_000_000, "inventory")
    assert str(from_file.value) == f"{path}: {caught.value}"


def test_refuses_more_bytes_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a":1}')
    assert load_json_object(path, 7, "plan") == {"a": 1}
    for source in (path, b'{"a":1}'):
        with pytest.raises(BadModelFile, match="plan: larger than the 6 bytes that are allowed"):
            load_json_object(source, 6, "plan")


def test_refuses_files_that_have_no_end(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="not a regular file"):
        load_json_object("/dev/zero", 1000, "plan")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadModelFile, match="not a regular file"):
        load_json_object(tmp_path / "pipe", 1000, "plan")


def test_names_the_reason_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="cannot be read: No such file or directory"):
        load_json_object(tmp_path / "absent.json", 1000, "plan")


def test_refuses_a_wide_text_that_python_would_hold_fourfold() -> None:
    wide = b'{"a":"' + "😀".encode() + b"x" * 17_000_000 + b'"}'
    with pytest.raises(BadModelFile, match="only ASCII is allowed in a file of more than 16,000,000 bytes"):
        load_json_object(wide, 40_000_000, "plan")


def test_a_message_is_one_line_whatever_the_file_is_called() -> None:
    error = BadModelFile("a\nb\x1b[2J", "wrong\nthing")
    assert str(error) == "a\\nb\\x1b[2J: wrong\\nthing"
    assert error.file == "a\nb\x1b[2J"
