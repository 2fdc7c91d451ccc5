# SPDX-License-Identifier: Apache-2.0
"""How labels and preparations are read from the files that people have."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from inkling.contract import Contract, Source, TrainingData
from inkling.errors import InvalidRequest
from inkling.image.preprocess import to_input
from inkling_training.preparation.conclusion import (
    Likeness,
    Wishes,
    contract_of,
    preparation,
)
from inkling_training.preparation.ecosystems import read_like
from inkling_training.preparation.families import family_of
from inkling_training.preparation.labels import read_labels
from inkling_training.preparation.meaning import (
    label_count,
    meaning_of,
    probabilities,
    traced_probabilities,
)
from inkling_training.preparation.neighbours import label_order
from inkling_training.sources.keras_layers import layer_names
from inkling_training.sources.source import Source as Given

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file, as text or as JSON: `write("labels.txt", "a")`."""

    def written(name: str, content: Any) -> Path:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return written


_PAIRS = {"0": ["n1", "crane"], "1": ["n2", "owl"], "2": ["n3", "crane"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cat\ndog\n\n", ("cat", "dog")),
        ("\ufeff0 cat\r\n1 big dog\r\n", ("cat", "big dog")),
        ("1 kg\n2 kg\n", ("1 kg", "2 kg")),
        ("7\n8\n", ("7", "8")),
        ("crane\nowl\ncrane\n", ("crane (0)", "owl", "crane (2)")),
        (["cat", "dog"], ("cat", "dog")),
        ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        ({"dog": 1, "cat": 0}, ("cat", "dog")),
        ({str(i): str(i * i) for i in range(12)}, tuple(str(i * i) for i in range(12))),
        (_PAIRS, ("crane (n1)", "owl", "crane (n3)")),
        ({"id2label": {"0": "cat", "1": "dog"}}, ("cat", "dog")),
        ({"labels": ["cat", "dog"]}, ("cat", "dog")),
        ('id,name\n1,"owl, barn"\n0,cat\n', ("cat", "owl, barn")),
        ("name,id\ncat,0\ndog,1\n", ("cat", "dog")),
        ("tench, Tinca\nowl, Strix\n", ("tench, Tinca", "owl, Strix")),
        ("id,name\n1,cat\n2,dog\n", ("id,name", "1,cat", "2,dog")),
    ],
)
def test_labels_in_every_form(
    content: Any, expected: tuple[str, ...], write: Write
) -> None:
    """Text, tables, lists, objects and ImageNet's pairs give labels in order."""
    assert expected == read_labels(str(write("labels", content)))


def test_labels_on_the_command_line() -> None:
    """Commas separate labels; spaces around them do not count."""
    assert read_labels("cat, dog,great  tit") == ("cat", "dog", "great tit")


@pytest.mark.parametrize(
    "content",
    [
        {"1": "dog", "2": "cat"},
        {"cat": 0, "dog": 2},
        {"cat": "dog"},
        [1, 2],
        [],
        "[broken",
        [["a", "b", "c"]],
    ],
)
def test_labels_that_cannot_be_read(content: Any, write: Write) -> None:
    """Places with gaps, other values and equal labels are refused."""
    with pytest.raises(InvalidRequest):
        read_labels(str(write("labels", content)))


def _given(**changes: Any) -> Given:
    fields: dict[str, Any] = {
        "name": "model.keras",
        "digest": "sha256:0",
        "library": "Keras",
        "height": None,
        "width": None,
        "channels": 3,
        "layout": "hwc",
        "dtype": "float32",
        "activation": "softmax",
        "raw": lambda inputs: inputs,
    }
    return Given(**{**fields, **changes})


_TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.25}


def _contract(wishes: Wishes, like: Likeness, **changes: Any) -> Contract:
    fields, _ = preparation(_given(**changes), wishes, like)
    return contract_of(
        fields,
        ("a", "b"),
        "softmax",
        Source("m", "sha256:0", ""),
        _TOLERANCES,
    )


def _picture(number: int) -> Image.Image:
    chance = np.random.default_rng(number)
    coarse = chance.integers(0, 256, (4, 6, 3), np.uint8)
    size = (int(chance.integers(300, 500)), int(chance.integers(300, 420)))
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _prepared(picture: Image.Image, contract: Contract) -> np.ndarray:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return to_input(file.getvalue(), contract)


_STRETCHED = ("stretch", 224, 224)
_CUT = {"do_center_crop": True, "crop_size": 224}
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _as_torchvision(picture: Image.Image, edge: int, filter_: Any) -> np.ndarray:
    """Do as Resize(edge), CenterCrop(224), ToTensor and Normalize."""
    width, height = picture.size
    longer = int(edge * max(width, height) / min(width, height))
    size = (edge, longer) if width <= height else (longer, edge)
    pixels = np.asarray(picture.resize(size, filter_), np.float32)
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    cut = pixels[top : top + 224, left : left + 224]
    return (cut / 255 - np.float32(_MEAN)) / np.float32(_STD)


@pytest.mark.parametrize("number", range(4))
def test_timm(number: int, write: Write) -> None:
    """A timm pretrained_cfg scales, cuts the centre out and normalises."""
    cfg = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875}
    config = {"pretrained_cfg": {**cfg, "mean": _MEAN, "std": _STD}}
    config["label_names"] = ["cat", "dog"]
    kind, fields, labels = read_like(write("config.json", config))

    contract = _contract(Wishes(), Likeness(kind, fields, labels))

    picture = _picture(number)
    expected = _as_torchvision(picture, 256, Image.Resampling.BICUBIC)
    assert labels == ("cat", "dog")
    assert _prepared(picture, contract) == pytest.approx(expected, abs=1e-5)


_SIXTH = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("config", "resize", "size", "crop"),
    [
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, "cover", 224, 256),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, "stretch", 384, 384),
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, *_STRETCHED),
        ({"size": {"height": 256, "width": 256}, **_CUT}, "stretch", 224, 256),
        (
            {"size": 256, "image_processor_type": "DeiTImageProcessor", **_CUT},
            "stretch",
            224,
            256,
        ),
        (
            {
                "size": {"shortest_edge": 224},
                "image_processor_type": "LevitImageProcessor",
                **_CUT,
            },
            "cover",
            224,
            256,
        ),
        (
            {
                "size": {"shortest_edge": 224},
                "crop_pct": 0.9,
                "image_processor_type": "PoolFormerImageProcessor",
                **_CUT,
            },
            "cover",
            224,
            248,
        ),
    ],
)
def test_hugging_face_by_class(
    config: Any, resize: str, size: int, crop: int, write: Write
) -> None:
    """Each class of processor has the geometry that its code has.

    All were compared with transformers 4.57 on 20 pictures: within 5e-7.
    """
    stated = {"do_resize": True, "resample": 3, **_SIXTH, **config}
    _, fields, _ = read_like(write("preprocessor_config.json", stated))

    assert (fields["resize"], fields["height"]) == (resize, size)
    assert math.floor(size / fields["crop"]) == crop


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_flip_channel_order": True}, {"channel_order": "bgr"}),
        (
            {"include_top": True},
            {"scale": (1 / 255 / 0.25,) * 3, "offset": (-2.0,) * 3},
        ),
        (
            {
                "rescale_offset": True,
                "rescale_factor": 1 / 127.5,
                "do_normalize": False,
            },
            {"scale": (1 / 127.5,), "offset": (-1.0,)},
        ),
    ],
)
def test_hugging_face_values(
    changes: Any, expected: dict[str, Any], write: Write
) -> None:
    """The rest of a processor's arithmetic is read, too."""
    config = {"do_resize": False, "image_processor_type": "EfficientNetImageProcessor"}
    path = write("preprocessor_config.json", {**config, **_SIXTH, **changes})

    _, fields, _ = read_like(path)

    for name, value in expected.items():
        assert fields[name] == (
            value if isinstance(value, str) else pytest.approx(value)
        )


def test_steps_that_inkling_lacks_are_named(write: Write) -> None:
    """A step of a processor that a contract cannot state is refused by its name."""
    path = write("preprocessor_config.json", {"do_resize": True, "do_pad": True})

    with pytest.raises(InvalidRequest, match="do_pad"):
        read_like(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crop_mode": "squash", "crop_pct": 1.0}, ("stretch", 1.0)),
        ({"crop_mode": "squash", "crop_pct": 0.875}, ("stretch", 0.875)),
        ({"crop_mode": "border", "crop_pct": 1.0, "mean": [0.5] * 3}, ("fit", 128)),
    ],
)
def test_timm_modes(changes: Any, expected: tuple[str, float], write: Write) -> None:
    """A file of timm squashes, or fills the rest with the mean colour, if it is a grey."""
    config = {"input_size": [3, 64, 64], "mean": _MEAN, "std": _STD, **changes}

    _, fields, _ = read_like(write("config.json", config))

    assert fields["resize"] == expected[0]
    assert fields["pad" if expected[0] == "fit" else "crop"] == expected[1]


def test_stretching_and_cutting() -> None:
    """A picture can be stretched to a size of which the centre is kept."""
    fields, _ = preparation(
        _given(),
        Wishes(size=(56, 56), values="bytes", resize="stretch", crop=0.875),
        Likeness(),
    )
    contract = contract_of(
        fields, ("a", "b"), "softmax", Source("m", "sha256:0", ""), _TOLERANCES
    )
    picture = _picture(7)

    pixels = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))

    expected = pixels[4:60, 4:60].astype(np.float32)
    assert np.array_equal(_prepared(picture, contract), expected)


@pytest.mark.parametrize("edge", [224, 232, 246, 256, 384])
def test_hugging_face_scales_to_its_edge(edge: int, write: Write) -> None:
    """The shorter side gets exactly the stated number of pixels."""
    config = {
        "do_resize": True,
        "size": {"shortest_edge": edge},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "image_mean": _MEAN,
        "image_std": _STD,
    }
    _, fields, _ = read_like(write("preprocessor_config.json", config))

    assert math.floor(224 / fields["crop"]) == edge
    assert (fields["resize"], fields["filter"]) == ("cover", "bicubic")


def test_hugging_face_stretches_to_a_size(write: Write) -> None:
    """`size` with height and width stretches, as ViT does."""
    config = {
        "do_resize": True,
        "size": {"height": 32, "width": 48},
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
    }
    kind, fields, labels = read_like(write("preprocessor_config.json", config))
    contract = _contract(Wishes(), Likeness(kind, fields, labels))
    picture = _picture(1)

    pixels = np.asarray(picture.resize((48, 32), Image.Resampling.BILINEAR))

    expected = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    assert _prepared(picture, contract) == pytest.approx(expected, abs=1e-5)


def test_keras_hub(write: Write) -> None:
    """A KerasHub image converter resizes as Keras's Resizing layer, then scales."""
    config = {
        "image_size": [40, 56],
        "scale": [0.5, 0.25, 2.0],
        "offset": [1.0, 0.0, -3.0],
        "interpolation": "bilinear",
        "crop_to_aspect_ratio": True,
    }
    kind, fields, labels = read_like(write("image.json", {"config": config}))
    contract = _contract(Wishes(), Likeness(kind, fields, labels))
    picture = _picture(2)

    resizing = keras.layers.Resizing(40, 56, crop_to_aspect_ratio=True)
    pixels = resizing(np.asarray(picture, np.float32)[np.newaxis])[0].numpy()

    expected = pixels * np.float32([0.5, 0.25, 2]) + np.float32([1, 0, -3])
    assert _prepared(picture, contract) == pytest.approx(expected, abs=1e-3)


def test_an_inkling_contract(write: Write, colour_contract: Contract) -> None:
    """Another contract gives its preparation and labels."""
    _, fields, labels = read_like(write("contract.json", colour_contract.json))

    contract = _contract(Wishes(), Likeness("contract", fields, labels))

    assert labels == colour_contract.labels
    picture = _picture(3)
    expected = _prepared(picture, colour_contract)
    assert np.array_equal(_prepared(picture, contract), expected)


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        [1],
        {"anything": 1},
        {"do_resize": True, "resample": 99},
        {"do_resize": True, "size": {"shortest_edge": 200}, "image_mean": 0},
        {"pretrained_cfg": {"input_size": [3, 2], "mean": [0]}},
        {"format": 2, "training_data": {}},
    ],
)
def test_files_that_state_no_preparation(content: Any, write: Write) -> None:
    """Other files, and values of another form, are refused with a sentence."""
    with pytest.raises(InvalidRequest):
        read_like(write("like.json", content))


@pytest.mark.parametrize(
    ("values", "function"),
    [
        ("signed", keras.applications.mobilenet_v2.preprocess_input),
        ("caffe", keras.applications.resnet50.preprocess_input),
        ("imagenet", keras.applications.densenet.preprocess_input),
        ("bytes", keras.applications.efficientnet_v2.preprocess_input),
        ("unit", lambda pixels: pixels / 255),
    ],
)
def test_values_are_those_of_the_families(
    values: str, function: Callable[..., np.ndarray]
) -> None:
    """Each name of --values is what that family's preprocess_input computes."""
    contract = _contract(Wishes(size=(64, 80), values=values), Likeness())
    picture = _picture(5)

    pixels = np.asarray(picture.resize((80, 64), Image.Resampling.BILINEAR))

    expected = function(pixels.astype(np.float32))
    assert _prepared(picture, contract) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("resize", ["stretch", "fit", "cover"])
def test_without_antialiasing_it_is_keras(resize: str, tmp_path: Path) -> None:
    """--no-antialias prepares as image_dataset_from_directory, in each --resize."""
    wishes = Wishes(size=(48, 64), values="bytes", resize=resize, antialias=False)
    contract = _contract(wishes, Likeness())
    (tmp_path / "a").mkdir()
    _picture(6).save(tmp_path / "a" / "1.png")
    options = {"fit": "pad_to_aspect_ratio", "cover": "crop_to_aspect_ratio"}

    dataset = keras.utils.image_dataset_from_directory(
        tmp_path,
        image_size=(48, 64),
        verbose=False,
        **({options[resize]: True} if resize in options else {}),
    )

    [(batch, _)] = list(dataset)
    assert _prepared(_picture(6), contract) == pytest.approx(batch[0].numpy(), abs=1e-3)


def test_transparent_parts_are_dropped() -> None:
    """A transparent picture shows the colours that Pillow's convert("RGB") shows."""
    contract = _contract(Wishes(size=(20, 20), values="bytes"), Likeness())
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    picture = Image.fromarray(pixels)

    found = _prepared(picture, contract)

    assert np.array_equal(found, np.asarray(picture.convert("RGB"), np.float32))


@pytest.mark.parametrize(
    ("activation", "raw", "expected"),
    [
        ("softmax", [[0.25, 0.75]], "softmax"),
        ("sigmoid", [[0.9, 0.8]], "sigmoid"),
        ("sigmoid", [[0.9]], "binary"),
        ("linear", [[0.9]], "logits"),
        (None, [[3.0, -1.0]], "logits"),
        (None, [[0.25, 0.75]], "softmax"),
    ],
)
def test_meanings(activation: str | None, raw: Any, expected: str) -> None:
    """The last activation tells what outputs are; else the answers may."""
    found, why = meaning_of(None, activation, np.float32(raw))

    assert (found, bool(why)) == (expected, True)


@pytest.mark.parametrize("raw", [[[0.9]], [[0.9, 0.8]]])
def test_meanings_that_are_asked_for(raw: Any) -> None:
    """Values within 0 to 1 that do not sum to 1 may be anything."""
    with pytest.raises(InvalidRequest, match="--outputs"):
        meaning_of(None, None, np.float32(raw))


@pytest.mark.parametrize(
    ("meaning", "outputs"),
    [
        ("softmax", 4),
        ("logits", 1),
        ("logits", 4),
        ("sigmoid", 1),
        ("sigmoid", 4),
        ("binary", 1),
    ],
)
def test_scores_are_the_same_in_the_export(meaning: str, outputs: int) -> None:
    """NumPy and TensorFlow make the same scores of a model's outputs."""
    raw = np.random.default_rng(0).uniform(0, 1, (5, outputs)).astype(np.float32)

    expected = probabilities(raw, meaning)

    found = traced_probabilities(tf.constant(raw), meaning, outputs).numpy()
    assert found == pytest.approx(expected, abs=1e-6)
    assert expected.shape == (5, label_count(meaning, outputs))


def test_labels_off_by_one_are_told() -> None:
    """A shift of all labels by one is named as such."""
    truth = np.repeat(np.arange(4), 6)
    scores = np.eye(5, dtype=np.float32)[truth + 1]

    [sentence] = label_order(scores, truth, ("a", "b", "c", "d", "e"))

    assert "off by one" in sentence
    assert label_order(np.eye(5, dtype=np.float32)[truth], truth, tuple("abcde")) == []


def test_flags_win_over_a_file_and_the_model() -> None:
    """An option wins over --like, and --like over what the model says."""
    like = Likeness("file", {"scale": (2.0,), "offset": (0.0,), "filter": "box"})
    said = {"values": ("bytes", "it rescales")}

    by_file = _contract(Wishes(size=(9, 9)), like, **said)
    by_flag = _contract(
        Wishes(size=(9, 9), values="unit", filter="hamming"), like, **said
    )
    by_model = _contract(Wishes(size=(9, 9)), Likeness(), **said)

    assert (by_file.scale, by_file.filter) == ((2.0,), "box")
    assert (by_flag.scale, by_flag.filter) == ((1 / 255,), "hamming")
    assert (by_model.scale, by_model.filter) == ((1.0,), "bilinear")
    assert by_model.training_data == TrainingData("not stated", "not stated")


_FAMILIES = {
    "MobileNetV2": "MobileNetV2",
    "MobileNet": "MobileNet",
    "ResNet50V2": "ResNetV2",
    "ResNet50": "ResNet",
    "DenseNet121": "DenseNet",
    "Xception": "Xception",
    "VGG16": "VGG",
    "InceptionV3": "InceptionV3",
    "InceptionResNetV2": "InceptionResNetV2",
    "NASNetMobile": "NASNet",
    "EfficientNetV2B0": None,
    "ConvNeXtTiny": None,
}


@pytest.mark.soak
@pytest.mark.parametrize("name", _FAMILIES)
def test_families_are_known_by_their_layers(name: str) -> None:
    """Architectures that want prepared pictures are recognised, and no others."""
    model = getattr(keras.applications, name)(weights=None, classes=2)

    found = family_of(layer_names(model))

    assert (found.name if found else None) == _FAMILIES[name]
