"""Listens for clients, once, at the first snapshot.

Owns what is logged then, and whether the ports listen. `listen.endpoints` owns the ports, which
were bound at the start.
"""

from __future__ import annotations

from .. import messages
from ..listen.endpoints import ListenError, Listening
from ..net.addresses import shown_address
from ..ops.logs import Log


class Opening:
    """The ports for clients, from the start to the first snapshot."""

    _log = Log()

    def __init__(self, listening: Listening) -> None:
        self._listening = listening
        self.listens = False

    def listen(self) -> bool:
        """Listens, and logs the addresses. Returns False, and logs why, if a port cannot be opened
        any more: the proxy has to end.
        """
        try:
            self._listening.listen()
        except ListenError as error:
            self._log.write(messages.CANNOT_LISTEN, error=str(error))
            return False
        self.listens = True
        for address in self._listening.addresses:
            self._log.write(messages.LISTENING, address=shown_address(address))
        return True
