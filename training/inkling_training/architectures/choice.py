# SPDX-License-Identifier: Apache-2.0
"""Finds the architecture that the command line names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.contract import Source
from inkling.errors import InvalidRequest
from inkling_training.architectures.applications import Application, application
from inkling_training.architectures.networks import network_of, values_in
from inkling_training.architectures.user_file import UserFunction, load_function
from inkling_training.fit.models import MODELS, Architecture, Network
from inkling_training.preparation.presets import VALUES

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_training.fit.recipes import Recipe

__all__ = ["Options", "architecture_of", "fitted"]

_APPLICATIONS = "keras.applications"


@dataclass(frozen=True)
class Options:
    """The options about architectures that are not Inkling's own.

    Attributes:
        weights: `imagenet`, `none`, or a file; None for the default.
        alpha: The width of a MobileNet; None for the usual one.
        values: A name of `VALUES` in place of the concluded one.
        learning_rate: The learning rate of an own optimizer; None for its own.
    """

    weights: str | None = None
    alpha: float | None = None
    values: str | None = None
    learning_rate: float | None = None


def architecture_of(text: str, options: Options) -> Architecture:
    """Return the architecture that a name states.

    Args:
        text: `mlp`, `cnn`, `classic`, `FILE.py:FUNCTION` or `keras.applications:NAME`.
        options: The options that belong to it.

    Raises:
        InvalidRequest: An option does not belong to it.
        UnusableArchitecture: There is no such architecture.
    """
    where, _, name = text.rpartition(":")
    stated = {"--weights": options.weights, "--alpha": options.alpha}
    wrong = [option for option, value in stated.items() if value is not None]
    if where == _APPLICATIONS and options.values is not None:
        raise InvalidRequest(
            f"--values came with {text}, whose values Keras states; leave it out."
        )
    if where == _APPLICATIONS:
        return _of_application(application(name, options.weights, options.alpha))
    if wrong:
        raise InvalidRequest(
            f"{wrong[0]} came with {text}; it belongs to {_APPLICATIONS}:NAME."
        )
    if text in MODELS:
        if options.values is not None:
            raise InvalidRequest(
                f"--values came with {text}, which takes 0 to 1; leave it out."
            )
        return MODELS[text]
    return _of_function(load_function(Path(where), name), options)


def _of_application(found: Application) -> Architecture:
    recipe = f"--weights {'FILE' if found.digest[:6] == 'sha256' else found.weights}"
    if found.alpha is not None:
        recipe += f" --alpha {found.alpha:g}"
    name = f"{_APPLICATIONS}:{found.name}"
    return Architecture(
        name=name,
        recipe="transfer" if found.is_pretrained else "own",
        build=found.build,
        source=Source(name, found.digest, recipe),
        values=found.values,
    )


def _of_function(found: UserFunction, options: Options) -> Architecture:
    def build(shape: tuple[int, int, int], num_classes: int, recipe: Recipe) -> Network:
        del recipe  # the function decides
        model = found(shape, num_classes)
        network = network_of(model, shape, num_classes, found.name)
        return _with_rate(network, options.learning_rate)

    stated = f" --values {options.values}" if options.values else ""
    return Architecture(
        name=found.name,
        recipe="own",
        build=build,
        source=Source(found.name, found.digest, stated.strip()),
        values=options.values,
    )


def _with_rate(network: Network, rate: float | None) -> Network:
    """Return the network with another learning rate of its own optimizer."""
    if rate is None or network.optimizer is None:
        return network
    config = {**network.optimizer.get_config(), "learning_rate": rate}
    optimizer = type(network.optimizer).from_config(config)
    return replace(network, optimizer=optimizer)


def fitted(
    architecture: Architecture, contract: Contract, recipe: Recipe
) -> tuple[Contract, tuple[str, ...]]:
    """Return the contract as the architecture wants its pictures, and notes about it.

    Raises:
        InvalidRequest: The pictures do not have the channels for these values.
        UnusableArchitecture: It cannot be built for these pictures and labels.
    """
    if architecture.source is None:
        return contract, ()
    network = architecture.build(contract.input_shape, len(contract.labels), recipe)
    notes = list(network.notes)
    values = architecture.values
    if values is None:
        values = values_in(network.model)
        why = "the model itself makes small values of them"
        shown = f"0 to 255, because {why}" if values == "bytes" else "0 to 1"
        notes.append(f"The pixels are {shown}; --values changes that.")
    fields = VALUES[values]
    if contract.channels == 1 and len(fields["offset"]) > 1:
        raise InvalidRequest(
            f"--values {values} has a value for each of three channels, and the "
            "pictures are grey; expected unit, signed or bytes."
        )
    return replace(contract, **fields, source=architecture.source), tuple(notes)
