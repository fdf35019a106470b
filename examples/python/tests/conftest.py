# SPDX-License-Identifier: MIT
"""What the tests share.  ctest python.pytest sets the paths; by hand:
  PYTHONPATH=build/python DSV4_SOURCE_DIR=. DSV4_CLI=build/dsv4 python -m pytest examples/python/tests"""
import os
import pathlib

import pytest

import dsv4

SOURCE = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[3]))
DATA = SOURCE / "reference_tests" / "data"
PROMPT = [0, 305, 17, 42, 99, 256, 7, 300, 11]


@pytest.fixture(scope="session")
def checkpoint():
    return dsv4.Checkpoint.open(dsv4.embedded_model())


@pytest.fixture(scope="session")
def tokenizer():
    return dsv4.Tokenizer.load(dsv4.embedded_model())


@pytest.fixture(scope="session")
def model(checkpoint):
    return dsv4.Model(checkpoint, threads=1)


@pytest.fixture(scope="session")
def cli():
    """The command line, whose results the module's must be."""
    program = os.environ.get("DSV4_CLI")
    if not program or not pathlib.Path(program).exists():
        pytest.skip("DSV4_CLI names no program")
    return program
