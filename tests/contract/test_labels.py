# SPDX-License-Identifier: Apache-2.0
"""Labels as text: one spelling in contracts and comparisons, and none that breaks."""

from __future__ import annotations

import dataclasses
import unicodedata

import pytest

from inkling.contract import Contract
from inkling.errors import InklingError, InvalidContract, InvalidRequest
from inkling.labels import by_normal_form, is_text, normal_form

_CUBE = "grüner Würfel"


@pytest.mark.parametrize(
    "spelling",
    [
        unicodedata.normalize("NFC", _CUBE),
        unicodedata.normalize("NFD", _CUBE),
        f"{_CUBE} ",
        f"\t{_CUBE}\r\n",
        f"\ufeff{_CUBE}",
        f"\u200e{_CUBE}\u200b",
        _CUBE.replace(" ", "\u00a0"),
        _CUBE.replace(" ", "  "),
    ],
    ids=ascii,
)
def test_spellings_of_one_label(spelling: str) -> None:
    """Composed or not, with or without spaces that nobody sees: it is one label."""
    assert unicodedata.normalize("NFC", _CUBE) == normal_form(spelling)


@pytest.mark.parametrize(
    "label",
    ["Cat", "cat", "ｃａｔ", "ﬁsh", "0007", "a_b", "犬", "👨‍👩‍👧", "क्‍ष", "İ", "ß"],
)
def test_other_labels_stay_as_they_are(label: str) -> None:
    """Capitals, widths, ligatures and joined characters make a difference."""
    assert label == normal_form(label)


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\ud800", "a\udcff"])
def test_names_that_are_no_labels(name: str) -> None:
    """A name without text, or with half a character, is refused and shown."""
    assert not is_text(normal_form(name))
    with pytest.raises(InvalidRequest, match="cannot be a label"):
        by_normal_form(["cat", name])


def test_two_spellings_beside_each_other_are_refused() -> None:
    """Both are named, so that the two can be told apart."""
    names = [unicodedata.normalize(form, "Würfel") for form in ("NFC", "NFD")]

    with pytest.raises(InvalidRequest) as refused:
        by_normal_form(["cat", *names])

    assert r"'W\xfcrfel' and 'Wu\u0308rfel'" in refused.value.message


def test_published_labels_keep_their_spelling(digit_contract: Contract) -> None:
    """A contract with decomposed labels has the labels, and the hash, that it had."""
    labels = ("cat", unicodedata.normalize("NFD", "Würfel"))
    contract = dataclasses.replace(digit_contract, labels=labels)

    again = Contract.from_json(contract.json)

    assert (labels, contract.hash) == (again.labels, again.hash)


@pytest.mark.parametrize("label", ["\ud800", "", 7, None])
def test_contracts_with_labels_that_no_answer_can_carry(
    label: object, digit_contract: Contract
) -> None:
    """Such a contract is refused, because each answer would fail."""
    text = digit_contract.json.replace(
        '"9"', {"\ud800": r'"\ud800"'}.get(str(label), "7")
    )

    with pytest.raises(InvalidContract, match="labels"):
        Contract.from_json(text)


def test_messages_can_be_sent() -> None:
    """What an error quotes, such as the name of a file, can be encoded."""
    name = b"caf\xe9".decode(errors="surrogateescape")

    message = InklingError(f"{name} cannot be read.").message

    assert r"caf\udce9 cannot be read." == message.encode().decode()
