"""An authority, and certificates that it has signed: made anew for each process of tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Certificates:
    """Files in a directory. `localhost` is what the server's certificate is for, and nothing else.

    `stranger` is the certificate of an authority that has signed nothing here.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.authority, self._authority_key = self._own("authority")
        self.stranger, _ = self._own("stranger")
        self.server, self.server_key = self._signed("server", "subjectAltName=DNS:localhost")
        self.client, self.client_key = self._signed("client", "subjectAltName=DNS:ebus")

    def _own(self, name: str) -> tuple[Path, Path]:
        certificate, key = self._files(name)
        self._run(
            "req", "-x509", *_KEY, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}"
        )
        return certificate, key

    def _signed(self, name: str, extension: str) -> tuple[Path, Path]:
        certificate, key = self._files(name)
        request = self._directory / f"{name}.csr"
        self._run("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(extension)
        by = ("-CA", self.authority, "-CAkey", self._authority_key, "-CAcreateserial")
        self._run("x509", "-req", "-in", request, *by, "-out", certificate, "-extfile", extensions)
        return certificate, key

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    @staticmethod
    def _run(*arguments: object) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("openssl is not installed, which makes the certificates")
        subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
