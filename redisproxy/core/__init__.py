"""The pure core: RESP framing, policy, sessions, tenants. No Twisted, no kubernetes, no clock, no socket."""
