"""Tests what the whole proxy does with its process."""

from __future__ import annotations

import gc
import subprocess
import sys

from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from redisproxy.processes.os_process import SWITCH_INTERVAL
from redisproxy.service import ProxyService
from redisproxy.settings import Settings
from redisproxy.tenants.model import Snapshot


class ProcessTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.addCleanup(gc.unfreeze)
        self.proxy = ProxyService(Settings(ns_prefix="team-", watch=False), MemoryReactorClock())

    def test_the_first_snapshot_is_taken_from_the_garbage_collector_and_no_other(self) -> None:
        gc.unfreeze()
        for frozen in (True, False):
            for listener in list(self.proxy.serving.on_snapshot):
                listener(Snapshot(None, []))
            self.assertEqual(bool(gc.get_freeze_count()), frozen)
            gc.unfreeze()

    def test_where_there_is_no_cluster_its_client_is_not_loaded(self) -> None:
        program = """if True:
            import sys
            from pathlib import Path
            from twisted.internet.testing import MemoryReactorClock
            from redisproxy.service import ProxyService
            from redisproxy.settings import Settings
            ProxyService(Settings(ns_prefix="team-", manifests=Path(".")), MemoryReactorClock())
            print("kubernetes" in sys.modules)"""
        self.assertEqual(subprocess.check_output([sys.executable, "-c", program]), b"False\n")

    def test_no_other_thread_keeps_the_reactor_waiting_for_long(self) -> None:
        self.proxy.reading.disownServiceParent()  # it would read the Kubernetes API
        self.proxy.startService()
        self.assertAlmostEqual(sys.getswitchinterval(), SWITCH_INTERVAL)
        return self.proxy.stopService()
