import dataclasses
import json

import pytest

from inkling.contract import CONTRACT_FORMAT, Contract
from inkling.errors import InvalidContract


def test_json_round_trip(digit_contract: Contract) -> None:
    """A contract that is written and read again is equal, and has the same hash."""
    again = Contract.from_json(digit_contract.json)

    assert digit_contract == again
    assert digit_contract.hash == again.hash


def test_hash_is_of_the_canonical_form(digit_contract: Contract) -> None:
    """The hash does not change with order and spacing of the JSON; it changes with any value."""
    values = json.loads(digit_contract.json)
    shuffled = json.dumps(dict(reversed(values.items())), indent=3)
    other = dataclasses.replace(digit_contract, pad=1)

    assert digit_contract.hash == Contract.from_json(shuffled).hash
    assert digit_contract.hash != other.hash
    assert digit_contract.hash.startswith("sha256:")
    assert len(digit_contract.hash) == len("sha256:") + 64


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("format", CONTRACT_FORMAT + 1, "format"),
        ("kind", "movie", "kind"),
        ("polarity", "sideways", "polarity"),
        ("alpha", "pink", "alpha"),
        ("filter", "magic", "filter"),
        ("centring", "left", "centring"),
        ("finder", "ink-0", "finder"),
        ("grey", "blue", "grey"),
        ("format", True, "format"),
        ("channels", 2, "channels"),
        ("height", 0, "height"),
        ("height", 28.0, "height"),
        ("width", True, "width"),
        ("pad", 256, "pad"),
        ("box", 29, "box"),
        ("exif", 1, "exif"),
        ("keep_aspect", "yes", "keep_aspect"),
        ("scale", 0, "scale"),
        ("offset", float("nan"), "offset"),
        ("temperature", 0, "temperature"),
        ("temperature", float("inf"), "temperature"),
        ("abstain_below", 1.0, "abstain_below"),
        ("abstain_below", -0.1, "abstain_below"),
        ("labels", [], "labels"),
        ("labels", ["a", "a"], "labels"),
        ("labels", ["a", 3], "labels"),
        ("labels", 5, "type"),
        ("scale", "big", "type"),
        ("training_data", {"name": "x"}, "type"),
        ("tolerances", {"float32": 1e-5}, "tolerances"),
        ("surprise", 1, "surprise"),
    ],
)
def test_malformed_contracts_are_refused(
    digit_contract: Contract, field: str, value: object, word: str
) -> None:
    """A wrong field is named in the refusal."""
    values = {**json.loads(digit_contract.json), field: value}

    with pytest.raises(InvalidContract, match=word):
        Contract.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "3", '{"format": 1}', "[" * 99999]
)
def test_texts_that_are_no_contract_are_refused(text: str) -> None:
    """A text that is not a JSON object with a format is refused, however deep it nests."""
    with pytest.raises(InvalidContract):
        Contract.from_json(text)


def test_format_1_stays(digit_contract: Contract) -> None:
    """A contract with luminance is written and hashed in format 1, as it ever was."""
    published = dataclasses.replace(digit_contract, finder="ink-1", grey="luminance")
    values = json.loads(published.json)

    assert values["format"] == 1
    assert "grey" not in values
    assert Contract.from_json(published.json) == published
    with pytest.raises(InvalidContract, match="grey"):
        Contract.from_json(json.dumps({**values, "grey": "contrast"}))


def test_colour_has_no_grey(digit_contract: Contract) -> None:
    """A contract of three channels that states how to become grey is refused."""
    with pytest.raises(InvalidContract, match="3 channels"):
        dataclasses.replace(digit_contract, channels=3)


def test_missing_fields_are_refused(digit_contract: Contract) -> None:
    """A contract without one of its fields is refused: no field has a default when it is read."""
    for name in json.loads(digit_contract.json):
        values = json.loads(digit_contract.json)
        del values[name]
        with pytest.raises(InvalidContract):
            Contract.from_json(json.dumps(values))
