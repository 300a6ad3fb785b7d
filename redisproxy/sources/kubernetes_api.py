"""What an answer of the Kubernetes API means that is none: errors as short texts, fit for the operator.

Error bodies are never repeated: an API server, or what stands before it, may put anything into them.
"""

from __future__ import annotations

import json
import re
import ssl

import urllib3
from kubernetes.client.exceptions import ApiException


class Unreachable(Exception):
    """No answer, or none that makes sense: the calls that would follow are spared. args: a ReadFailure."""


class RequestError(Exception):
    """One request was refused, or not answered. The text says how, and is fit for the operator.

    status: of the answer, 0 without one; terminating: the namespace is being deleted.
    """

    def __init__(self, text: str, status: int = 0, terminating: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.terminating = terminating


#: The statuses of an API server, or of a proxy before it, as RFC 9110 and kubectl have called them. A table of the project's
#: own: Python's phrases change from version to version, and runbooks look for a line.
_PHRASES = {
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Entity",
    425: "Too Early",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def status_text(code: int) -> str:
    """A status with its usual phrase: the one that came with it is the peer's text."""
    return f"{code} {_PHRASES.get(code, '(no usual status)')}"


def error_kind(error: BaseException) -> str:
    """What kind of failure it is, and of the innermost reason, without text that a peer could have written."""
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib3.exceptions.MaxRetryError) and isinstance(reason, BaseException):
        error = reason
    text = type(error).__name__
    # urllib3 wraps an SSLError of the ssl module as an argument of its own, others as the cause.
    for inner in (error, error.__cause__, error.__context__, *error.args):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"{text}: {inner.verify_message}"
        if isinstance(inner, OSError) and inner.strerror:
            return f"{text}: {inner.strerror}"
    return text


def is_terminating(error: ApiException) -> bool:
    """Whether it says that the namespace is being deleted: a 403, too."""
    try:
        causes = json.loads(error.body)["details"]["causes"]
        return any(cause["reason"] == "NamespaceTerminating" for cause in causes)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def retry_after(error: ApiException) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return float(value) if re.fullmatch(r"[0-9]{1,5}", value, re.ASCII) else None
