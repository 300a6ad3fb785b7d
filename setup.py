"""Builds the package. What is not code (dependencies, metadata, tools' settings) is in pyproject.toml."""

from setuptools import find_packages, setup

# twisted.plugins is not a package of ours: the dropin lies in it by name, and no __init__.py may be there.
setup(packages=[*find_packages(include=["redisproxy", "redisproxy.*"]), "twisted.plugins"])
