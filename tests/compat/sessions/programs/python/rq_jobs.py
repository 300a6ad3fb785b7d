"""The jobs of the RQ worker."""


def add(one: int, other: int) -> int:
    return one + other


def fails() -> None:
    raise ValueError("no")
