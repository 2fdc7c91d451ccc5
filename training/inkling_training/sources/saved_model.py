# SPDX-License-Identifier: Apache-2.0
"""Opens SavedModel directories with TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from inkling_training.sources.graphs import FlatGraph, one_by_one, traced_native
from inkling_training.sources.guards import digest_of
from inkling_training.sources.source import (
    Choice,
    Source,
    UnusableModel,
    chosen,
    in_batches,
    native,
    shape_of,
)
from inkling_training.stderr import quiet_stderr

__all__ = ["open_saved_model"]

# Operations that run Python, or that read and write files by names in the graph.
_CODE = frozenset(
    {
        "EagerPyFunc",
        "MatchingFiles",
        "PyFunc",
        "PyFuncStateless",
        "ReadFile",
        "WholeFileReader",
        "WholeFileReaderV2",
        "WriteFile",
    }
)
_NOT_FOR_USERS = "__saved_model_init_op"


def open_saved_model(path: Path, choice: Choice) -> Source:
    """Open the directory of a SavedModel of TensorFlow 1 or 2, or of Keras's export.

    Raises:
        UnusableModel: The directory is damaged, carries code, or is no image
            classifier.
    """
    file = path / "saved_model.pb"
    if not file.is_file():
        raise UnusableModel(
            f"{path} has no saved_model.pb; give the directory of a SavedModel, or a "
            ".keras, .h5 or .tflite file."
        )
    digest, name = digest_of(path), path.resolve().name
    saved = _read(name, file)
    _check_code(name, saved, trust=choice.trust)
    try:
        with quiet_stderr():
            loaded = tf.saved_model.load(str(path), tags=_tags(saved))
            signatures = dict(loaded.signatures)
    except Exception as error:  # noqa: BLE001 - a file raises whatever it likes
        raise UnusableModel(
            f"TensorFlow {tf.__version__} cannot open {name} ({type(error).__name__}): "
            "it is damaged or incomplete. Copy or export the model again."
        ) from None
    signature = _signature(name, signatures, choice.signature)
    return _source(name, digest, loaded, signature, choice)


def _read(name: str, file: Path) -> Any:
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(file.read_bytes())
    except (DecodeError, OSError, MemoryError):
        raise UnusableModel(
            f"{name} is damaged: its saved_model.pb cannot be read. Copy or export "
            "the model again."
        ) from None
    return saved


def _tags(saved: Any) -> list[str] | None:
    """Return the tags of the graph for serving; None if there is one graph.

    Modules of TensorFlow Hub for TensorFlow 1 have a graph for training beside it.
    """
    if len(saved.meta_graphs) < 2:
        return None
    tags = [list(meta.meta_info_def.tags) for meta in saved.meta_graphs]
    return next((one for one in tags if "train" not in one), tags[0])


def _check_code(name: str, saved: Any, *, trust: bool) -> None:
    found = sorted(_CODE & _operations(saved))
    if found and not trust:
        raise UnusableModel(
            f"{name} runs code or opens files of this machine ({', '.join(found)}). "
            "Give --trust if you know its author."
        )


def _operations(saved: Any) -> set[str]:
    found: set[str] = set()
    for meta in saved.meta_graphs:
        found |= {node.op for node in meta.graph_def.node}
        for function in meta.graph_def.library.function:
            found |= {node.op for node in function.node_def}
    return found


def _signature(name: str, signatures: dict[str, Any], wished: str | None) -> Any:
    names = sorted(set(signatures) - {_NOT_FOR_USERS})
    if not names:
        raise UnusableModel(
            f"{name} has no signature; save it with model.export('folder'), or with "
            "tf.saved_model.save(model, 'folder', signatures=function)."
        )
    if wished is None and "serving_default" in names:
        return signatures["serving_default"]
    return signatures[chosen(name, "signature", names, wished)]


def _source(
    name: str, digest: str, loaded: Any, signature: Any, choice: Choice
) -> Source:
    key, spec = _taken(name, signature)
    shape = tuple(spec.shape) if spec.shape.rank is not None else ()
    layout, height, width, channels = shape_of(shape, spec.dtype.name, name)
    single = shape[0] == 1
    output = _output(name, signature.structured_outputs, choice.output)

    def traced(batch: Any) -> Any:
        taken = traced_native(batch, layout, spec.dtype.name)
        return signature(**{key: taken})[output]

    def ask(part: Any) -> Any:
        answer = _own_answer(signature, key, spec, layout, part)[output]
        return tf.cast(answer, tf.float32).numpy()

    graph = FlatGraph.of(traced, (height, width, channels), name, single=single)
    return Source(
        name=name,
        digest=digest,
        library=f"TensorFlow {tf.__version__}",
        height=height,
        width=width,
        channels=channels,
        layout=layout,
        dtype=spec.dtype.name,
        activation=graph.activation(),
        raw=lambda batch: in_batches(ask, batch, name, single=single),
        values=graph.values(spec.dtype.name),
        stated=graph.resizing(),
        layers=graph.names(),
        half=spec.dtype in (tf.float16, tf.bfloat16),
        single=single,
        traced=one_by_one(traced) if single else traced,
        tracked=loaded,
    )


def _taken(name: str, signature: Any) -> tuple[str, Any]:
    """Return the name and the form of the one input."""
    inputs = signature.structured_input_signature[1]
    for one in inputs.values():
        _check_encoded(name, one)
    if len(inputs) != 1:
        raise UnusableModel(
            f"{name} has {len(inputs)} inputs ({', '.join(inputs):.200}); expected "
            "one input, for one picture."
        )
    [(key, spec)] = inputs.items()
    return key, spec


def _output(name: str, outputs: Mapping[str, Any], wished: str | None) -> str:
    """Return the name of the output with the scores."""
    scores = sorted(key for key, spec in outputs.items() if spec.dtype.is_floating)
    others = {
        key: spec.dtype.name for key, spec in outputs.items() if key not in scores
    }
    if wished in others or not scores:
        kind = others.get(wished or "", ", ".join(sorted(set(others.values()))))
        has = f"its scores are in {', '.join(scores):.200}" if scores else "it has none"
        raise UnusableModel(
            f"The output {wished or ', '.join(sorted(others))} of {name} holds {kind}; "
            f"expected scores, which are floats: {has}."
        )
    return chosen(name, "output", scores, wished)


def _check_encoded(name: str, spec: Any) -> None:
    if spec.dtype == tf.string:
        raise UnusableModel(
            f"{name} takes pictures as files (text or bytes) and decodes and prepares "
            "them itself. Inkling prepares the pictures, so export the part of the "
            "model that takes their pixels, or choose it with --signature NAME."
        )


def _own_answer(signature: Any, key: str, spec: Any, layout: str, part: Any) -> Any:
    batch = tf.cast(native(part, layout, spec.dtype.name), spec.dtype)
    return signature(**{key: batch})
