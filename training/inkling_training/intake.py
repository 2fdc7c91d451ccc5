# SPDX-License-Identifier: Apache-2.0
"""Publishes a model that somebody else made: the work of `inkling publish`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.contract import TOLERANCES
from inkling.contract import Source as Origin
from inkling.errors import InvalidRequest
from inkling.model.repository import Repository, check_model_name
from inkling_training.preparation import conclusion, labels, pictures
from inkling_training.preparation.conclusion import Fact, Likeness, Wishes
from inkling_training.preparation.ecosystems import read_like
from inkling_training.preparation.meaning import label_count, meaning_of
from inkling_training.release.adoption import Adoption, adopt
from inkling_training.release.publish import Terms, answering
from inkling_training.sources.opening import open_source
from inkling_training.sources.source import Choice, Source, UnusableModel

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_training.preparation.pictures import Pictures

__all__ = ["publish_given"]

_PROBES = 16
# So many of them are asked again, among fewer others.
_AGAIN = 5
# How much two answers to the same inputs may differ, as a share of the largest.
_REPEATED = 1e-4
# Half precision has 11 bits; the exports compute in float32.
_HALF_TOLERANCES = {"float32": 1e-2, "float16": 1e-2}


_BACKGROUND = (
    " TensorFlow's models of ImageNet have the label `background` before the 1,000."
)


def publish_given(options: argparse.Namespace) -> int:
    """Publish the model of the command line; return the exit code.

    Raises:
        InvalidRequest: The model or an option is unusable, or a fact is missing.
        GateFailed: The exports disagree with the given model.
    """
    started = time.monotonic()
    check_model_name(options.name)
    like = _likeness(options)
    choice = Choice(options.output, options.signature, options.trust)
    print(f"Opening {options.model}.", flush=True)
    source = open_source(options.model, choice)
    adoption = _concluded(source, like, options)
    repository = Repository(options.models_dir)
    files = adopt(repository, options.name, adoption)
    for note in adoption.notes:
        print(note, flush=True)
    print(
        f"Published {options.name} version {files.version} in "
        f"{time.monotonic() - started:.0f} s: {files.path}. What the model sees is "
        f"drawn in card/seen.png.\n{answering(repository, files)}",
        flush=True,
    )
    return 0


def _likeness(options: argparse.Namespace) -> Likeness:
    path: Path | None = options.contract or options.like
    if path is None:
        return Likeness()
    kind, fields, names = read_like(path)
    if options.contract is not None and kind != "an Inkling contract":
        raise InvalidRequest(
            f"{path} is {kind}; --contract takes the contract.json of a version. Give "
            "it with --like."
        )
    return Likeness(f"{path.name}, {kind}", fields, names)


def _wishes(options: argparse.Namespace) -> Wishes:
    return Wishes(
        size=options.size,
        values=options.values,
        resize=options.resize,
        aspect=options.aspect,
        crop=options.crop,
        filter=options.filter,
        antialias=False if options.no_antialias else None,
        channels=options.channels,
        upright=options.upright,
    )


def _concluded(source: Source, like: Likeness, options: argparse.Namespace) -> Adoption:
    """Return what was found and concluded, and print it as a table."""
    fields, facts = conclusion.preparation(source, _wishes(options), like)
    raw = _probed(source, fields)
    meaning, why = meaning_of(
        options.outputs, source.activation, raw, rounded=source.tflite is not None
    )
    _check_single_logit(source, meaning, raw)
    count = label_count(meaning, raw.shape[1])
    names, from_where = _labels(source, like, count, options)
    contract = conclusion.contract_of(
        fields,
        names,
        _published_outputs(source, meaning),
        Origin(source.name, source.digest, _recipe(options)),
        {**TOLERANCES, **(_HALF_TOLERANCES if source.half else {})},
    )
    known, notes = _pictures(options.pictures, names, contract)
    facts = [
        Fact("model", source.name, f"opened by {source.library}"),
        *facts,
        Fact("outputs", f"{raw.shape[1]}, {meaning}", why),
        Fact("labels", f"{len(names)}: {_some(names)}", from_where),
    ]
    print(conclusion.facts_table(facts), flush=True)
    notes += [f"{note}." for note in source.notes]
    if source.half:
        notes.append(
            "The model computes in half precision; the exports compute in float32, so "
            f"scores may differ by {_HALF_TOLERANCES['float32']:g}."
        )
    return Adoption(
        source=source,
        meaning=meaning,
        contract=contract,
        pictures=known,
        facts=facts,
        notes=notes,
        terms=Terms(options.allow_regression, options.publish_only),
        say=lambda text: print(text, flush=True),
    )


def _some(names: tuple[str, ...]) -> str:
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first:.30}, ... {names[-1]:.20}"


def _probed(source: Source, fields: dict[str, Any]) -> Any:
    """Return the model's answers to some inputs without meaning.

    Raises:
        UnusableModel: The model cannot run on this machine, or answers by chance.
    """
    shape = (_PROBES, fields["height"], fields["width"], fields["channels"])
    scale, offset = np.float32(fields["scale"]), np.float32(fields["offset"])
    pixels = np.random.default_rng(2026).integers(0, 256, shape)
    inputs = pixels.astype(np.float32) * scale + offset
    try:
        found, again = source.raw(inputs), source.raw(inputs[:_AGAIN])
    except UnusableModel:
        raise
    except Exception as error:  # noqa: BLE001 - a model raises whatever it likes
        raise UnusableModel(
            f"{source.name} cannot answer a picture of {shape[1]} x {shape[2]} pixels "
            f"on this machine ({type(error).__name__}). A model whose channels come "
            "first may need a GPU; a model of any size may need another --size."
        ) from None
    largest = max(1.0, float(np.abs(found).max()))
    limit = _HALF_TOLERANCES["float32"] if source.half else _REPEATED
    if np.abs(found[:_AGAIN] - again).max() > limit * largest:
        raise UnusableModel(
            f"{source.name} answers the same picture differently each time, or by the "
            "pictures beside it: layers for training, such as RandomFlip, Dropout or "
            "BatchNormalization, are active in it. model.export keeps them active; "
            "publish the file of model.save('model.keras') instead."
        )
    return found


def _check_single_logit(source: Source, meaning: str, raw: Any) -> None:
    if source.tflite is not None and meaning == "logits" and raw.shape[1] == 1:
        raise UnusableModel(
            f"{source.name} answers one logit, which LiteRT alone cannot turn into a "
            "probability; convert the model with a sigmoid at its end."
        )


def _published_outputs(source: Source, meaning: str) -> str:
    """Return what the published model computes.

    An export contains the softmax of logits, and both scores of a binary model; a
    TFLite file is published as it is.
    """
    if source.tflite is not None:
        return meaning
    return "sigmoid" if meaning == "sigmoid" else "softmax"


def _labels(
    source: Source, like: Likeness, count: int, options: argparse.Namespace
) -> tuple[tuple[str, ...], str]:
    if options.labels is not None:
        names, why = labels.read_labels(options.labels), "--labels"
    elif like.labels:
        names = labels.labels_in(labels.distinct(like.labels))
        why = like.said_by
    elif source.labels:
        names = labels.labels_in(labels.distinct(source.labels))
        why = "the file's metadata"
    else:
        names, why = (), "the folders of --pictures, in alphabetical order"
        if options.pictures is not None:
            names = pictures.folder_labels(options.pictures)
        if not names:
            raise InvalidRequest(
                f"{source.name} has {count} labels and does not name them; give "
                "--labels a,b,c or --labels FILE, in the order of the model's outputs."
            )
    if len(names) != count:
        raise InvalidRequest(
            f"There are {len(names)} labels ({why}), and the outputs of {source.name} "
            f"are for {count}; expected {count} labels in the order of the outputs."
            f"{_BACKGROUND if (len(names), count) == (1000, 1001) else ''}"
        )
    return names, why


def _recipe(options: argparse.Namespace) -> str:
    """Return the options that state the preparation, as one writes them."""
    stated = {
        "values": options.values,
        "resize": options.resize,
        "aspect": options.aspect,
        "crop": options.crop,
        "filter": options.filter,
        "channels": options.channels,
        "outputs": options.outputs,
        "output": options.output,
        "signature": options.signature,
    }
    parts = [f"--{name} {value}" for name, value in stated.items() if value is not None]
    parts += ["--no-antialias"] * options.no_antialias + ["--upright"] * options.upright
    parts += [f"--size {'x'.join(map(str, options.size))}"] if options.size else []
    for name in ("like", "contract"):
        path: Path | None = getattr(options, name)
        parts += [f"--{name} {path.name}"] if path is not None else []
    return " ".join(parts)


def _pictures(
    folder: Path | None, names: tuple[str, ...], contract: Contract
) -> tuple[Pictures, list[str]]:
    if folder is None:
        return pictures.generated(contract), [
            "Without --pictures the model was compared on generated pictures. Whether "
            "the values, the channels, the resizing and the order of the labels are "
            "right could not be checked, and int8 has ranges from generated pictures."
        ]
    return pictures.read_pictures(folder, names, contract)
