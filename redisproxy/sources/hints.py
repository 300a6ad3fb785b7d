"""The queue of hints from watches: names of objects that have changed and must be read again.

Owns the bounds of that queue, and which objects are read together. Must not keep anything of an
event but the object's name.
"""

from __future__ import annotations

import threading
from collections import Counter

from ..tenants.documents import Changes

#: Changed secrets that are remembered for one namespace. With more, all secrets of the namespace
#: are listed.
MOST_OF_ONE = 100
#: Changes that are read together before they take effect. The second number is the most of them
#: that one namespace may have.
BATCH = 100
BATCH_PER_NAMESPACE = 10
#: If at least this many secrets with one name wait, as after a rotation of all, they are read
#: together: one list of all secrets with that name.
MANY = 100


class ChangeQueue:
    """The objects that have changed and were not read again yet. Safe to use from several threads.

    The queue is bounded. Changes in one namespace do not delay those in another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: by namespace, longest waiting first: names of its secrets; None stands for the whole
        #: namespace
        self._waiting: dict[str, dict[str | None, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note(self, namespace: str, secret: str | None) -> bool:
        """Adds a change. Returns whether the queue was empty before.

        secret: the name of the secret; ITSELF for the namespace object alone; None for the
        namespace and all its secrets.
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
        """Removes and returns the changes to read next, about BATCH of them.

        If MANY or more of the remaining changes have one secret's name, all these are returned too.
        """
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
