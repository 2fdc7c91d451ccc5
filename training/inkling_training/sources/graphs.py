# SPDX-License-Identifier: Apache-2.0
"""Follows the output of a TensorFlow function back to the operation that makes it."""

from __future__ import annotations

from typing import Any

__all__ = ["producer"]

_PASSED = ("Identity", "Reshape", "Squeeze", "Cast", "IdentityN")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_FARTHEST = 200


def producer(function: Any, tensor: Any) -> str | None:
    """Return the name of the operation that makes an output, such as `Softmax`.

    Operations that leave all values as they are, and calls of functions, are passed.

    Args:
        function: A concrete function.
        tensor: One of its `structured_outputs`.
    """
    graph = function.graph.as_graph_def()
    library = {one.signature.name: one for one in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    name = _graph_output(function, tensor)
    for _ in range(_FARTHEST):
        stem, _, rest = name.partition(":")
        node = nodes.get(stem)
        if node is None:
            return None
        if node.op in _CALLS:
            inner = library.get(node.attr["f"].func.name)
            place = int(rest.rpartition(":")[2] or 0)
            if inner is None or place >= len(inner.signature.output_arg):
                return None
            nodes = {one.name: one for one in inner.node_def}
            name = inner.ret[inner.signature.output_arg[place].name]
        elif node.op in _PASSED and node.input:
            name = node.input[0]
        else:
            return str(node.op)
    return None


def _graph_output(function: Any, tensor: Any) -> str:
    outputs = function.graph.outputs
    names = sorted(function.structured_outputs)
    known = dict(zip(names, outputs, strict=False))
    for name, spec in function.structured_outputs.items():
        if spec is tensor and name in known:
            return str(known[name].name)
    return str(outputs[0].name)
