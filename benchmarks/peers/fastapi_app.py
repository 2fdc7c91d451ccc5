"""FastAPI around a model, in both forms that one meets.

    MODEL=model.tflite uvicorn benchmarks.peers.fastapi_app:app

`/def` is what FastAPI's documentation advises for work that blocks: a plain function,
run in a thread. `/async` blocks the event loop instead, and so saves the thread; it is
as fast as FastAPI gets. Neither checks, limits or measures anything.
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


# Without a response model, which would check the answer field by field.
@app.post("/def", response_model=None)
def predict(image: _Image) -> dict[str, Any]:
    """Return the scores of one picture, from a thread."""
    return prediction(_model, image)


@app.post("/async", response_model=None)
async def predict_in_the_loop(image: _Image) -> dict[str, Any]:
    """Return the scores of one picture, and nobody is served meanwhile."""
    return prediction(_model, image)
