"""Builds the package. What is not code (dependencies, metadata, tools' settings) is in pyproject.toml."""

from setuptools import Extension, find_packages, setup

# Compiled from the very file that runs where there is no compiler: setuptools leaves a .py to Cython, and its C to build/.
framing = Extension("redisproxy.core.resp", ["redisproxy/core/resp.py"], depends=["redisproxy/core/resp.pxd"], optional=True)
directives = {
    "language_level": 3,
    "annotation_typing": False,  # the types are in resp.pxd: an annotation's int is Python's
    "auto_pickle": False,
    # No index there is negative, and each is compared with the end.
    "wraparound": False,
    "boundscheck": False,
}

# twisted.plugins is not a package of ours: the dropin lies in it by name, and no __init__.py may be there.
setup(
    packages=[*find_packages(include=["redisproxy", "redisproxy.*"]), "twisted.plugins"],
    ext_modules=[framing],
    options={"build_ext": {"cython_c_in_temp": True, "cython_directives": directives}},
)
