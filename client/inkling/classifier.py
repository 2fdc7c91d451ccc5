"""The one interface to a classifier, wherever it runs, and how to get one."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np
from PIL import Image

from inkling.errors import InvalidImage, InvalidRequest, NotReady
from inkling.preprocess import picture_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.types import Prediction

    # A path, encoded bytes, a file that is open for reading bytes, a Pillow picture,
    # or uint8 pixels of shape (rows, columns) or (rows, columns, 1, 3 or 4).
    Picture: TypeAlias = (
        str | PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
    )

__all__ = ["Classifier", "Fallback", "connect", "encoded"]


class Classifier(Protocol):
    """Classifies pictures; safe to use from several threads, closed once."""

    def classify(self, picture: Picture, top_k: int = 1) -> Prediction:
        """Return what the model says of one picture.

        Raises:
            InklingError: The same class, whether a gateway or this device refused it.
        """

    def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order, while later ones are under way.

        Raises:
            InklingError: As `classify`; what came before has been yielded.
        """

    def close(self) -> None:
        """Let go of connections and models."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def connect(
    target: str | PathLike[str],
    *,
    model: str = "cnn",
    fallback: str | PathLike[str] | None = None,
    **options: Any,
) -> Classifier:
    """Return a classifier.

    Args:
        target: `host:port` of a gateway's gRPC port; or, on the device, a TFLite file
            that Inkling published, or a version's directory.
        model: Which model the gateway is asked; a file or directory is its own.
        fallback: A file or directory that answers while the gateway cannot be reached;
            `Prediction.origin` says who answered.
        options: For a gateway, as `inkling.remote.GrpcClassifier` takes them; on the
            device, as `inkling.ondevice.OnDeviceClassifier` does.

    Raises:
        InklingError: There is nothing at a path, or it cannot be loaded.
    """
    if _is_on_device(target):
        from inkling.ondevice import OnDeviceClassifier  # noqa: PLC0415 - an extra

        if fallback is not None:
            raise InvalidRequest("A classifier on the device needs no fallback.")
        return OnDeviceClassifier(Path(target), **options)
    from inkling.remote import GrpcClassifier  # noqa: PLC0415 - not on every device

    remote = GrpcClassifier(str(target), model=model, **options)
    return Fallback(remote, connect(fallback)) if fallback is not None else remote


def _is_on_device(target: str | PathLike[str]) -> bool:
    path = Path(target)
    return path.suffix == ".tflite" or path.is_dir()


class Fallback:
    """Asks one classifier, and another one while the first cannot be reached."""

    def __init__(self, first: Classifier, second: Classifier) -> None:
        self._first, self._second = first, second

    def classify(self, picture: Picture, top_k: int = 1) -> Prediction:
        """Return what the first says, or the second where the first is not ready."""
        image = encoded(picture)
        try:
            return self._first.classify(image, top_k)
        except NotReady:
            return self._second.classify(image, top_k)

    def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order; each asks the first anew."""
        for picture in pictures:
            yield self.classify(picture, top_k)

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def encoded(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG or JPEG file; bytes are taken as they are.

    Raises:
        InvalidImage: It cannot be read, or is no picture of a kind listed above.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | PathLike):
        try:
            return Path(picture).read_bytes()
        except OSError:
            raise InvalidImage(
                f"{picture} cannot be read; name a PNG or JPEG file."
            ) from None
    if isinstance(picture, np.ndarray):
        picture = picture_of(picture)
    if isinstance(picture, Image.Image):
        return _png(picture)
    content = picture.read() if hasattr(picture, "read") else None
    if not isinstance(content, bytes):
        raise InvalidImage(
            f"A {type(picture).__name__} is no picture; give a path, bytes, a file "
            "opened in binary mode, a Pillow image or a uint8 array."
        )
    return content


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        # The orientation that the camera noted goes along with the pixels.
        picture.save(file, "PNG", compress_level=1, exif=picture.getexif())
    except OSError:
        raise InvalidImage(
            f"A Pillow image of mode {picture.mode} cannot be sent; convert it to RGB."
        ) from None
    return file.getvalue()
