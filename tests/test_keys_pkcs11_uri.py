"""URIs of tokens (RFC 7512): what names a store, and what is refused rather than guessed."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardcore.errors import FormatError, SetupError
from keys.pkcs11.uri import TokenUri

WHOLE = "pkcs11:token=onecard?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"


def test_a_whole_uri() -> None:
    uri = TokenUri.parse(WHOLE)
    assert uri.token == {"token": "onecard"}
    assert uri.module == Path("/usr/lib/softhsm/libsofthsm2.so")
    assert str(uri) == "pkcs11:token=onecard by /usr/lib/softhsm/libsofthsm2.so"


def test_values_are_percent_encoded() -> None:
    """The examples of RFC 7512, section 3, have spaces, and labels may have any character."""
    text = "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;serial=%E4%B8%80%3B?module-path=/a%26b&pin-source=env:P"
    uri = TokenUri.parse(text)
    assert uri.token == {"token": "The Software PKCS#11 Softtoken", "serial": "一;"}
    assert uri.module == Path("/a&b")


@pytest.mark.parametrize(
    "text",
    [
        "", "onecard", "PKCS11", "pkcs11:", "pkcs11:token=onecard", "pkcs11:?module-path=/m&pin-source=env:P",
        "pkcs11:token=a?pin-source=env:P",
        "pkcs11:token=?module-path=/m&pin-source=env:P", "pkcs11:token=a;token=b?module-path=/m&pin-source=env:P",
        "pkcs11:token=a;object=tac?module-path=/m&pin-source=env:P", "pkcs11:tokn=a?module-path=/m&pin-source=env:P",
        "pkcs11:token=a?module-path=/m&pin-source=%7Ccat%20pin", "pkcs11:token=a?module-path=/m&pin-source=http://pin",
        "pkcs11:token=a?module-path=/m&pin-source=env:P&max-sessions=1",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        TokenUri.parse(text)


def test_a_pin_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(FormatError) as refusal:
        TokenUri.parse("pkcs11:token=a?module-path=/m&pin-value=271828")
    assert "271828" not in str(refusal.value)
    assert "never stands in a URI" in str(refusal.value)


@given(st.text())
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    for tried in (text, f"pkcs11:{text}", f"{WHOLE}{text}"):
        with suppress(FormatError):
            assert TokenUri.parse(tried).token


def test_an_empty_pin_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.touch(0o600)
    with pytest.raises(SetupError, match="holds no PIN"):
        TokenUri.parse(WHOLE.replace("/run/pin", str(file))).pin()
    file.write_text("1234\n")
    assert TokenUri.parse(WHOLE.replace("/run/pin", str(file))).pin() == "1234"
