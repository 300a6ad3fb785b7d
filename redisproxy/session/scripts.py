r"""Scripts that publish: which scripts these are, and what Redis gets instead of their text.

Owns the Lua code that goes before such a text, and the SHA under which Redis knows the result. In
Redis, a tenant's channels have its prefix, but a script names them without. So the script gets a
local `redis`, whose functions put the prefix before the channel of PUBLISH and SPUBLISH.

This is a convenience, not a limit. A script can reach the global `redis` (``_G.redis``), and then
it names the channels itself. The tenant's ACL user decides which channels it may use.

Whether a text is rewritten depends on the text alone. So all processes and replicas of the proxy
decide alike, and Redis never knows a publishing script under the SHA that the client uses.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from .. import bounds

#: For bytes.translate: makes letters small.
_LOWER = bytes(range(256)).lower()
#: White space in Lua.
_BLANKS = b" \t\n\v\f\r"
#: A byte of a prefix that is escaped in a string of Lua.
_ESCAPED = re.compile(rb"[^a-z0-9:-]")
#: Stands for the prefix in _LUA.
_PREFIX = b"PREFIX"
# This becomes one line, because errors name a script's lines. An error of redis.call is raised in a
# function of the line that called it, because Redis takes the line from the place of the raise. If
# the call was a tail call (`return redis.call(…)`), Lua does not know that line any more. Redis
# before 7 raises strings, not tables. A number becomes the text that Redis makes of it. `publishes`
# remembers each name, because a script may call redis.call very often.
_LUA = r"""
local redis=(function(redis,prefix)
  local type,select,error,pcall,string,load=type,select,error,pcall,string,rawget(_G,'loadstring')
  local try,tables=redis.pcall,redis.REDIS_VERSION
  local publishes=setmetatable({},{__index=function(known,name)
    if type(name)~='string' then return false end
    known[name]=string.find(string.upper(name),'^S?PUBLISH$')~=nil
    return known[name]
  end})
  local function own(name,channel,...)
    if type(channel)=='number' then channel=string.format('%.17g',channel) end
    if type(channel)=='string' then channel=prefix..channel end
    return name,channel,...
  end
  local function prefixed(command)
    return function(...)
      if publishes[(...)] and select('#',...)>1 then return command(own(...)) end
      return command(...)
    end
  end
  local function call(...)
    local result
    if publishes[(...)] and select('#',...)>1 then result=try(own(...)) else result=try(...) end
    if type(result)=='table' and result.err then
      local what=tables and result or result.err
      local line=string.match(select(2,pcall(error,'',3)),'^user_script:(%d+): ')
      if line and load then
        load(string.rep('\n',line-1)..'local error,what=... error(what,0)','@user_script')(error,what)
      end
      error(what,0)
    end
    return result
  end
  local names={call=call,pcall=prefixed(try)}
  if redis.acl_check_cmd then names.acl_check_cmd=prefixed(redis.acl_check_cmd) end
  return setmetatable({},{__index=setmetatable(names,{__index=redis}),__newindex=redis})
end)(redis,'PREFIX');
"""
_BEFORE = " ".join(_LUA.split()).encode() + b" "
_BEGINNING = _BEFORE[:32]
#: Valkey's other name of `redis`. Only for texts that contain it: each local name counts towards
#: the 200 that Lua allows.
_SERVER = b"local server=rawget(_G,'server') and redis; "


def publishes(text: bytes) -> bool:
    """Returns whether a script may publish, by its text.

    True also if a command's name comes straight from the client's arguments: Redisson gives PUBLISH
    so. False for a script that puts the name together, or reads it from a key.
    """
    packed = text.translate(_LOWER, _BLANKS)
    return b"publish" in packed or b"call(argv" in packed or b"call(unpack(argv" in packed


def sha(text: bytes) -> bytes:
    """Returns the SHA of a script as Redis says it: SHA-1, in lower case."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def without_prelude(text: bytes) -> bytes:
    """Returns what Redis has logged of a script, or of an argument of another command, without the
    code that the proxy put before it. Redis logs no more than the beginning of a long text.
    """
    at = text.find(b"\n") + 1 if text.startswith(b"#!") else 0
    return text[:at] + b"..." if text.startswith(_BEGINNING, at) else text


class Rewritten(NamedTuple):
    """A script that publishes. text: as Redis gets it; sha: of the client's text; sha_in_redis: of
    the text that Redis gets.
    """

    text: bytes
    sha: bytes
    sha_in_redis: bytes


class Scripts:
    """The scripts of one tenant that publish, as far as this process knows them.

    prefix: of the tenant's channels.
    """

    __slots__ = ("_before", "known")

    def __init__(self, prefix: bytes) -> None:
        self._before = _BEFORE.replace(_PREFIX, _ESCAPED.sub(lambda found: b"\\%03d" % found[0][0], prefix))
        #: SHA in Redis by SHA of the client's text, in lower case; the one used last is the last
        self.known: dict[bytes, bytes] = {}

    def rewrite(self, text: bytes) -> Rewritten:
        """Returns the script for Redis, and remembers its SHAs."""
        before = self._before + _SERVER if b"server" in text else self._before
        first, newline, rest = text.partition(b"\n") if text.startswith(b"#!") else (b"", b"", text)
        # The line of a shebang stands alone. Without further lines there is no code.
        text_in_redis = first + newline + before + rest if newline or not first else text
        name = sha(text)
        found = Rewritten(text_in_redis, name, self.known.pop(name, b"") or sha(text_in_redis))
        self.known[name] = found.sha_in_redis
        if len(self.known) > bounds.PUBLISHING_SCRIPTS:
            del self.known[next(iter(self.known))]
        return found

    def in_redis(self, name: bytes) -> bytes:
        """Returns the SHA in Redis for a client's SHA: the same one for scripts that it does not
        know.
        """
        name_lower = name.lower()
        found = self.known.pop(name_lower, b"")
        if not found:
            return name
        self.known[name_lower] = found
        return found

    def original(self, reply: bytes) -> bytes:
        """Returns the reply to SCRIPT SHOW with the client's text.

        reply: whole; one that has another text, or is an error, is returned as it is.
        """
        header, _, rest = reply.partition(b"\r\n")
        text = rest[:-2]
        at = text.find(b"\n") + 1 if text.startswith(b"#!") else 0
        if not header.startswith(b"$") or not text.startswith(self._before, at):
            return reply
        after = at + len(self._before)
        if text.startswith(_SERVER, after):
            after += len(_SERVER)
        text = text[:at] + text[after:]
        return b"$%d\r\n%b\r\n" % (len(text), text)
