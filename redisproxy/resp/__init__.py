"""The RESP protocol: framing and values. Pure, and below all other rooms."""
