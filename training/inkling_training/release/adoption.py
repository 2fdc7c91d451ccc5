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
from inkling.model.runner import TFLiteRunner
from inkling_training.errors import GateFailed
from inkling_training.preparation import neighbours
from inkling_training.preparation.meaning import (
    probabilities,
    right_answers,
    traced_probabilities,
)
from inkling_training.release import (
    card,
    datasheet,
    export,
    formats,
    parity,
    publish,
    steadiness,
)
from inkling_training.release.abstention import threshold_on
from inkling_training.release.judgement import drift_baseline
from inkling_training.sources.tflite_file import operations_in_float, precision
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.preparation.conclusion import Fact
    from inkling_training.preparation.pictures import Pictures
    from inkling_training.release.parity import ParityRow, Scores
    from inkling_training.sources.source import Source

__all__ = ["Adoption", "adopt"]

# With this many pictures the ranges of most int8 tensors are stable.
_CALIBRATION_PICTURES = 100
# The inputs of the compared pictures are held in memory at once.
_COMPARED_PICTURES, _COMPARED_BYTES = 512, 256 * 1024**2
# A label with this probability of its own is answered, unless a caller says otherwise.
_HALF = 0.5


@dataclass
class Adoption:
    """A given model on its way into the repository.

    Attributes:
        source: The model that was given.
        meaning: What its outputs mean.
        contract: How it wants its pictures. `adopt` adds what the exports tell.
        pictures: The pictures to try it with.
        facts: What was found and concluded.
        notes: What a user should know, as sentences.
        warnings: What looks wrong, as sentences; they are printed when they are found.
        terms: What is required of the version, and what becomes of it.
        say: Prints a line of progress.
    """

    source: Source
    meaning: str
    contract: Contract
    pictures: Pictures
    facts: list[Fact]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
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
    path, name = publication.path, publication.model
    inputs, scores = _compared(adoption)
    pictures = adoption.pictures
    labels = None if pictures.labels is None else pictures.labels[: len(inputs)]
    exporter, kinds = _converted(name, adoption, path)

    def compared(formats: Sequence[str]) -> list[ParityRow]:
        with quiet_stderr():
            contract = adoption.contract
            return parity.compare(scores, path, contract, inputs, labels, formats)

    adoption.say("Comparing every export with the given model.")
    rows = _agreeing(compared(kinds), kinds[:1], adoption)
    _judge(adoption, _fast(exporter, kinds, adoption.contract, path))
    if exporter is None:
        _write_contract(adoption.contract, kinds, path)
    else:
        rows = [*_saved(exporter, kinds, adoption, path, compared), *rows]
        adoption.notes += _int8_notes(rows, len(inputs), path)
    adoption.notes += formats.leave_out(rows, path)
    rows = [row for row in rows if row.passed]
    kinds = [kind for kind in kinds if kind in {row.export for row in rows}]
    golden = pictures.golden()
    export.write_golden(adoption.scored, adoption.contract, golden, path)
    figures = _figures(name, adoption, rows, path) | {"compared": len(inputs)}
    if labels is not None:
        figures |= _accuracy(scores, labels, rows, adoption)
        _check_regression(repository, name, adoption, figures, len(labels))
    datasheet.write_datasheet(
        path / "card",
        figures | _baseline(adoption, inputs, scores),
        adoption.facts,
        [*adoption.warnings, *adoption.notes],
        datasheet.seen(adoption.contract, pictures),
    )
    publish.check_as_a_gateway_does(publication, kinds)
    files = publication.commit()
    adoption.say(card.parity_table(rows))
    return files


def _compared(adoption: Adoption) -> tuple[Scores, Scores]:
    """Return the inputs on which the exports are compared, and the model's scores.

    Generated pictures about which no two libraries agree are left out of all.
    """
    inputs, name = adoption.compared(), adoption.source.name
    scores = _checked(adoption.scored(inputs), name)
    if not adoption.pictures.are_generated:
        return inputs, scores
    limit = adoption.contract.tolerances["float32"]
    found = steadiness.steady(adoption.scored, inputs, scores, limit)
    adoption.notes += steadiness.notes(found, name)
    adoption.pictures = adoption.pictures.only(found)
    return inputs[found], scores[found]


def _converted(
    name: str, adoption: Adoption, path: Path
) -> tuple[export.Exporter | None, list[str]]:
    """Write the TFLite files that the model allows; return their formats.

    The exporter writes the SavedModel; it is None for a TFLite file, which stays as it
    is.
    """
    source, contract = adoption.source, adoption.contract
    if source.tflite is not None:
        kind = precision(source)
        (path / "tflite").mkdir()
        bundle = Bundle(source.tflite, name, kind, contract)
        (path / "tflite" / f"{kind}.tflite").write_bytes(bundle.to_bytes())
        adoption.notes.append(
            "TensorFlow Serving cannot serve it, because a TFLite file was given. The "
            "embedded engine and devices run the file as it is."
        )
        return None, [kind]
    exporter = export.Exporter(
        *(name, _traced(adoption), contract),
        tracked=source.tracked,
        single=source.single,
    )
    inputs = adoption.pictures.inputs(contract, _CALIBRATION_PICTURES)
    kinds, notes = formats.convert(exporter, inputs, path / "tflite", adoption.say)
    adoption.notes += notes
    return exporter, kinds


def _saved(
    exporter: export.Exporter,
    kinds: Sequence[str],
    adoption: Adoption,
    path: Path,
    compared: Callable[[Sequence[str]], list[ParityRow]],
) -> list[ParityRow]:
    """Write the SavedModel and the final contract; return its comparison."""
    adoption.say("Writing the SavedModel.")
    while True:
        contract = adoption.contract
        exporter.state(contract)
        with quiet_stderr():
            exporter.write_saved_model(path)
        rows = _agreeing(compared(()), ("saved_model",), adoption)
        if adoption.contract == contract:
            break
    _write_contract(contract, kinds, path)
    export.write_warmup(exporter.name, contract, path)
    return rows


def _write_contract(contract: Contract, kinds: Sequence[str], path: Path) -> None:
    """Write a contract beside the exports and into the TFLite files."""
    export.write_contract(contract, path)
    for kind in kinds:
        file = path / "tflite" / f"{kind}.tflite"
        bundle = replace(read_bundle(file.read_bytes()), contract=contract)
        file.write_bytes(bundle.to_bytes())


def _fast(
    exporter: export.Exporter | None,
    kinds: Sequence[str],
    contract: Contract,
    path: Path,
) -> Callable[[Scores], Scores]:
    """Return the most exact export that computes fast; it agrees with the model."""
    if not kinds:
        assert exporter is not None
        return exporter.scores
    file = path / "tflite" / f"{kinds[0]}.tflite"
    model = read_bundle(file.read_bytes()).model
    return TFLiteRunner(model, contract, num_threads=2).run_prepared


def _judge(adoption: Adoption, scored: Callable[[Scores], Scores]) -> None:
    """Add what the caller's pictures tell about the model, and its threshold."""
    pictures, contract = adoption.pictures, adoption.contract
    if pictures.are_generated:
        note = "Without --pictures it cannot abstain: no score is known for unsure."
        adoption.notes.append(note)
        return
    if pictures.labels is not None:
        adoption.say("Trying the neighbouring preparations on the pictures.")
        found = neighbours.warnings(
            scored, contract, pictures, whole_numbers="int" in adoption.source.dtype
        )
        adoption.warnings += [f"Warning: {sentence}" for sentence in found]
        for warning in adoption.warnings:
            adoption.say(warning)
    adoption.say("Setting the score below which it abstains.")
    below = threshold_on(pictures, contract, scored)
    adoption.contract = replace(contract, abstain_below=below)
    adoption.notes.append(
        f"If a caller allows it, it abstains where no score reaches {below:g}."
    )


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


def _agreeing(
    rows: list[ParityRow], exact: Sequence[str], adoption: Adoption
) -> list[ParityRow]:
    """Return the rows, after the contract states the tolerance that they need.

    Raises:
        GateFailed: An export that must agree with the model does not.
    """
    must = [row for row in rows if row.export in exact]
    contract = steadiness.with_tolerance(must, adoption.contract)
    if contract != adoption.contract:
        adoption.contract = contract
        adoption.notes.append(
            "Its libraries round differently from layer to layer, so its contract "
            f"allows scores to differ by {steadiness.DEEP_TOLERANCE:g}."
        )
    allowed = contract.tolerances["float32"]
    agree = [row for row in must if not row.labels_differ and row.worst <= allowed]
    rows = [replace(row, passed=row.passed or row in agree) for row in rows]
    failed = [row for row in rows if row.export in exact and not row.passed]
    why = ""
    if failed:
        why = steadiness.sentence(adoption.scored, adoption.compared(), allowed)
    publish.check_parity(failed, adoption.source.name, why)
    return rows


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


def _baseline(adoption: Adoption, inputs: Scores, scores: Scores) -> dict[str, Any]:
    if adoption.pictures.are_generated:
        return {}
    return drift_baseline(inputs, scores, adoption.contract)


def _checked(scores: Scores, name: str) -> Scores:
    if not np.isfinite(scores).all():
        raise GateFailed(
            f"{name} answers with NaN or infinite scores; nothing was published. Its "
            "weights are damaged, or the values of the pictures are wrong."
        )
    return scores


def _accuracy(
    scores: Scores,
    labels: npt.NDArray[Any],
    rows: Sequence[ParityRow],
    adoption: Adoption,
) -> dict[str, Any]:
    accuracy = float(right_answers(scores, labels).mean())
    adoption.say(f"Accuracy on {len(labels):,} labelled pictures: {accuracy:.2%}.")
    if labels.ndim > 1:
        exact = float(((scores >= _HALF) == labels).all(axis=1).mean())
        adoption.notes.append(
            "A picture may have several labels. Accuracy is the share of those whose "
            f"most probable label is one of theirs; {exact:.2%} get exactly their "
            f"labels at a threshold of {_HALF:g}. `inkling evaluate` tells more."
        )
    by_export = {"given": accuracy} | {row.export: row.accuracy for row in rows}
    return {"accuracy": by_export, "data": adoption.pictures.digest}


def _check_regression(
    repository: Repository,
    name: str,
    adoption: Adoption,
    figures: dict[str, Any],
    count: int,
) -> None:
    if not adoption.terms.allow_regression:
        before = publish.version_before(repository, name, adoption.pictures.digest)
        publish.check_regression(before, figures["accuracy"]["given"], count)
