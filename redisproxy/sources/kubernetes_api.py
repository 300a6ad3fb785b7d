"""Single requests to the Kubernetes API: address, credentials, and the meaning of errors.

Owns how the proxy authenticates to the API server, the time-outs, and the texts of errors. Each
text names the address that did not answer, or the file that is wrong. Answers are read as raw JSON,
because the client's models take many times as long to parse and hold the GIL meanwhile. Must not
repeat the body of an error: an API server, or a proxy before it, may put anything there.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader

from .. import bounds, messages
from ..printable import clause, printable
from ..tenants.documents import ReadFailure

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Seconds to connect, and seconds without a byte from the API server.
TIMEOUT = (5, 10)
#: The API server leaves out secrets of this type. Helm keeps its releases in them: many, and up to
#: 1 MiB each.
SELECTOR = "type!=helm.sh/release.v1"

#: The content types of a watch and of a list: metadata of objects, without contents. A server that
#: does not know the latter lists whole objects.
_AS = "application/json;as={};g=meta.k8s.io;v=v1"
METADATA = _AS.format("PartialObjectMetadata")
METADATA_LIST = f"{_AS.format('PartialObjectMetadataList')},application/json"
#: Bytes of an answer that are read at once.
_PIECE = 64 * 1024

#: A method of the official client's CoreV1Api, called with _preload_content=False: it returns the
#: response with its body unread.
Method = Callable[..., urllib3.HTTPResponse]


#: Patterns of the official client's ConfigException, and the text that takes their place. The
#: exception's own text may quote a credential: the output of a plugin, or a whole entry of the
#: kubeconfig.
_CONFIG_ERRORS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"(?:exec|cmd-path):(?: process returned -?[0-9]+)?", r"\g<0>"),
        (r"Expected key ([^\s{}\[\]]+)", r"it has no \1"),
        (r"Expected object with name ([^\s{}\[\]]+) in \S*/([a-z]+) list", r"it has no \1 among its \2"),
        (r"Expected only one object with name ([^\s{}\[\]]+)", r"it has more than one \1"),
        (r"File does not exist: (.+)", r"there is no file \1"),
        (r"Token file exists but empty", "token is empty"),
        (r"Cert file exists but empty", "ca.crt is empty"),
        (r"Service certification file does not exist", "there is no ca.crt"),
        (r"file is empty", "it is empty"),
    )
)


class Unreachable(Exception):
    """No request to the API server can succeed now, so the source makes no further one."""

    def __init__(self, failure: ReadFailure) -> None:
        super().__init__(failure)
        self.failure = replace(failure, of_source=True)


class RequestError(messages.MessageError):
    """One request was refused or not answered.

    status: HTTP status of the answer; 0 if there was none.
    terminating: whether the namespace is being deleted.
    retry_after: seconds that the server asked to wait, or None.
    """

    def __init__(
        self, reason: messages.Text, status: int = 0, terminating: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.terminating = terminating
        self.retry_after = retry_after


class KubernetesApi:
    """The Kubernetes API, with the credentials of a pod or of a kubeconfig.

    port: port of the API server, used in a pod only.
    service_account: directory where a pod's token and CA are mounted.
    timeout: see TIMEOUT.
    """

    def __init__(
        self,
        port: int,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> None:
        self._port = port
        self._environ = environ
        self._service_account = service_account
        self.timeout = timeout

    @property
    def in_pod(self) -> bool:
        """Whether requests are made with a pod's service account."""
        return bool(self._environ.get("KUBERNETES_SERVICE_HOST")) and (self._service_account / "token").is_file()

    def connect(self) -> kubernetes_client.ApiClient:
        """Returns a new client of the API. Raises Unreachable.

        Each read has a new client, so that a rotated token, CA or kubeconfig takes effect.
        """
        try:
            return self._make_client()
        except Exception as error:
            # For a malformed kubeconfig the loader raises many exceptions, YAMLError and
            # AttributeError among them.
            raise Unreachable(ReadFailure(messages.API_NO_WAY(detail=self._no_client(error)))) from None

    def _no_client(self, error: Exception) -> str:
        """Returns why there is no client, and which file is wrong.

        Texts that may quote the file are left out.
        """
        if self.in_pod:
            where = str(self._service_account)
        else:
            files = self._kubeconfigs()
            where = " or ".join(map(str, files))
            if not any(file.exists() for file in files):
                return f"{self._no_account()}there is no kubeconfig at {printable(where)}; KUBECONFIG can name another"
        detail = f"it cannot be used ({error_kind(error)})"
        if isinstance(error, ConfigException):
            known = ((pattern.search(str(error)), text) for pattern, text in _CONFIG_ERRORS)
            detail = next((clause(found.expand(text)) for found, text in known if found), detail)
        return printable(f"{where}: {detail}")

    def _no_account(self) -> str:
        if not self._environ.get("KUBERNETES_SERVICE_HOST"):
            return ""
        return f"this pod has no service account token at {self._service_account / 'token'}, and "

    def _kubeconfigs(self) -> list[Path]:
        """Returns the paths where the official client looks for a kubeconfig."""
        named = self._environ.get("KUBECONFIG") or kubernetes_config.KUBE_CONFIG_DEFAULT_LOCATION
        return [Path(path).expanduser() for path in named.split(os.pathsep) if path]

    def _make_client(self) -> kubernetes_client.ApiClient:
        configuration = kubernetes_client.Configuration()
        if self.in_pod:
            environ = dict(self._environ) | {"KUBERNETES_SERVICE_PORT": str(self._port)}
            InClusterConfigLoader(
                token_filename=str(self._service_account / "token"),
                cert_filename=str(self._service_account / "ca.crt"),
                environ=environ,
            ).load_and_set(configuration)
        else:
            kubernetes_config.load_kube_config(
                config_file=self._environ.get("KUBECONFIG"), client_configuration=configuration
            )
        # The caller decides when to try again. The client must not sleep here for a Retry-After.
        configuration.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0, respect_retry_after_header=False)
        return kubernetes_client.ApiClient(configuration)

    def request(self, method: str, *arguments: object, content_type: str = "", **options: Any) -> dict[str, Any]:
        """Makes one request and returns the JSON object of the answer. Blocks. Raises RequestError.

        method: name of a method of the official client's CoreV1Api; its arguments follow.
        content_type: of the request's body, where the client's default is another one.
        """
        try:
            client = self.connect()
        except Unreachable as unreachable:
            raise RequestError(unreachable.failure.reason) from None
        if content_type:
            client.set_default_header("Content-Type", content_type)
        try:
            return self._answer(getattr(kubernetes_client.CoreV1Api(client), method), *arguments, **options)
        finally:
            client.close()

    def ask(
        self, method: Method, *arguments: str, accept: str = "", most: int = bounds.OBJECT_BYTES, **options: str | int
    ) -> dict[str, object] | ReadFailure:
        """Calls a method and returns the JSON object of the answer, or the failure. Blocks.

        accept: the content types that the server may answer with; empty: the client's own. most:
        bytes that the answer may have.

        Raises Unreachable if further requests would fail too: no usable answer, 401, 429, or a
        status above 500.
        """
        try:
            return self._answer(method, *arguments, accept=accept, most=most, **options)
        except RequestError as error:
            failure = ReadFailure(error.reason, error.retry_after)
            # A 500 may concern this object alone, such as one that cannot be decrypted. So the
            # others are still read.
            if error.reason.code == messages.API_TOO_LARGE.code:
                return failure
            if error.status in (0, 401, 429) or error.status > 500:
                raise Unreachable(failure) from None
            return failure

    def _answer(
        self, method: Method, *arguments: object, accept: str = "", most: int = bounds.OBJECT_BYTES, **options: object
    ) -> dict[str, Any]:
        """Calls a method of the official client and returns the JSON object. Raises RequestError.

        accept, most: see `ask`.
        """
        address = address_asked(method)
        headers = client_of(method).default_headers
        try:
            if accept:
                headers["Accept"] = accept
            response = response_of(method, *arguments, timeout=self.timeout, **options)
            body = _body(response, most)
            if body is None:
                raise RequestError(messages.API_TOO_LARGE(address=address, size=most // 1024))
        except ApiException as error:
            if not error.status:
                raise RequestError(messages.API_NO_ANSWER(address=address, error=error_kind(error))) from None
            raise RequestError(refusal(error.status), error.status, _is_terminating(error), retry_after(error)) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestError(messages.API_NO_ANSWER(address=address, error=error_kind(error))) from None
        except ValueError:
            raise RequestError(messages.API_UNSENDABLE()) from None
        finally:
            if accept:
                del headers["Accept"]
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError(messages.API_NOT_JSON(address=address)) from None
        if not isinstance(answer, dict):
            raise RequestError(messages.API_NOT_AN_OBJECT(address=address))
        return answer


def address_of(client: kubernetes_client.ApiClient) -> str:
    """Returns the address of the API server for the operator, without user name and path."""
    try:
        parts = urlsplit(client.configuration.host)
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return printable(f"{parts.scheme}://{name}{'' if parts.port is None else f':{parts.port}'}")
    except ValueError:
        return "the API server"


def client_of(method: Method) -> kubernetes_client.ApiClient:
    """Returns the client of a bound method of CoreV1Api."""
    return method.__self__.api_client  # type: ignore[attr-defined]


def address_asked(method: Method) -> str:
    """Returns the address of the API server that this method would ask."""
    return address_of(client_of(method))


def _body(response: urllib3.HTTPResponse, most: int) -> bytes | None:
    """Returns the body of an answer, or None if it has more than `most` bytes. Raises as
    urllib3.
    """
    pieces, size = [], 0
    for piece in response.stream(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            response.close()  # the rest is not read
            return None
    return b"".join(pieces)


def response_of(method: Method, *arguments: object, timeout: tuple[float, float], **options: object) -> urllib3.HTTPResponse:
    """Calls a method and returns the response, whose body is not read yet.

    timeout: seconds to connect, and seconds without a byte. Raises what the client raises.
    """
    return method(*arguments, _preload_content=False, _request_timeout=timeout, **options)


#: Statuses of an API server, or of a proxy before it, with the phrases of RFC 9110 and kubectl.
#: Python's own phrases change between versions, and runbooks search for these lines.
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
    """Returns a status with its usual phrase.

    The phrase in the answer is not used, because it is the peer's text.
    """
    return f"{code} {_PHRASES.get(code, '(no usual status)')}"


#: By status: what it means for the operator.
_REFUSALS = {
    401: messages.API_UNAUTHORIZED,
    403: messages.API_FORBIDDEN,
    404: messages.API_NOT_FOUND,
    429: messages.API_TOO_MANY,
}


def refusal(code: int) -> messages.Text:
    """Why the API server refused a request, by the status of its answer."""
    return _REFUSALS.get(code, messages.API_STATUS)(status=status_text(code))


def error_kind(error: BaseException) -> str:
    """Returns the kind of an error and its innermost reason.

    Text that a peer may have written is left out.
    """
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib3.exceptions.MaxRetryError) and isinstance(reason, BaseException):
        error = reason
    text = type(error).__name__
    # urllib3 puts the ssl module's SSLError into its own exception's arguments; others set the
    # cause.
    for inner in (error, error.__cause__, error.__context__, *error.args):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"{text}: {clause(inner.verify_message)}"
        if isinstance(inner, OSError) and inner.strerror:
            return f"{text}: {clause(inner.strerror)}"
    return text


def _is_terminating(error: ApiException) -> bool:
    """Whether the answer says that the namespace is being deleted. Such an answer may be a 403."""
    try:
        causes = json.loads(error.body or "")["details"]["causes"]
        return any(cause["reason"] == "NamespaceTerminating" for cause in causes)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def retry_after(error: ApiException) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return float(value) if re.fullmatch(r"[0-9]{1,5}", value, re.ASCII) else None
