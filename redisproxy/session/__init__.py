"""A client's session: order, routing, answers. Pure."""
