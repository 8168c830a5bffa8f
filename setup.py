"""Which packages there are; all else about the project stands in pyproject.toml.

The folder `cluster` is installed as `distgrad.cluster`: a top-level package of that name would be shadowed by any
`cluster.py` of a user. Setuptools can find packages or map folders from pyproject.toml, but not both at once.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["distgrad", "distgrad.*"]), "distgrad.cluster"],
    package_dir={"distgrad.cluster": "cluster"},
)
