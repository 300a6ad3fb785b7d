"""Kubernetes documents, as JSON from an API server or YAML from a file, made into what `core.enrolment` takes.

Owns the reading of one document: metadata, base64, timestamps. A fault inside a secret becomes the secret's
``error``; only what is no document at all raises.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime

from ..core.enrolment import KEYS, NamespaceDocument, SecretDocument
from ..core.limits import ANNOTATIONS, PREFIX


class DocumentError(ValueError):
    """Not a document that can be named. The text says what is missing, without any value."""


def _metadata(document: Mapping) -> Mapping:
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise DocumentError("it has no metadata.name")
    return metadata


def _created(metadata: Mapping, default: float) -> float:
    """Its creationTimestamp in seconds since the epoch. YAML reads an unquoted one as a date."""
    stamp = metadata.get("creationTimestamp")
    if stamp is None:
        return default
    try:
        moment = stamp if isinstance(stamp, datetime) else datetime.fromisoformat(stamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError):
        raise DocumentError("metadata.creationTimestamp is not a time like 2026-01-31T12:00:00Z") from None


def read_namespace(document: Mapping, default_created: float) -> NamespaceDocument:
    """A Namespace. default_created: what takes the place of a missing creationTimestamp. Raises DocumentError."""
    metadata = _metadata(document)
    return NamespaceDocument(metadata["name"], _created(metadata, default_created), _annotations(metadata))


def _annotations(metadata: Mapping) -> dict[str, str]:
    """Those that matter here. What cannot be one stays malformed, whatever it is: it must not cost the namespace."""
    content = metadata.get("annotations")
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        return dict.fromkeys(ANNOTATIONS, "")
    return {
        name: _annotation(value)
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(PREFIX) and value is not None
    }


def _annotation(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # redisproxy/max-connections: 100, without quotes
    return value if isinstance(value, str) else ""


def read_secret(document: Mapping, default_created: float) -> SecretDocument:
    """A Secret. Where data and stringData have the same key, stringData wins, as in the API server.

    Raises DocumentError when it cannot even be named.
    """
    metadata = _metadata(document)
    name = metadata["name"]
    namespace = metadata.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise DocumentError("metadata.namespace is not a text")
    values: dict[str, bytes] = {}
    error = None
    created = default_created
    try:
        created = _created(metadata, default_created)
        for part in ("data", "stringData"):
            content = document.get(part)
            if content is None:
                continue
            if not isinstance(content, Mapping):
                raise DocumentError(f"{part} is not a mapping")
            for key in KEYS:
                if content.get(key) is not None:
                    values[key] = _value(part, key, content[key])
    except DocumentError as problem:
        error = str(problem)
    return SecretDocument(namespace, name, created, values, error)


def _value(part: str, key: str, content: object) -> bytes:
    if part == "stringData":
        if isinstance(content, int) and not isinstance(content, bool):
            return str(content).encode()  # valid_hours: 5, without quotes
        if not isinstance(content, str):
            raise DocumentError(f"stringData.{key} is not a text")
        try:
            return content.encode()
        except UnicodeEncodeError:
            raise DocumentError(f"stringData.{key} is not UTF-8") from None
    if not isinstance(content, str):
        raise DocumentError(f"data.{key} is not base64")
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise DocumentError(f"data.{key} is not base64") from None
