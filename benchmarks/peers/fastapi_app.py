# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application with a model, in the two usual forms.

    MODEL=model.tflite uvicorn benchmarks.peers.fastapi_app:app

FastAPI's documentation recommends the form of `/def` for blocking work: a plain
function, which runs in a thread. `/async` blocks the event loop, which saves the thread
and is FastAPI's fastest form. Neither has checks, limits or metrics.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from benchmarks.peers.work import model_at, prediction

app = FastAPI()
_model = model_at(Path(os.environ["MODEL"]))


async def _body(request: Request) -> bytes:
    return await request.body()


_Image = Annotated[bytes, Depends(_body)]


# A response model would check the answer field by field.
@app.post("/def", response_model=None)
def predict(image: _Image) -> dict[str, Any]:
    """Return the scores of one picture, from a thread."""
    return prediction(_model, image)


@app.post("/async", response_model=None)
async def predict_in_the_loop(image: _Image) -> dict[str, Any]:
    """Return the scores of one picture; the event loop is blocked meanwhile."""
    return prediction(_model, image)
