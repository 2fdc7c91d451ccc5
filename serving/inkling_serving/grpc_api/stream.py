# SPDX-License-Identifier: Apache-2.0
"""One call with a stream of requests: it can answer several of them at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

import grpc

from inkling.errors import InklingError
from inkling_serving.grpc_api.errors import foreseen

__all__ = ["Stream"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
# The most requests of one stream that are being answered or whose answers wait to be
# sent. At this limit the stream stops reading, and further requests wait in the client.
_WINDOW = 16


class Stream(Generic[_Request, _Response]):
    """A stream of requests and answers.

    gRPC's thread yields the answers. A second thread reads the requests, because an
    answer must not wait for the next request.

    Attributes:
        error: The error because of which the other requests cannot be read, or None.
    """

    def __init__(
        self,
        answer: Callable[[_Request], _Response | Future[_Response]],
        refuse: Callable[[_Request, InklingError], _Response],
        window: int = _WINDOW,
    ) -> None:
        """Create the stream from the functions that answer one request.

        Args:
            answer: Returns the answer or its future; both may raise an InklingError.
            refuse: Returns the answer for an InklingError.
            window: The most requests at once; with 1, the answers come in the order of
                the requests.
        """
        self.error: InklingError | None = None
        self._answer = answer
        self._refuse = refuse
        # None stands for the end of the requests.
        self._answers: queue.SimpleQueue[_Response | None] = queue.SimpleQueue()
        self._places = threading.Semaphore(window)
        self._lock = threading.Lock()
        self._under_way: set[Future[_Response]] = set()
        self._read_all = False
        self._ended = False
        self._active_at = time.monotonic()

    def answers(self, requests: Iterator[_Request]) -> Iterator[_Response]:
        """Yield the answer to each request as soon as it is ready."""
        reader = threading.Thread(
            target=self._read, args=(requests,), name="inkling-stream", daemon=True
        )
        reader.start()
        try:
            while (answer := self._answers.get()) is not None:
                yield answer
                self._active_at = time.monotonic()
                self._places.release()
        finally:
            self._ended = True
            self._places.release()
            self._cancel()

    @property
    def idle_s(self) -> float:
        """The seconds for which the stream has had nothing to do."""
        with self._lock:
            return 0.0 if self._under_way else time.monotonic() - self._active_at

    def end(self, error: InklingError | None = None) -> None:
        """Stop reading; requests that were read are answered.

        Args:
            error: The reason for the client, if it did not end the stream itself.
        """
        with self._lock:
            if self._read_all:
                return
            self.error = self.error or error
            self._read_all = True
            last = not self._under_way
        if last:
            self._answers.put(None)

    def _read(self, requests: Iterator[_Request]) -> None:
        try:
            for request in requests:
                self._places.acquire()
                if self._ended or self._read_all:
                    return
                self._begin(request)
        except grpc.RpcError:
            self._cancel()  # the client has left; gRPC's thread gets the same error
        except Exception as error:  # noqa: BLE001 - the top of this thread
            # The stream must not end like one whose requests were all answered.
            self.error = foreseen(error)
        finally:
            self.end()

    def _cancel(self) -> None:
        for future in list(self._under_way):
            future.cancel()

    def _begin(self, request: _Request) -> None:
        self._active_at = time.monotonic()
        try:
            outcome = self._answer(request)
        except InklingError as error:
            outcome = self._refuse(request, error)
        if not isinstance(outcome, Future):
            self._answers.put(outcome)
            return
        with self._lock:
            self._under_way.add(outcome)
        outcome.add_done_callback(lambda future: self._done(request, future))

    def _done(self, request: _Request, future: Future[_Response]) -> None:
        if not future.cancelled():
            try:
                self._answers.put(future.result())
            except InklingError as error:
                self._answers.put(self._refuse(request, error))
        with self._lock:
            self._under_way.discard(future)
            last = self._read_all and not self._under_way
        if last:
            self._answers.put(None)
