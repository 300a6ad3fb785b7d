"""Marks that do not belong together."""

from __future__ import annotations

#: Two marks in a row, as where another's text, with a full stop of its own, stands within a
#: sentence of ours.
DOUBLED = r"(?<!\.)(?:\.\.|\.[;:,]|[?!;:,][.;:,])(?![^\s\"])"
