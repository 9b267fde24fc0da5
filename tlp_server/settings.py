"""What a server may do, and for whom."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tlp_runtime.errors import ChooseAnother, InputMissing, SetOption, UsageError
from tlp_runtime.options import OptionGroup, option

MIB = 2**20
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")
"""Characters that a header and an address carry unchanged (RFC 6750)."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Settings(OptionGroup):
    """How the server is reached, and its limits. Valid once constructed.

    Parameters
    ----------
    root
        Folder whose scans may be opened; by default none.
    host
        Address to serve on; any other than loopback requires a token.
    port
        Port to serve on; 0 takes any that is free.
    token
        Token that every request to the API must carry; auto makes one.
    token_file
        File that holds the token, in place of the token itself.
    no_token
        Ask for no token: every account of this machine can read the scans and draw.
    allowed_hosts
        Another name by which the server may be addressed, such as a proxy's; several may be given.
    allow_origins
        Origin of another page that may use the API (CORS); several may be given.
    max_sessions
        Most cases that are open at once.
    memory_mib
        Most memory of the process, in MiB: the model, open cases and requests under way.
    idle_s
        Seconds after which a case that nobody uses is closed.
    max_upload_mib
        Largest request as it is sent, in MiB.
    max_volume_mib
        Largest image in memory, counted as float64, in MiB.
    timeout_s
        Seconds that a request may take to arrive, a case to open, an engine to answer.

    Raises
    ------
    UsageError
        An address that others can reach without a token, or limits that allow nothing.
    InputMissing
        A root that is not a folder, or a token file that is not there.
    """

    TITLE: ClassVar[str] = "Server"
    ENVIRONMENT: ClassVar[bool] = True

    root: Path | None = option(None, metavar="DIR")
    host: str = option("127.0.0.1")
    port: int = option(8765, minimum=0, maximum=65535)
    token: str | None = option(None)
    token_file: Path | None = option(None, metavar="FILE")
    no_token: bool = option(False)
    allowed_hosts: tuple[str, ...] = option((), name="allowed_host")
    allow_origins: tuple[str, ...] = option((), name="allow_origin")
    max_sessions: int = option(16, minimum=1)
    memory_mib: int = option(4096, minimum=1, name="memory", metavar="MIB")
    idle_s: float = option(1800.0, minimum=1, name="idle", metavar="S")
    max_upload_mib: int = option(512, minimum=1, name="max_upload", metavar="MIB")
    max_volume_mib: int = option(1024, minimum=1, name="max_volume", metavar="MIB")
    timeout_s: float = option(60.0, minimum=0.1, name="timeout", metavar="S")

    def __post_init__(self) -> None:
        super().__post_init__()
        # What is served differs from what was written: a token made or read, lower-case names.
        object.__setattr__(self, "token", self._own_token())
        names = tuple(name.lower() for name in self.allowed_hosts)
        object.__setattr__(self, "allowed_hosts", names)
        if not self.loopback and not self.token:
            raise UsageError(
                f"others can reach the host {self.host}, so a token is required",
                fix="Leave no_token out, or the host, to serve this machine alone.",
            )
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise UsageError(
                "the token: expected 16 characters at least, of A-Z a-z 0-9 - . _ ~ + / and = at "
                "the end, such as base64 has",
                fix=SetOption("token", "auto", "to have one made"),
            )
        if self.root is not None and not self.root.is_dir():
            raise InputMissing(
                f"{self.root}: does not exist or is not a folder", fix=ChooseAnother("root", "root")
            )

    def _own_token(self) -> str | None:
        given = [name for name in ("token", "token_file", "no_token") if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} were given; choose one of them.")
        if self.no_token:
            return None
        if self.token_file is None:
            made = self.token in (None, "auto")
            return secrets.token_urlsafe(24) if made else self.token
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputMissing(
                f"{self.token_file}: the token cannot be read from it ({error}).",
                fix=ChooseAnother("token_file", "file"),
            ) from error

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can reach the server."""
        return self.host in _LOOPBACK_NAMES or _is_loopback(self.host)

    @property
    def max_body(self) -> int:
        """Bytes of a request."""
        return self.max_upload_mib * MIB

    @property
    def max_volume(self) -> int:
        """Bytes of an image in memory."""
        return self.max_volume_mib * MIB

    def allows_host(self, name: str) -> bool:
        """Whether a request may name the server so.

        A page of another site can make its own name mean this machine's address (DNS rebinding),
        but it cannot claim a literal address, or a name that is not its own.

        Parameters
        ----------
        name
            From the Host header, without port; lower case.
        """
        if name in (*self.allowed_hosts, self.host, *_LOOPBACK_NAMES):
            return True
        if self.loopback:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (socket.gethostname().lower(), socket.getfqdn().lower())
        return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
