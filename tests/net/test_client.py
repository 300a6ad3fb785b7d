"""The client's side, where a race cannot be driven from outside."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from unittest.mock import Mock

from redisproxy.core.commands import builtin
from redisproxy.core.policy import make_policy
from redisproxy.core.tenants import Backend
from redisproxy.net.client import ClientProtocol
from redisproxy.net.lane import UNREACHABLE, LaneProtocol


class WallTests(unittest.TestCase):
    def test_no_scripts_on_a_lane_with_the_masters_rights(self) -> None:
        """It was leased while Redis was not known to have ACLs, and is handed over when it is."""
        client = ClientProtocol(1)
        client.factory = SimpleNamespace(policy=make_policy(builtin(), scripts=True))
        client.session = Mock()
        lane = LaneProtocol(Backend(), Mock())
        lane.transport = Mock()
        client._leased(lane)
        lane.transport.abortConnection.assert_called_once_with()
        client.session.lane_refused.assert_called_once_with(UNREACHABLE)
        client.session.lane_opened.assert_not_called()
