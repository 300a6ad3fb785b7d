"""Pauses a tenant, and ends its pause: the annotation of its Namespace.

Owns what is checked before, and what the operator has to do by hand with manifests.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..sources.kubernetes import ClusterSource
from ..sources.namespace_writer import annotate
from ..tenants import allocation
from ..tenants.allocation import Refused
from ..tenants.limits import PAUSED, read_paused
from .inspect import Operator, State, resolve


@dataclass(frozen=True)
class Paused:
    """What was written, or would be in a dry run.

    paused: whether the namespace is paused now; changed: whether that was not so before; notes:
    further lines for the operator.
    """

    namespace: str
    paused: bool
    changed: bool
    notes: tuple[str, ...] = ()


async def set_paused(operator: Operator, namespace: str, paused: bool, dry_run: bool) -> Paused:
    """Pauses a namespace's tenant, or ends its pause. Raises Refused and WriteError."""
    allocation.must_have_prefix(namespace, operator.settings.ns_prefix)
    if not dry_run and not isinstance(operator.source, ClusterSource):
        raise Refused(f"this command does not write to {operator.source}: {_by_hand(namespace, paused)}")
    reading = await operator.read()
    found = {one.name: one for one in allocation.must_be_read(reading.namespaces)}
    if namespace not in found:
        raise Refused(f"there is no namespace {namespace} in {operator.source}")
    annotations = found[namespace].annotations
    before, malformed = read_paused(annotations)
    changed = before != paused or bool(malformed)
    notes: tuple[str, ...] = ()
    views = {view.namespace: view for view in resolve(operator, reading, None).namespaces}
    if paused and views[namespace].state in (State.NOT_ENROLLED, State.KEPT_OUT):
        notes += (f"{namespace} is not served: the pause has an effect once it is",)
    if isinstance(operator.source, ClusterSource):
        if changed and not dry_run:
            value = "true" if paused else None
            await operator.in_thread(annotate, operator.source.api, namespace, PAUSED, value)
    else:
        notes += (_by_hand(namespace, paused),)
    return Paused(namespace, paused, changed, notes)


def _by_hand(namespace: str, paused: bool) -> str:
    if paused:
        return f'in the Namespace {namespace}, add {PAUSED}: "true" to metadata.annotations'
    return f"in the Namespace {namespace}, remove {PAUSED} from metadata.annotations"
