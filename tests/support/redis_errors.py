"""Errors of real servers, sorted by how the proxy has to react: wait and ask again, or do
without.
"""

from __future__ import annotations

#: Temporary errors of Redis and Valkey, as in their sources. ODD: errors that the proxy does not
#: know.
PASSING = (
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "LOADING Redis is loading the dataset in memory",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
)
ODD = (
    "ERR this plan does not include administrative commands",
    "ERR max number of clients reached",
    "SOMETHING else",
    "ERR Error in ACL SETUSER modifier '+get': Unknown command or category name in ACL",
    "",
)
#: Answers of Redis 5.0, 6.0, 6.2, 7.0 to 8.2 and Valkey to a command that they do not have.
ABSENT = (
    "ERR unknown command `ACL`, with args beginning with: `SETUSER`, `redisproxy:probe`, `off`, `resetchannels`, `-@all`, ",
    "ERR unknown command 'CONFIG', with args beginning with: 'GET' 'databases' ",
    "ERR unknown command 'CONFIG'",
    "ERR Unknown subcommand or wrong number of arguments for 'SETUSER'. Try ACL HELP.",
    "ERR unknown subcommand 'SETUSER'. Try ACL HELP.",
    "ERR Error in ACL SETUSER modifier 'resetchannels': Syntax error",
    "ERR Error in ACL SETUSER modifier 'resetdbs': Syntax error",
)
FORBIDDEN = (
    "NOPERM this user has no permissions to run the 'acl' command or its subcommand",
    "NOPERM User proxy has no permissions to run the 'acl|setuser' command",
)
