"""What only an installed package can show. `scripts/wheel-test` runs this among the tests, outside the checkout."""

import os
import subprocess
import sys
import sysconfig

import pytest

import jwks_server

INSTALLED = os.path.join(os.path.realpath(sysconfig.get_path("purelib")), "jwks_server", "__init__.py")


def test_tests_import_the_installed_package() -> None:
    """Not a checkout that lies in the working folder or on PYTHONPATH."""
    assert os.path.realpath(str(jwks_server.__file__)) == INSTALLED


def test_processes_that_tests_start_import_it_too() -> None:
    """They look in the working folder first."""
    program = "import os, jwks_server; print(os.path.realpath(jwks_server.__file__))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == INSTALLED


def test_type_checkers_find_its_types() -> None:
    """PEP 561's marker is no code, and a wheel can lack it."""
    assert os.path.isfile(os.path.join(os.path.dirname(INSTALLED), "py.typed"))


@pytest.mark.parametrize(
    "path", ["systemd/system/jwks-server.service", "sysusers.d/jwks-server.conf", "tmpfiles.d/jwks-server.conf"]
)
def test_what_systemd_reads_lies_where_the_deployment_guide_copies_it_from(path: str) -> None:
    """In lib/ of the virtual environment."""
    assert os.path.isfile(os.path.join(sys.prefix, "lib", path))
