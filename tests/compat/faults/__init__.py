"""Client libraries while something fails: what an application sees, directly and through the proxy.

Reading order: `events` (what a client program prints, and what follows from it), `table` (results
as text), `deployments` (Redis, with or without proxies before it), `faults` (what fails),
`libraries` (how each client program is installed and started). `../run-faults` is the command.
"""
