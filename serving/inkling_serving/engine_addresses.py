# SPDX-License-Identifier: Apache-2.0
"""The addresses of TensorFlow Serving, as the setting states them."""

from __future__ import annotations

from inkling.errors import InvalidRequest
from inkling.network.address import Address

__all__ = ["engine_address"]


def engine_address(text: str) -> str:
    """Return the target of HOST:PORT, grpc://HOST:PORT, or gRPC's own syntax.

    Raises:
        InvalidRequest: The text has another form.
    """
    try:
        address = Address.parse(text, needs_port=True)
    except InvalidRequest:
        address = None
    if address is None or not address.is_grpc:
        is_rest = address is not None and not address.is_grpc
        hint = " Its gRPC port is asked, not its REST port." if is_rest else ""
        raise InvalidRequest(
            f"INKLING_TENSORFLOW_SERVING has the address {text!r:.100}; expected "
            "HOST:PORT, such as 127.0.0.1:8500, or several with commas between."
            f"{hint}"
        )
    if address.is_encrypted:
        raise InvalidRequest(
            f"INKLING_TENSORFLOW_SERVING has the address {text!r:.100}; for TLS set "
            "INKLING_TENSORFLOW_SERVING_ROOT_CERTIFICATES, and write HOST:PORT."
        )
    return address.grpc_target
