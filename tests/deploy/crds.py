"""Schemas of the kinds that the Prometheus Operator adds to Kubernetes, with only the fields that
are used here.

No package has the operator's own schemas. These follow its API reference
(monitoring.coreos.com/v1).
"""

from __future__ import annotations


def _object(required: str = "", **properties: dict) -> dict:
    """Returns the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


_STRING = {"type": "string", "minLength": 1}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
}
_METADATA = _object("name namespace labels", name=_STRING, namespace=_STRING, labels=_STRINGS, annotations=_STRINGS)


def _kind(kind: str, spec: dict) -> dict:
    return _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )


_ENDPOINT = _object(
    "port",
    port=_STRING,
    path={"type": "string", "pattern": "^/"},
    interval=_DURATION,
    scrapeTimeout=_DURATION,
    honorLabels={"type": "boolean"},
    authorization=_object(
        "credentials", type={"const": "Bearer"}, credentials=_object("name key", name=_STRING, key=_STRING)
    ),
)

_ALERT = _object(
    "alert expr labels annotations",
    alert={"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
    expr=_STRING,
    labels=_object("severity", severity={"enum": ["critical", "warning", "info"]}),
    annotations=_object("summary description runbook_url", summary=_STRING, description=_STRING, runbook_url=_STRING),
    **{"for": _DURATION},
)

#: By (apiVersion, kind).
SCHEMAS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _kind(
        "ServiceMonitor",
        _object(
            "selector endpoints",
            selector=_object("matchLabels", matchLabels=_STRINGS),
            jobLabel=_STRING,
            endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _kind(
        "PrometheusRule",
        _object(
            "groups",
            groups={
                "type": "array",
                "minItems": 1,
                "items": _object("name rules", name=_STRING, rules={"type": "array", "minItems": 1, "items": _ALERT}),
            },
        ),
    ),
}
