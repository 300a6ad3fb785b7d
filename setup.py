"""Builds the package. What is not code (dependencies, metadata, tools' settings) is in
pyproject.toml.
"""

import os

from setuptools import Extension, find_packages, setup

# Compiled from the very file that runs where there is no compiler: setuptools leaves a .py to
# Cython, and its C to build/.
framing = Extension(
    "redisproxy.resp.framing", ["redisproxy/resp/framing.py"], depends=["redisproxy/resp/framing.pxd"], optional=True
)
directives = {
    "language_level": 3,
    "annotation_typing": False,  # the types are in framing.pxd: an annotation's int is Python's
    "auto_pickle": False,
    # No index there is negative, and each is compared with the end.
    "wraparound": False,
    "boundscheck": False,
}

# The project has no public address of its own: who publishes a build names the repository that it
# is made from.
home = os.environ.get("PROJECT_URL", "").rstrip("/")
pages = {"Homepage": "", "Documentation": "/docs", "Changelog": "/CHANGELOG.md", "Security": "/SECURITY.md"}

# twisted.plugins is not a package of ours: the dropin lies in it by name, and no __init__.py may be
# there. redisproxy.runbooks has no code either: the status endpoint shows what is in docs/runbooks.
setup(
    packages=[*find_packages(include=["redisproxy", "redisproxy.*"]), "redisproxy.runbooks", "twisted.plugins"],
    package_dir={"redisproxy.runbooks": "docs/runbooks"},
    package_data={"redisproxy": ["py.typed"], "redisproxy.runbooks": ["*.md"]},
    project_urls={name: home + path for name, path in pages.items()} if home else {},
    ext_modules=[framing],
    options={"build_ext": {"cython_c_in_temp": True, "cython_directives": directives}},
)
