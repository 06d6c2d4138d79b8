"""The list of packages, which pyproject.toml cannot state: all under acfun/, and `pipelines/` as `acfun.pipelines`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["acfun", "acfun.*"]), "acfun.pipelines"])
