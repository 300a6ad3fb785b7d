"""Turns Kubernetes documents into what `tenants.enrolment` takes.

A document is JSON from an API server, or YAML from a file. In YAML every scalar is the text that
was written. Where a mapping, a list or a time is expected, an empty value, `~` or `null` means that
it is missing, as in Kubernetes.

Owns how one document is read: metadata, base64, timestamps. A fault inside a secret becomes the
secret's ``error``. Only a document that cannot be named, or that has no valid timestamp as a
Namespace, raises an exception. Also owns `StoredSecret`, a whole secret, for the operator's
command.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .. import bounds, messages
from ..messages import MessageError, Text
from ..tenants.documents import KEYS, NamespaceDocument, SecretDocument
from ..tenants.limits import KNOWN, PREFIX


class DocumentError(MessageError, ValueError):
    """The document cannot be read. reason: what is missing or wrong, without any value."""


#: RFC 3339, as Kubernetes writes it. A time without a zone is accepted too, and means UTC.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def is_missing(content: object) -> bool:
    """Whether a mapping, a list, a time or a name is missing: nothing, or a form of null."""
    return content in (None, "", "~", "null", "Null", "NULL")


def _metadata(document: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """Returns the document's name and its metadata. Raises DocumentError if there is no name."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or is_missing(name):
        raise DocumentError(messages.NO_NAME())
    return name, metadata


def _created(metadata: Mapping[str, object]) -> float | None:
    """Returns creationTimestamp in seconds since the epoch, or None if there is none.

    Raises DocumentError if the timestamp is not a time.
    """
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
    """Reads a Namespace. Raises DocumentError if it has no name or its timestamp is not a time."""
    name, metadata = _metadata(document)
    return NamespaceDocument(name, _created(metadata), _annotations(metadata), _labels(metadata))


def read_ageless_namespace(document: Mapping[str, object]) -> NamespaceDocument:
    """Reads a Namespace without its creationTimestamp: for one whose timestamp is not a time.

    Raises DocumentError if it has no name.
    """
    name, metadata = _metadata(document)
    return NamespaceDocument(name, None, _annotations(metadata), _labels(metadata))


def _annotations(metadata: Mapping[str, object]) -> dict[str, str]:
    """Returns the annotations whose names begin with PREFIX.

    Malformed annotations become empty strings, which `read_limits` reports. They must not cost the
    namespace its enrolment.
    """
    content = metadata.get("annotations")
    if is_missing(content):
        return {}
    if not isinstance(content, Mapping):
        return dict.fromkeys(KNOWN, "")
    return {
        name: _annotation(value)
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(PREFIX) and value is not None
    }


def _labels(metadata: Mapping[str, object]) -> dict[str, str]:
    """Returns the labels whose names begin with PREFIX.

    Malformed labels are left out, because the proxy decides nothing by labels.
    """
    content = metadata.get("labels")
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, str) and str(name).startswith(PREFIX)}


def _annotation(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # redisproxy/max-connections: 100, without quotes
    return value if isinstance(value, str) else ""


def read_secret(document: Mapping[str, object]) -> SecretDocument:
    """Reads a Secret. A key in both data and stringData has stringData's value, as in the API
    server.

    Faults in the content are in the result's ``error``, also if it is too large. Raises
    DocumentError if the secret has no name, or a malformed namespace.
    """
    namespace, name, metadata = _secret_metadata(document)
    if _size(document) > bounds.SECRET_BYTES:
        return read_large_secret(document)
    values, errors = _values(document, KEYS)
    created = None
    try:
        created = _created(metadata)
    except DocumentError as problem:
        errors.append(problem.reason)
    return SecretDocument(namespace, name, created, values, errors[0] if errors else None)


def read_large_secret(document: Mapping[str, object]) -> SecretDocument:
    """Reads a Secret that is too large, without its contents. Raises DocumentError likewise."""
    namespace, name, metadata = _secret_metadata(document)
    error = messages.SECRET_TOO_LARGE(size=bounds.SECRET_BYTES // 1024)
    try:
        return SecretDocument(namespace, name, _created(metadata), {}, error)
    except DocumentError:
        return SecretDocument(namespace, name, None, {}, error)


def _size(document: Mapping[str, object]) -> int:
    """Returns the size of a Secret's values as they are written, most of them in base64."""
    parts = (document.get("data"), document.get("stringData"))
    values = (value for part in parts if isinstance(part, Mapping) for value in part.values())
    return sum(len(value) for value in values if isinstance(value, str))


def _secret_metadata(document: Mapping[str, object]) -> tuple[str, str, Mapping[str, object]]:
    """Returns namespace, name and metadata. Raises DocumentError if either name is malformed."""
    name, metadata = _metadata(document)
    namespace = metadata.get("namespace")
    if is_missing(namespace):
        namespace = "default"
    if not isinstance(namespace, str):
        raise DocumentError(messages.NAMESPACE_NOT_TEXT())
    return namespace, name, metadata


def _values(document: Mapping[str, object], keys: Collection[str] | None) -> tuple[dict[str, bytes], list[Text]]:
    """Returns the values of some keys, and the errors. keys: None for all keys.

    One fault does not hide the other values: a malformed secret still keeps other namespaces from
    the database that it names.
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
    """A whole secret, with every key.

    uid: from the API server; empty for a secret in manifests.
    data: all values, decoded.
    document: the whole document, as the API server answered or the file has it.
    files: names of the manifest files that have a secret of this name; empty in a cluster.
    """

    namespace: str
    name: str
    uid: str
    immutable: bool
    data: Mapping[str, bytes] = field(repr=False)
    document: Mapping[str, Any] = field(repr=False)
    files: tuple[str, ...] = ()

    def with_values(self, changes: Mapping[str, bytes]) -> dict[str, Any]:
        """Returns the document with new values for some keys.

        A key in stringData stays there, as text. Any other key goes into data, as base64.
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
    """Whether the document is the Secret with this namespace and name."""
    try:
        return document.get("kind") == "Secret" and _secret_metadata(document)[:2] == (namespace, name)
    except DocumentError:
        return False


def read_stored(document: Mapping[str, Any], files: tuple[str, ...] = ()) -> StoredSecret:
    """Reads a whole secret. Raises DocumentError if any part is malformed."""
    namespace, name, metadata = _secret_metadata(document)
    values, errors = _values(document, None)
    if errors:
        raise DocumentError(errors[0])
    uid = metadata.get("uid")
    # A scalar in a manifest is text.
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
