# SPDX-License-Identifier: Apache-2.0
"""Exports a model: writes all files of a version except the card.

A model is a function of inputs that TensorFlow can trace, so that trained models and
models that were given take the same way.
"""

from __future__ import annotations

import errno
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from inkling.image.preprocess import to_input
from inkling.model.bundle import Bundle
from inkling.model.repository import CONTRACT_FILE, GOLDEN_FILE
from inkling_training.errors import GateFailed
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.data.datasets import Split

__all__ = [
    "Exporter",
    "Unconvertible",
    "samples_and_photos",
    "write_contract",
    "write_golden",
    "write_warmup",
]

_GOLDEN_SAMPLES = 24
_GOLDEN_PHOTOS = 8
_GOLDEN_SMALL = 64
# The batch sizes to which server-side batching pads. TensorFlow Serving runs each once
# before the version is AVAILABLE.
_WARMUP_BATCHES = (1, 2, 4, 8, 16, 32)
# How the converter names an operation that LiteRT lacks.
_LACKING = re.compile(r"'?tf\.(\w+)'? op is neither a custom op nor a flex op")


class Unconvertible(GateFailed):
    """TensorFlow cannot write a model in a TFLite format.

    Attributes:
        operations: The operations that LiteRT lacks; empty for another reason.
    """

    def __init__(self, operations: Sequence[str]) -> None:
        why = f"LiteRT lacks {', '.join(operations)}" if operations else "it failed"
        super().__init__(f"The model cannot be converted to TFLite: {why}.")
        self.operations = tuple(operations)


class _Servable(tf.Module):  # type: ignore[misc]
    """The content of the SavedModel: signatures for scores, contract and device."""

    def __init__(
        self, function: Callable[[Any], Any], contract: Contract, tracked: object
    ) -> None:
        super().__init__()
        self.function = function
        self.tracked = tracked
        spec = tf.TensorSpec((None, *contract.input_shape), tf.float32, name="inputs")
        self.scores = tf.function(self._scores, input_signature=[spec])
        asked = tf.TensorSpec((None,), tf.int32, name="asked")
        self.device = tf.function(self._device, input_signature=[asked])
        self.state(contract)

    def state(self, contract: Contract) -> None:
        """Answer with this contract from now on."""
        self.contract_json = contract.json
        asked = tf.TensorSpec((None,), tf.int32, name="asked")
        self.contract = tf.function(self._contract, input_signature=[asked])

    def _scores(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # (n, height, width, channels) -> (n, classes)
        return {"scores": self.function(inputs)}

    def _contract(self, asked: tf.Tensor) -> dict[str, tf.Tensor]:
        # The answer has one copy per row, because server-side batching splits it by
        # rows.
        return {"contract": tf.fill(tf.shape(asked), self.contract_json)}

    def _device(self, asked: tf.Tensor) -> dict[str, tf.Tensor]:
        # The index is 0 on a CPU and 1 on a GPU. TensorFlow Serving starts even if it
        # finds no GPU; the gateway reads this index to report the device.
        index = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        return {"device": tf.fill(tf.shape(asked), index)}


class Exporter:
    """Writes one model in every format.

    Attributes:
        name: The model's name.
        single: True if the TFLite files take one picture at a time.

    Args:
        name: The model's name.
        function: The scores, shape (n, classes), of inputs in the contract's
            `input_shape`, on TensorFlow's tensors.
        contract: The contract that all files carry.
        tracked: The object that holds the model's variables.
        single: As the attribute.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Any],
        contract: Contract,
        tracked: object,
        *,
        single: bool = False,
    ) -> None:
        self.name = name
        self._contract = contract
        self.single = single
        self._servable = _Servable(function, contract, tracked)
        self._scores = self._servable.scores.get_concrete_function()
        self._constants: dict[bool, Any] = {}

    @classmethod
    def of_keras(cls, name: str, model: keras.Model, contract: Contract) -> Exporter:
        """Return the exporter of a Keras model whose output are scores."""
        # The variables have the states of random layers, which the model does not
        # track. The model itself would bring the optimizer and its layers along.
        return cls(
            name,
            lambda inputs: model(inputs, training=False),
            contract,
            tracked=[variable.value for variable in model.variables],
        )

    def scores(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores, shape (n, classes), that the exports compute."""
        found: npt.NDArray[np.float32] = self._scores(inputs=tf.constant(inputs))[
            "scores"
        ].numpy()
        return found

    def state(self, contract: Contract) -> None:
        """Write this contract into the SavedModel and the files from now on."""
        self._contract = contract
        self._servable.state(contract)

    def write_saved_model(self, path: Path) -> None:
        """Write the SavedModel and the contract into the directory `path`.

        The signatures are `serving_default`, `contract` and `device`.

        Raises:
            OSError: The disk is full, or the file may not be so large.
        """
        signatures = {
            "serving_default": self._scores,
            "contract": self._servable.contract.get_concrete_function(),
            "device": self._servable.device.get_concrete_function(),
        }
        try:
            tf.saved_model.save(self._servable, str(path), signatures=signatures)
        except tf.errors.OpError as error:
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                if os.strerror(code) in error.message:
                    raise OSError(code, os.strerror(code), str(path)) from None
            raise
        # TensorFlow writes this folder for every model; it is a part of few.
        with suppress(OSError):
            (path / "assets").rmdir()
        write_contract(self._contract, path)

    def write_tflite(
        self, tflite_format: str, inputs: npt.NDArray[np.float32], directory: Path
    ) -> None:
        """Convert the model to TFLite.

        Args:
            tflite_format: `float32`, `float16` or `int8`.
            inputs: Inputs, float32, shape (n, height, width, channels), from which the
                int8 quantisation takes its ranges.
            directory: The directory for the file.

        Raises:
            Unconvertible: LiteRT lacks operations of the model, or cannot run the file.
        """
        directory.mkdir(exist_ok=True)

        def calibration() -> Iterator[list[npt.NDArray[np.float32]]]:
            for row in inputs:
                yield [row[np.newaxis]]

        smaller = {"optimizations": [tf.lite.Optimize.DEFAULT]}
        builtins = tf.lite.OpsSet
        settings: Mapping[str, Mapping[str, Any]] = {
            "float32": {},
            "float16": {**smaller, "supported_types": [tf.float16]},
            "int8": {
                **smaller,
                # Operations without an int8 form stay in float32.
                "supported_ops": [
                    builtins.TFLITE_BUILTINS_INT8,
                    builtins.TFLITE_BUILTINS,
                ],
                "representative_dataset": calibration,
            },
        }
        path = directory / f"{tflite_format}.tflite"
        model = self._converted(settings[tflite_format])
        _check_runs(model, batch=1 if self.single else 2)
        bundle = Bundle(model, self.name, tflite_format, self._contract)
        path.write_bytes(bundle.to_bytes())

    def _constant(self) -> Any:
        # Without this conversion to constants, the int8 calibration reads the variables
        # as empty.
        if self.single not in self._constants:
            scores = self._single_scores() if self.single else self._scores
            self._constants[self.single] = convert_variables_to_constants_v2(scores)
        return self._constants[self.single]

    def _single_scores(self) -> Any:
        spec = tf.TensorSpec((1, *self._contract.input_shape), tf.float32)
        scores = self._servable.scores.python_function
        return tf.function(scores, input_signature=[spec]).get_concrete_function()

    def _converted(self, settings: Mapping[str, Any]) -> bytes:
        try:
            constant = self._constant()
            with quiet_stderr(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converter = tf.lite.TFLiteConverter.from_concrete_functions([constant])
                for name, value in settings.items():
                    has = hasattr(converter, name)
                    setattr(converter if has else converter.target_spec, name, value)
                return bytes(converter.convert())
        except Exception as error:  # noqa: BLE001 - it has no common class of its own
            raise Unconvertible(sorted(set(_LACKING.findall(str(error))))) from None


def _check_runs(model: bytes, batch: int) -> None:
    """Check that LiteRT runs a file, which may hold a shape that it cannot follow.

    Raises:
        Unconvertible: It cannot.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    try:
        # LiteRT tells each process once which of its parts it uses.
        with quiet_stderr():
            interpreter = Interpreter(model_content=model)
            [taken] = interpreter.get_input_details()
            shape = (batch, *taken["shape"][1:])
            interpreter.resize_tensor_input(taken["index"], shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(taken["index"], np.zeros(shape, taken["dtype"]))
            interpreter.invoke()
    except (ValueError, RuntimeError):
        raise Unconvertible([]) from None


def write_contract(contract: Contract, path: Path) -> None:
    """Write the contract into a version's directory."""
    file = path / CONTRACT_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(contract.json, encoding="utf-8")


def samples_and_photos(contract: Contract, split: Split) -> list[bytes]:
    """Return golden pictures from the pictures of a dataset, as PNG files.

    24 pictures are samples of the model's size. 8 are larger, and dark on light if the
    contract decides the polarity, so that the check covers the whole preprocessing. Of
    large pictures there are a third as many, because they are published.
    """
    is_small = max(contract.height, contract.width) <= _GOLDEN_SMALL
    share, factor = (1, 5) if is_small else (3, 2)
    first, last = _GOLDEN_SAMPLES // share, _GOLDEN_PHOTOS // share
    samples = [_png(pixels, 1) for pixels in split.pixels[:first]]
    rest = split.pixels[first : first + last]
    invert = contract.polarity == "auto"
    return samples + [
        _png(255 - pixels if invert else pixels, factor) for pixels in rest
    ]


def write_golden(
    scored: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    contract: Contract,
    images: Sequence[bytes],
    path: Path,
) -> None:
    """Write the golden pictures, and the inputs and scores that engines must reproduce.

    Args:
        scored: Returns the model's scores for inputs.
        contract: The contract of the model.
        images: Picture files.
        path: The version's directory.
    """
    inputs = np.stack([to_input(image, contract) for image in images])
    np.savez_compressed(
        path / GOLDEN_FILE,
        images=np.frombuffer(b"".join(images), np.uint8),
        image_ends=np.cumsum([len(image) for image in images]),
        inputs=inputs,
        scores=scored(inputs),
    )


def _png(pixels: npt.NDArray[np.uint8], factor: int) -> bytes:
    picture = Image.fromarray(pixels)
    size = (picture.width * factor, picture.height * factor)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def write_warmup(name: str, contract: Contract, path: Path) -> None:
    """Write the requests that TensorFlow Serving runs before a version is AVAILABLE.

    All inputs are middle grey. A tensor of one value is written as that value and a
    shape (tensorflow/core/framework/tensor.proto), so the file has a few hundred bytes;
    pictures of 224 px took 38 MB.

    Args:
        name: The model's name.
        contract: The contract of the model.
        path: The version's directory.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # noqa: PLC0415

    grey = 127.5 * contract.scale[0] + contract.offset[0]
    target = path / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(target)) as writer:
        for size in _WARMUP_BATCHES:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            shape = (size, *contract.input_shape)
            batch = tf.make_tensor_proto(grey, tf.float32, shape)
            request.inputs["inputs"].CopyFrom(batch)
            writer.write(log.SerializeToString())
