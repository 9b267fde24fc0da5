"""What a server may do, and for whom."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from tlp_runtime.errors import ChooseAnother, InputMissing, SetOption, UsageError

DEFAULT_PORT = 8765
MIB = 2**20
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")
"""Characters that a header and an address carry unchanged (RFC 6750)."""
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server is reached, and its limits.

    Parameters
    ----------
    token
        What every request to ``/api`` and ``/v2`` must carry; required unless ``host`` is loopback.
    root
        The folder whose scans may be opened; None allows none.
    allowed_hosts
        Names, besides the obvious ones, by which the server may be addressed.
    allow_origins
        Origins of other pages that may use the API (CORS).
    max_sessions, memory_mib
        Limits of all sessions together.
    idle_s
        A session nobody used for that long is dropped.
    max_upload_mib
        Size of a request's body, as it is sent.
    max_volume_mib
        Size of one image unpacked, counted as float64.
    timeout_s
        For a body to arrive, a case to be opened, and an engine to answer.

    Raises
    ------
    UsageError
        An address that others can reach without a token, or limits that allow nothing.
    InputMissing
        A root that is not a folder.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    root: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_sessions: int = 16
    memory_mib: int = 4096
    idle_s: float = 1800.0
    max_upload_mib: int = 512
    max_volume_mib: int = 1024
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.loopback and not self.token:
            raise UsageError(
                f"others can reach the host {self.host}, so a token is required",
                fix=(
                    SetOption("token", "auto", "to have one made"),
                    "Or set TLP_TOKEN.",
                    "Or leave the host out, to serve this machine alone.",
                ),
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
