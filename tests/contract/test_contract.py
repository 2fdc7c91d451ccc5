# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
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
        ("resize", "squash", "resize"),
        ("aspect", "both", "aspect"),
        ("aspect", "exact_box", "exact_box"),
        ("crop", 0, "crop"),
        ("crop", 1.1, "crop"),
        ("crop", 0.5, "crop"),
        ("antialias", 0, "antialias"),
        ("filter", "opencv", "antialias"),
        ("channel_order", "gbr", "channel_order"),
        ("layout", "whc", "layout"),
        ("outputs", "tanh", "outputs"),
        ("outputs", "binary", "two labels"),
        ("scale", [0], "scale"),
        ("scale", [1, 1], "scale"),
        ("scale", ["1"], "scale"),
        ("offset", [float("nan")], "offset"),
        ("source", {"name": "x"}, "type"),
        ("temperature", 0, "temperature"),
        ("temperature", float("inf"), "temperature"),
        ("abstain_below", 1.0, "abstain_below"),
        ("abstain_below", -0.1, "abstain_below"),
        ("labels", [], "labels"),
        ("labels", ["a", "a"], "labels"),
        ("labels", ["a", 3], "labels"),
        ("labels", 5, "type"),
        ("scale", 5, "type"),
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


# As a version before format 2 wrote it.
_FIRST = (
    '{"abstain_below":0.3939,"alpha":"contrast","box":20,"centring":"mass","channels":1,'
    '"exif":true,"filter":"bilinear","finder":"ink-1","format":1,"height":28,'
    '"keep_aspect":true,"kind":"photo_of_one_object","labels":["0","1"],"min_side":512,'
    '"offset":0.0,"pad":0,"polarity":"auto","scale":0.00392156862745098,'
    '"temperature":0.6548,"tolerances":{"float16":0.005,"float32":1e-05,"int8":0.25},'
    '"training_data":{"digest":"sha256:418b","name":"digits"},"width":28}'
)


@pytest.mark.parametrize("keep", [True, False])
def test_the_first_format_stays_as_it_was_written(keep: bool) -> None:
    """A contract of format 1 means the same in format 2, and keeps its JSON and its hash."""
    text = _FIRST.replace(":true,", f":{json.dumps(keep)},")
    contract = Contract.from_json(text)

    assert text == contract.json
    assert f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" == contract.hash
    assert contract.resize == ("fit" if keep else "stretch")
    assert (contract.scale, contract.offset) == ((1 / 255,), (0.0,))
    assert contract == Contract.from_json(contract.json)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 0.5, "resize": "cover"},
        {"filter": "lanczos"},
        {"antialias": False},
        {"channel_order": "bgr"},
        {"outputs": "sigmoid"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_first_format_states_nothing_new(change: dict[str, object]) -> None:
    """A contract of format 1 cannot be given a value that its JSON cannot state."""
    with pytest.raises(InvalidContract, match="format 1"):
        dataclasses.replace(Contract.from_json(_FIRST), **change)  # type: ignore[arg-type]


def test_fields_of_both_formats_are_refused() -> None:
    """A text of one format with a field of the other is refused by the field's name."""
    with pytest.raises(InvalidContract, match="antialias"):
        Contract.from_json(_FIRST.replace('"box"', '"antialias":true,"box"'))
    with pytest.raises(InvalidContract, match="keep_aspect"):
        Contract.from_json(_FIRST.replace('"format":1', '"format":2'))
