"""INFO as a tenant may read it.

Owns which sections Redis is asked for, which fields of them a tenant gets, and which of these
fields have the tenant's own number instead of Redis's. A tenant gets fields about the server itself
and about its own database. Only fields that are known to be harmless pass: a section or field of a
newer server stays out until it is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..resp import info
from ..resp.value import Answer

#: Fields that pass, by section: a regular expression for the whole name.
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
    r"instantaneous_ops_per_sec|instantaneous_input_kbps|instantaneous_output_kbps|"
    r"pubsub_channels|pubsub_patterns|pubsubshard_channels",
    "replication": r"role",
    "cluster": r"cluster_enabled",
}


#: Fields in which Redis counts all tenants together. They pass only with the tenant's own number.
CLIENT_STATS = (
    "connected_clients",
    "blocked_clients",
    "pubsub_clients",
    "total_connections_received",
    "total_commands_processed",
    "total_net_input_bytes",
    "total_net_output_bytes",
    "instantaneous_ops_per_sec",
    "instantaneous_input_kbps",
    "instantaneous_output_kbps",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
)


#: The sections that Redis is asked for, in Redis's own order. The size of each has a bound. Other
#: sections have none: the scripts of one tenant can make any number of lines of ``errorstats``, and
#: then INFO failed for all tenants when it asked for that section.
SECTIONS = (*_FIELDS, "keyspace")
#: Arguments of INFO that stand for many sections, SECTIONS among them.
_ALL = frozenset((b"default", b"all", b"everything"))


def sections(words: Iterable[bytes]) -> list[bytes]:
    """Returns the names of SECTIONS that an INFO with these arguments asks for.

    Redis gets a separate INFO for each: before version 7, INFO takes only one section.
    """
    asked = {word.lower() for word in words} or _ALL
    return [name.encode() for name in SECTIONS if asked & _ALL or name.encode() in asked]


def tenants_info(answers: Iterable[Answer], index: int, stats: Mapping[str, float]) -> bytes:
    """Returns what a tenant may see of Redis's answers to INFO.

    answers: one for each section; index: the tenant's database index; stats: the tenant's own
    numbers, one for each of CLIENT_STATS.
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
