"""RESP: framing and values, pure and below everything else."""
