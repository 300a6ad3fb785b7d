"""Kubernetes documents, as JSON from an API server or YAML from a file, made into what
`tenants.enrolment` takes.

Owns the reading of one document: metadata, base64, timestamps. A fault inside a secret becomes the
secret's ``error``; only what is no document at all raises. In a file's document every scalar is the
text that was written; where none is expected, but a mapping, a list or a time, `null`, `~` and
nothing mean that it is not there, as in Kubernetes. Owns, too, a whole secret, as the operator's
command changes it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .. import messages
from ..messages import MessageError, Text
from ..tenants.documents import KEYS, NamespaceDocument, SecretDocument
from ..tenants.limits import ANNOTATIONS, PREFIX


class DocumentError(MessageError, ValueError):
    """Not a document that can be named. reason: what is missing, without any value."""


#: RFC 3339, as Kubernetes writes it; and without a zone, which is UTC's then.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def is_missing(content: object) -> bool:
    """Whether there is nothing where a mapping, a list, a time or a name is expected."""
    return content in (None, "", "~", "null", "Null", "NULL")


def _metadata(document: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """Its name, and all of its metadata. Raises DocumentError."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or is_missing(name):
        raise DocumentError(messages.NO_NAME())
    return name, metadata


def _created(metadata: Mapping[str, object]) -> float | None:
    """Its creationTimestamp in seconds since the epoch, None if it has none."""
    stamp = metadata.get("creationTimestamp")
    if is_missing(stamp):
        return None
    try:
        if isinstance(stamp, str) and _TIME.fullmatch(stamp):
            moment = datetime.fromisoformat(stamp.upper())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise DocumentError(messages.BAD_TIME())


def read_namespace(document: Mapping[str, object]) -> NamespaceDocument:
    """A Namespace. Raises DocumentError."""
    name, metadata = _metadata(document)
    return NamespaceDocument(name, _created(metadata), _annotations(metadata), _labels(metadata))


def read_ageless_namespace(document: Mapping[str, object]) -> NamespaceDocument:
    """A Namespace whose creationTimestamp is no time, as one that has none. Raises DocumentError
    when it has no name.
    """
    name, metadata = _metadata(document)
    return NamespaceDocument(name, None, _annotations(metadata), _labels(metadata))


def _annotations(metadata: Mapping[str, object]) -> dict[str, str]:
    """Those that matter here. What cannot be one stays malformed, whatever it is: it must not cost
    the namespace.
    """
    content = metadata.get("annotations")
    if is_missing(content):
        return {}
    if not isinstance(content, Mapping):
        return dict.fromkeys(ANNOTATIONS, "")
    return {
        name: _annotation(value)
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(PREFIX) and value is not None
    }


def _labels(metadata: Mapping[str, object]) -> dict[str, str]:
    """Those that matter here. The proxy makes nothing of them, so what is none is left out."""
    content = metadata.get("labels")
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, str) and str(name).startswith(PREFIX)}


def _annotation(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # redisproxy/max-connections: 100, without quotes
    return value if isinstance(value, str) else ""


def read_secret(document: Mapping[str, object]) -> SecretDocument:
    """A Secret. Where data and stringData have the same key, stringData wins, as in the API server.

    Raises DocumentError when it cannot even be named.
    """
    namespace, name, metadata = _secret_metadata(document)
    values, errors = _values(document, KEYS)
    created = None
    try:
        created = _created(metadata)
    except DocumentError as problem:
        errors.append(problem.reason)
    return SecretDocument(namespace, name, created, values, errors[0] if errors else None)


def _secret_metadata(document: Mapping[str, object]) -> tuple[str, str, Mapping[str, object]]:
    """Namespace, name, and all of its metadata. Raises DocumentError."""
    name, metadata = _metadata(document)
    namespace = metadata.get("namespace")
    if is_missing(namespace):
        namespace = "default"
    if not isinstance(namespace, str):
        raise DocumentError(messages.NAMESPACE_NOT_TEXT())
    return namespace, name, metadata


def _values(document: Mapping[str, object], keys: Collection[str] | None) -> tuple[dict[str, bytes], list[Text]]:
    """The values under some keys, all where keys is None; and what is wrong.

    One fault does not hide the rest: a malformed secret keeps the database that it names from
    others.
    """
    values: dict[str, bytes] = {}
    errors: list[Text] = []
    for part in ("data", "stringData"):
        content = document.get(part)
        if is_missing(content):
            continue
        if not isinstance(content, Mapping):
            errors.append(messages.PART_NOT_A_MAPPING(part=part))
            continue
        for key in content if keys is None else keys:
            if content.get(key) is not None:
                try:
                    values[key] = _value(part, key, content[key])
                except DocumentError as problem:
                    errors.append(problem.reason)
    return values, errors


@dataclass(frozen=True)
class StoredSecret:
    """A secret, whole.

    uid: of the API server's, empty in manifests; data: all of its values, decoded; document: the
    whole of it, as it was answered or written; files: names of the files that have one of this
    name, of manifests.
    """

    namespace: str
    name: str
    uid: str
    immutable: bool
    data: Mapping[str, bytes] = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)
    files: tuple[str, ...] = ()

    def with_values(self, changes: Mapping[str, bytes]) -> dict[str, Any]:
        """The document with other values under some keys: each in the part that it has now, as
        base64 or as text.
        """
        texts = self.document.get("stringData")
        texts = dict(texts) if isinstance(texts, Mapping) else {}
        encoded = self.document.get("data")
        encoded = dict(encoded) if isinstance(encoded, Mapping) else {}
        for key, value in changes.items():
            if key in texts:
                texts[key] = value.decode()
            else:
                encoded[key] = base64.b64encode(value).decode()
        document = {key: value for key, value in self.document.items() if key not in ("data", "stringData")}
        return {**document, **({"data": encoded} if encoded else {}), **({"stringData": texts} if texts else {})}


def names_secret(document: Mapping[str, object], namespace: str, name: str) -> bool:
    """Whether it is a Secret of that name."""
    try:
        return document.get("kind") == "Secret" and _secret_metadata(document)[:2] == (namespace, name)
    except DocumentError:
        return False


def read_stored(document: Mapping[str, Any], files: tuple[str, ...] = ()) -> StoredSecret:
    """A secret, whole. Raises DocumentError for one of which any part is malformed."""
    namespace, name, metadata = _secret_metadata(document)
    values, errors = _values(document, None)
    if errors:
        raise DocumentError(errors[0])
    uid = metadata.get("uid")
    # In a manifest every scalar is text.
    immutable = document.get("immutable") in (True, "true")
    document = {**document, "immutable": True} if immutable else document
    return StoredSecret(namespace, name, uid if isinstance(uid, str) else "", immutable, values, document, files)


def _value(part: str, key: str, content: object) -> bytes:
    if part == "stringData":
        if isinstance(content, int) and not isinstance(content, bool):
            return str(content).encode()  # valid_hours: 5, without quotes
        if not isinstance(content, str):
            raise DocumentError(messages.NOT_TEXT(key=key))
        try:
            return content.encode()
        except UnicodeEncodeError:
            raise DocumentError(messages.NOT_UTF8(key=key)) from None
    if not isinstance(content, str):
        raise DocumentError(messages.NOT_BASE64(key=key))
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise DocumentError(messages.NOT_BASE64(key=key)) from None
