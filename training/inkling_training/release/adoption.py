# SPDX-License-Identifier: Apache-2.0
"""Publishes a model that was given, after it was compared with what was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.model.bundle import Bundle, read_bundle
from inkling.model.repository import Publication, Repository, VersionFiles
from inkling_training.errors import GateFailed
from inkling_training.preparation.meaning import probabilities, traced_probabilities
from inkling_training.release import (
    card,
    datasheet,
    export,
    formats,
    parity,
    publish,
)
from inkling_training.sources.tflite_file import operations_in_float, precision
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.preparation.conclusion import Fact
    from inkling_training.preparation.pictures import Pictures
    from inkling_training.release.parity import ParityRow, Scores
    from inkling_training.sources.source import Source

__all__ = ["Adoption", "adopt", "with_tolerance"]

# With this many pictures the ranges of most int8 tensors are stable.
_CALIBRATION_PICTURES = 100
# The inputs of the compared pictures are held in memory at once.
_COMPARED_PICTURES, _COMPARED_BYTES = 512, 256 * 1024**2
# The largest difference of a score that the rounding of a deep model may make.
_DEEP_TOLERANCE = 1e-4


@dataclass
class Adoption:
    """A given model on its way into the repository.

    Attributes:
        source: The model that was given.
        meaning: What its outputs mean.
        contract: How it wants its pictures.
        pictures: The pictures to try it with.
        facts: What was found and concluded.
        notes: What a user should know, as sentences.
        terms: What is required of the version, and what becomes of it.
        say: Prints a line of progress.
    """

    source: Source
    meaning: str
    contract: Contract
    pictures: Pictures
    facts: list[Fact]
    notes: list[str] = field(default_factory=list)
    terms: publish.Terms = publish.Terms()
    say: Callable[[str], None] = print

    def scored(self, inputs: Scores) -> Scores:
        """Return the given model's scores, asked by its own library.

        Args:
            inputs: In the contract's `input_shape`.
        """
        if self.contract.layout == "chw":
            inputs = inputs.transpose(0, 2, 3, 1)
        return probabilities(self.source.raw(inputs), self.meaning)

    def compared(self) -> Scores:
        """Return the inputs on which the exports are compared."""
        size = 4 * int(np.prod(self.contract.input_shape))
        count = min(_COMPARED_PICTURES, max(1, _COMPARED_BYTES // size))
        return self.pictures.inputs(self.contract, count)


def adopt(repository: Repository, name: str, adoption: Adoption) -> VersionFiles:
    """Export a given model, compare the exports with it, and publish it.

    Raises:
        GateFailed: The exports disagree with the given model, or the version before is
            more accurate; nothing was published.
    """
    with publish.publishing(repository, name, adoption.terms) as publication:
        return _published(repository, publication, adoption)


def _published(
    repository: Repository, publication: Publication, adoption: Adoption
) -> VersionFiles:
    path, contract, pictures = publication.path, adoption.contract, adoption.pictures
    inputs = adoption.compared()
    scores = _checked(adoption.scored(inputs), adoption.source.name)
    kinds = _exported(publication.model, adoption, path)
    adoption.say("Comparing every export with the given model.")
    labels = None if pictures.labels is None else pictures.labels[: len(inputs)]
    with quiet_stderr():
        rows = parity.compare(adoption.scored, path, contract, inputs, labels, kinds)
    rows, contract = with_tolerance(rows, kinds, contract, path)
    if contract != adoption.contract:
        adoption = replace(adoption, contract=contract)
        adoption.notes.append(
            "Its libraries round differently from layer to layer, so its contract "
            f"allows scores to differ by {_DEEP_TOLERANCE:g}."
        )
    rows, kinds = _kept(rows, kinds, adoption, path)
    if adoption.source.tflite is None:
        adoption.notes += _int8_notes(rows, len(inputs), path)
    export.write_golden(adoption.scored, contract, pictures.golden(), path)
    figures = _figures(publication.model, adoption, rows, path)
    figures["compared"] = len(inputs)
    if labels is not None:
        accuracy = float((scores.argmax(axis=1) == labels).mean())
        figures["accuracy"] = {"given": accuracy} | {r.export: r.accuracy for r in rows}
        figures["data"] = pictures.digest
        _check_regression(repository, publication.model, adoption, accuracy, labels)
    picture = datasheet.seen(contract, pictures)
    datasheet.write_datasheet(
        path / "card", figures, adoption.facts, adoption.notes, picture
    )
    publish.check_as_a_gateway_does(publication, kinds)
    files = publication.commit()
    adoption.say(card.parity_table(rows))
    return files


def _exported(name: str, adoption: Adoption, path: Path) -> list[str]:
    """Write the model in every form that it allows; return its TFLite formats."""
    source, contract = adoption.source, adoption.contract
    if source.tflite is not None:
        export.write_contract(contract, path)
        kind = precision(source)
        (path / "tflite").mkdir()
        bundle = Bundle(source.tflite, name, kind, contract)
        (path / "tflite" / f"{kind}.tflite").write_bytes(bundle.to_bytes())
        adoption.notes.append(
            "TensorFlow Serving cannot serve it, because a TFLite file was given. The "
            "embedded engine and devices run the file as it is."
        )
        return [kind]
    exporter = export.Exporter(
        name, _traced(adoption), contract, tracked=source.tracked
    )
    adoption.say("Writing the SavedModel.")
    with quiet_stderr():
        exporter.write_saved_model(path)
    inputs = adoption.pictures.inputs(contract, _CALIBRATION_PICTURES)
    export.write_warmup(name, contract, path)
    found, notes = formats.convert(exporter, inputs, path / "tflite", adoption.say)
    adoption.notes += notes
    return found


def _traced(adoption: Adoption) -> Callable[[Any], Any]:
    traced, meaning = adoption.source.traced, adoption.meaning
    outputs = len(adoption.contract.labels)
    if meaning == "binary" or (meaning == "logits" and _is_single(adoption)):
        outputs = 1

    def scores(inputs: Any) -> Any:
        return traced_probabilities(traced(inputs), meaning, outputs)  # type: ignore[misc]

    return scores


def _is_single(adoption: Adoption) -> bool:
    few = adoption.pictures.inputs(adoption.contract, 1)
    return bool(adoption.source.raw(few).shape[1] == 1)


def with_tolerance(
    rows: list[ParityRow], kinds: Sequence[str], contract: Contract, path: Path
) -> tuple[list[ParityRow], Contract]:
    """Return the rows and the contract, with the tolerance that a deep model needs.

    Each library adds the products of a layer in its own order, and the rounding adds up
    from layer to layer. A ConvNeXt Tiny differs by 2.5e-5 between Keras and LiteRT.
    The contract then states the larger tolerance, if no picture gets another label.

    Args:
        rows: The comparison under the contract.
        kinds: The TFLite formats in the version's directory.
        contract: The contract of the model.
        path: The version's directory; its copies of the contract are written anew.
    """
    exact = formats.exact(rows, kinds)
    worst = max(row.worst for row in exact)
    needed = contract.tolerances["float32"] < worst <= _DEEP_TOLERANCE
    if not needed or any(row.labels_differ for row in exact):
        return rows, contract
    tolerances = {
        name: max(value, _DEEP_TOLERANCE) for name, value in contract.tolerances.items()
    }
    contract = replace(contract, tolerances=tolerances)
    export.write_contract(contract, path)
    for kind in kinds:
        file = path / "tflite" / f"{kind}.tflite"
        bundle = replace(read_bundle(file.read_bytes()), contract=contract)
        file.write_bytes(bundle.to_bytes())
    return [replace(r, passed=r.passed or r in exact) for r in rows], contract


def _int8_notes(rows: Sequence[ParityRow], compared: int, path: Path) -> list[str]:
    """Return what int8 costs: operations that stay in float32, and changed labels."""
    row = next((row for row in rows if row.export == "int8"), None)
    if row is None:
        return []
    file = path / "tflite" / "int8.tflite"
    in_float, count = operations_in_float(read_bundle(file.read_bytes()).model)
    named = ", ".join(f"{name} {n}" for name, n in sorted(in_float.items()))
    return [
        f"In int8, {sum(in_float.values())} of {count} operations compute in float32"
        f"{f' ({named})' if named else ''}, and {row.labels_differ} of {compared} "
        "pictures get another label."
    ]


def _kept(
    rows: list[ParityRow], kinds: list[str], adoption: Adoption, path: Path
) -> tuple[list[ParityRow], list[str]]:
    """Return the exports that agree; smaller formats that do not are left out.

    Raises:
        GateFailed: The SavedModel or the file in float32 disagrees.
    """
    publish.check_parity(formats.exact(rows, kinds), adoption.source.name)
    adoption.notes += formats.leave_out(rows, path)
    passed = {row.export for row in rows if row.passed}
    return [row for row in rows if row.passed], [k for k in kinds if k in passed]


def _figures(
    name: str, adoption: Adoption, rows: Sequence[ParityRow], path: Path
) -> dict[str, Any]:
    source, contract = adoption.source, adoption.contract
    origin = contract.source
    return {
        "model": name,
        "dataset": "not stated",
        "contract": contract.hash,
        "labels": list(contract.labels),
        "library": source.library,
        "source": None if origin is None else asdict(origin),
        "pictures": "generated" if adoption.pictures.are_generated else "given",
        "parity": [row.as_json() for row in rows],
        "bytes": {
            file.stem: file.stat().st_size
            for file in sorted((path / "tflite").glob("*.tflite"))
        },
    }


def _checked(scores: Scores, name: str) -> Scores:
    if not np.isfinite(scores).all():
        raise GateFailed(
            f"{name} answers with NaN or infinite scores; nothing was published. Its "
            "weights are damaged, or the values of the pictures are wrong."
        )
    return scores


def _check_regression(
    repository: Repository,
    name: str,
    adoption: Adoption,
    accuracy: float,
    labels: npt.NDArray[np.int64],
) -> None:
    adoption.say(f"Accuracy on {len(labels):,} labelled pictures: {accuracy:.2%}.")
    if not adoption.terms.allow_regression:
        before = publish.version_before(repository, name, adoption.pictures.digest)
        publish.check_regression(before, accuracy, len(labels))
