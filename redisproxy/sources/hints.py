"""What a watch says has changed: hints, each of which object to read again.

Owns the bounds of what waits, and which hints are read together. Nothing of an event is kept but
the object's name.
"""

from __future__ import annotations

import threading
from collections import Counter

from ..tenants.documents import Changes

#: Changed secrets of one namespace that are remembered; past that the namespace is listed as a
#: whole.
MOST_OF_ONE = 100
#: Changes that are read in one piece before they take effect, and how many of them may be one
#: namespace's.
BATCH = 100
BATCH_PER_NAMESPACE = 10
#: Past so many secrets of one name, as when all are rotated, they are one piece, and are read in a
#: list of that name.
MANY = 100


class ChangeQueue:
    """What is said to have changed and was not read again since. Safe to be used by several
    threads.

    It is bounded, and one namespace's changes do not hold up another's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: by namespace, longest waiting first: its secrets; None among them: all of it
        self._waiting: dict[str, dict[str | None, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note(self, namespace: str, secret: str | None) -> bool:
        """Something has changed. secret: ITSELF for the namespace, None for it and all that is in
        it.

        Returns whether nothing had waited before.
        """
        with self._lock:
            first = not self._waiting
            names = self._waiting.setdefault(namespace, {})
            if secret is None or len(names) >= MOST_OF_ONE:
                self._waiting[namespace] = {None: None}
            elif None not in names:
                names[secret] = None
            return first

    def pop_batch(self) -> Changes:
        """Some of it, which is then no longer here."""
        namespaces: set[str] = set()
        secrets: set[tuple[str, str]] = set()
        with self._lock:
            for namespace in list(self._waiting):
                if len(namespaces) + len(secrets) >= BATCH:
                    break
                names = self._waiting.pop(namespace)
                if None in names:
                    namespaces.add(namespace)
                    continue
                taken = list(names)[:BATCH_PER_NAMESPACE]
                secrets.update((namespace, name) for name in taken if name is not None)
                remaining = dict.fromkeys(list(names)[BATCH_PER_NAMESPACE:])
                if remaining:
                    self._waiting[namespace] = remaining  # behind the others
            counted = Counter(name for names in self._waiting.values() for name in names)
            for many in [name for name, count in counted.items() if name is not None and count >= MANY]:
                for namespace in [namespace for namespace, names in self._waiting.items() if many in names]:
                    secrets.add((namespace, many))
                    del self._waiting[namespace][many]
                    if not self._waiting[namespace]:
                        del self._waiting[namespace]
        return Changes(frozenset(namespaces), frozenset(secrets))
