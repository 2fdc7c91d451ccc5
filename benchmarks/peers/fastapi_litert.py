"""FastAPI with our engine: the same TFLite file, as one would write it without Inkling.

    MODEL=model.tflite uvicorn fastapi_litert:app

It checks nothing beyond what Pillow raises, has no contract and measures nothing.
"""

import io
import os
import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from fastapi import FastAPI, Request
from PIL import Image

app = FastAPI()
_local = threading.local()


def _interpreter() -> Interpreter:
    found = getattr(_local, "interpreter", None)
    if found is None:
        found = _local.interpreter = Interpreter(os.environ["MODEL"], num_threads=1)
        found.allocate_tensors()
        _local.input = found.get_input_details()[0]["index"]
        _local.output = found.get_output_details()[0]["index"]
    return found


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[float]]:
    """Return the scores of one picture."""
    picture = Image.open(io.BytesIO(await request.body())).convert("L")
    resized = picture.resize((28, 28), Image.Resampling.BILINEAR)
    inputs = np.asarray(resized, np.float32)[np.newaxis, :, :, np.newaxis] / 255
    interpreter = _interpreter()
    interpreter.set_tensor(_local.input, inputs)
    interpreter.invoke()
    return {"scores": interpreter.get_tensor(_local.output)[0].tolist()}
