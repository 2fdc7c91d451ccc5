# SPDX-License-Identifier: Apache-2.0
"""INKLING_* variables: settings, links to services, and names that are neither.

Kubernetes sets variables for each Service of a namespace, and Docker's legacy links
set the same ones for each container. A Service named `inkling` gives `INKLING_PORT`,
and one named `inkling-http` gives `INKLING_HTTP_PORT`, which is also a setting's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

__all__ = [
    "FOREIGN_VARIABLES",
    "PREFIX",
    "given_settings",
    "is_service_link",
    "remarks",
    "variable_of",
]

PREFIX = "INKLING_"
# Variables of other parts of Inkling, which the gateway ignores.
FOREIGN_VARIABLES = frozenset({"INKLING_DATA_DIR"})

# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
# and Docker's legacy links, which add START and END for ranges of ports.
_LINK_NAME = re.compile(
    r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?"
    r"|\w+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END|PORT_START|PORT_END))?"
)
_LINK_URL = re.compile(r"(tcp|udp|sctp)://[^/\s]+:\d+/?", re.IGNORECASE)
# Docker's: INKLING_NAME=/this/inkling, and each variable of the other container.
_LINK_OF_DOCKER = re.compile(r"/[^/\s]+/[^/\s]+")


def variable_of(name: str) -> str:
    """Return the variable of a setting, by its name."""
    return PREFIX + name.upper()


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes or Docker set a variable to name a service."""
    if name.endswith("_PORT") and _LINK_URL.fullmatch(value.strip()):
        return True
    if name.endswith("_NAME") and _LINK_OF_DOCKER.fullmatch(value.strip()):
        return True
    return bool(_LINK_NAME.fullmatch(name))


def given_settings(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Return the variables of `known` that are set to a value.

    An empty value is as none: Compose's `${NAME:-}` and an empty field of a Helm chart
    mean that nothing is set.
    """
    return {
        name: environ[name]
        for name in known
        if environ.get(name, "").strip() and not is_service_link(name, environ[name])
    }


def remarks(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a sentence for each INKLING_* variable that is no setting, sorted.

    A misspelt variable is no error, because the environment is not the gateway's alone:
    the names of other people's services decide about it, too.

    Args:
        environ: Environment variables.
        known: The names of the settings' variables.
    """
    found = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in FOREIGN_VARIABLES:
            continue
        if is_service_link(name, value):
            if name in known:
                found.append(
                    f"{name}={value:.80} names a service of the cluster and is no "
                    "setting; it is passed over. enableServiceLinks: false in the pod "
                    "avoids such variables."
                )
        elif name not in known:
            found.append(
                f"{name} is no setting, and is passed over. {_hint(name, known)}"
            )
    return found


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (
        f"Did you mean {near[0]}?"
        if near
        else "inkling serve --help lists all settings."
    )
