# SPDX-License-Identifier: Apache-2.0
"""Flask's development server with Keras's `predict`, as in tutorials.

MODEL=saved_model_folder flask --app benchmarks.peers.flask_app run
"""

import os
from typing import Any

import flask
import keras

from benchmarks.peers.work import Model, prediction

app = flask.Flask(__name__)
_layer = keras.layers.TFSMLayer(os.environ["MODEL"], call_endpoint="serving_default")
_keras = keras.Sequential([keras.Input((28, 28, 1)), _layer])
_model = Model((28, 28, 1), lambda inputs: _keras.predict(inputs, verbose=0)["scores"])


@app.post("/predict")
def predict() -> Any:
    """Return the scores of one picture."""
    return flask.jsonify(prediction(_model, flask.request.get_data()))
