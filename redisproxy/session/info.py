"""INFO as a tenant may read it.

Owns which sections Redis is asked for, and which lines of its answers pass: what is about the
server as such, and the own database; and which have the tenant's own number instead of Redis's.
What is not known to be harmless does not pass: a section or field of a newer server stays out until
it is named here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..resp import info
from ..resp.value import Answer

#: Fields that pass, by section, as patterns for the whole name.
_FIELDS = {
    "server": r"redis_version|valkey_version|valkey_release_stage|server_name|redis_mode|server_mode|redis_build_id|os|"
    r"arch_bits|monotonic_clock|multiplexing_api|atomicvar_api|gcc_version|process_supervised|server_time_usec|"
    r"uptime_in_seconds|uptime_in_days|hz|configured_hz|lru_clock|io_threads_active",
    "clients": r"maxclients|connected_clients|blocked_clients|pubsub_clients",
    "memory": r"used_memory|used_memory_human|used_memory_rss|used_memory_rss_human|used_memory_peak|"
    r"used_memory_peak_human|maxmemory|maxmemory_human|maxmemory_policy|mem_fragmentation_ratio|mem_allocator|"
    r"total_system_memory|total_system_memory_human",
    "persistence": r"loading|rdb_bgsave_in_progress|aof_enabled|aof_rewrite_in_progress|async_loading",
    "stats": r"total_connections_received|total_commands_processed|total_net_input_bytes|total_net_output_bytes|"
    r"pubsub_channels|pubsub_patterns|pubsubshard_channels",
    "replication": r"role",
    "cluster": r"cluster_enabled",
}


#: Fields that count all that Redis does: they pass with the tenant's own number, or not at all.
CLIENT_STATS = (
    "connected_clients",
    "blocked_clients",
    "pubsub_clients",
    "total_connections_received",
    "total_commands_processed",
    "total_net_input_bytes",
    "total_net_output_bytes",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
)


#: The sections that Redis is asked for, in Redis's own order. All of them are of a bounded size.
#: Others are not: scripts of one tenant make as many lines of ``errorstats`` as they like, and all
#: tenants' INFO failed when it was asked for.
SECTIONS = (*_FIELDS, "keyspace")
#: Words that stand for many sections, SECTIONS among them.
_ALL = frozenset((b"default", b"all", b"everything"))


def sections(words: Iterable[bytes]) -> list[bytes]:
    """Which of SECTIONS an INFO with these arguments asks for. Each takes an INFO of its own: Redis
    before 7 takes one.
    """
    asked = {word.lower() for word in words} or _ALL
    return [name.encode() for name in SECTIONS if asked & _ALL or name.encode() in asked]


def tenants_info(answers: Iterable[Answer], index: int, stats: Mapping[str, int]) -> bytes:
    """Redis's answers to INFO, one for each section, cut to what a tenant may know.

    index: of its database; figures: the tenant's own, each of FIGURES.
    """
    text = "\r\n".join(answer.decode("utf-8", "replace") for answer in answers if isinstance(answer, bytes))
    fields = {**_FIELDS, "keyspace": f"db{index}"}
    shown: list[str] = []
    for section in info.sections(text):
        if section.name not in fields:
            continue
        lines = [
            f"{name}:{stats[name] if name in CLIENT_STATS else value}"
            for name, value in section.fields
            if re.fullmatch(fields[section.name], name)
        ]
        if lines or section.name == "keyspace":
            shown.append("\r\n".join([section.heading, *lines, ""]))
    return "\r\n".join(shown).encode()
