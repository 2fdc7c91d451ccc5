"""Exports a trained Keras model: writes all files of a version except the card."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
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
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.data.datasets import Split

__all__ = ["Exporter", "write_golden", "write_warmup"]

_GOLDEN_SAMPLES = 24
_GOLDEN_PHOTOS = 8
# The batch sizes to which server-side batching pads. TensorFlow Serving runs each once
# before the version is AVAILABLE.
_WARMUP_BATCHES = (1, 2, 4, 8, 16, 32)


class _Servable(tf.Module):  # type: ignore[misc]
    """The content of the SavedModel: signatures for scores, contract and device."""

    def __init__(self, model: keras.Model, contract: Contract) -> None:
        super().__init__()
        self.model = model
        spec = tf.TensorSpec((None, *contract.input_shape), tf.float32, name="inputs")
        self.scores = tf.function(self._scores, input_signature=[spec])
        self.contract_json = contract.json
        asked = tf.TensorSpec((None,), tf.int32, name="asked")
        self.contract = tf.function(self._contract, input_signature=[asked])
        self.device = tf.function(self._device, input_signature=[asked])

    def _scores(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # (n, height, width, channels) -> (n, classes)
        return {"scores": self.model(inputs, training=False)}

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

    Args:
        name: The model's name.
        model: The trained and calibrated Keras model.
        contract: The contract that all files carry.
    """

    def __init__(self, name: str, model: keras.Model, contract: Contract) -> None:
        self._name = name
        self._contract = contract
        self._servable = _Servable(model, contract)
        self._scores = self._servable.scores.get_concrete_function()

    def write_saved_model(self, path: Path) -> None:
        """Write the SavedModel and the contract into the directory `path`.

        The signatures are `serving_default`, `contract` and `device`.
        """
        tf.saved_model.save(
            self._servable,
            str(path),
            signatures={
                "serving_default": self._scores,
                "contract": self._servable.contract.get_concrete_function(),
                "device": self._servable.device.get_concrete_function(),
            },
        )
        contract_path = path / CONTRACT_FILE
        contract_path.parent.mkdir(exist_ok=True)
        contract_path.write_text(self._contract.json, encoding="utf-8")

    def write_tflite(self, inputs: npt.NDArray[np.float32], directory: Path) -> None:
        """Convert the model to TFLite as float32, float16 and int8.

        Args:
            inputs: Training inputs, float32, shape (n, height, width, channels), from
                which the int8 quantisation takes its ranges.
            directory: The directory for the three files, which must not exist.
        """
        directory.mkdir()

        def calibration() -> Iterator[list[npt.NDArray[np.float32]]]:
            for row in inputs:
                yield [row[np.newaxis]]

        self._convert(directory / "float32.tflite")
        self._convert(
            directory / "float16.tflite",
            optimizations=[tf.lite.Optimize.DEFAULT],
            supported_types=[tf.float16],
        )
        self._convert(
            directory / "int8.tflite",
            optimizations=[tf.lite.Optimize.DEFAULT],
            supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
            representative_dataset=calibration,
        )

    def _convert(self, path: Path, **settings: Any) -> None:
        # Without this conversion to constants, the int8 calibration reads the variables
        # as empty.
        frozen = convert_variables_to_constants_v2(self._scores)
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
            for name, value in settings.items():
                owner = converter if hasattr(converter, name) else converter.target_spec
                setattr(owner, name, value)
            model = converter.convert()
        bundle = Bundle(model, self._name, path.stem, self._contract)
        path.write_bytes(bundle.to_bytes())


def write_golden(
    model: keras.Model, contract: Contract, split: Split, path: Path
) -> None:
    """Write the golden pictures, and the inputs and scores that engines must reproduce.

    24 pictures are samples of the model's size. 8 are larger, and dark on light if the
    contract decides the polarity, so that the check covers the whole preprocessing.

    Args:
        model: The calibrated Keras model.
        contract: The contract of the model.
        split: The split to take the pictures from.
        path: The version's directory.
    """
    samples = [_png(pixels, 1) for pixels in split.pixels[:_GOLDEN_SAMPLES]]
    rest = split.pixels[_GOLDEN_SAMPLES : _GOLDEN_SAMPLES + _GOLDEN_PHOTOS]
    invert = contract.polarity == "auto"
    photos = [_png(255 - pixels if invert else pixels, 5) for pixels in rest]
    images = samples + photos
    inputs = np.stack([to_input(image, contract) for image in images])
    np.savez_compressed(
        path / GOLDEN_FILE,
        images=np.frombuffer(b"".join(images), np.uint8),
        image_ends=np.cumsum([len(image) for image in images]),
        inputs=inputs,
        scores=model(inputs, training=False).numpy(),
    )


def _png(pixels: npt.NDArray[np.uint8], factor: int) -> bytes:
    picture = Image.fromarray(pixels)
    size = (picture.width * factor, picture.height * factor)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def write_warmup(name: str, inputs: npt.NDArray[np.float32], path: Path) -> None:
    """Write the requests that TensorFlow Serving runs before a version is AVAILABLE.

    Args:
        name: The model's name.
        inputs: Inputs to repeat, float32, shape (n, height, width, channels).
        path: The version's directory.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # noqa: PLC0415

    target = path / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(target)) as writer:
        for size in _WARMUP_BATCHES:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            batch = tf.make_tensor_proto(_repeated(inputs, size))
            request.inputs["inputs"].CopyFrom(batch)
            writer.write(log.SerializeToString())


def _repeated(inputs: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    places: Sequence[int] = np.resize(np.arange(len(inputs)), size).tolist()
    return inputs[places]
