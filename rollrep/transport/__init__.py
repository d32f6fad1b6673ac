"""Streams to a source: a child process here, or a command over SSH there.

One small interface, `open_stream(address, options) -> Stream`; what flows through is not known here.
"""

from __future__ import annotations

from rollrep.transport.base import Address, Options, Stream

__all__ = ["Address", "Options", "Stream", "open_stream"]


def open_stream(address: Address, options: Options) -> Stream:
    """A stream to one `rollrep source serve`: a child process if the address names no host, else over SSH.

    Raises UsageError, LoginRefused, HostKeyRefused, or Temporary when trying again may help.
    """
    # Imported late: paramiko takes 0.1 s and more to load, and the source's side never needs it.
    if address.host is None:
        from rollrep.transport.local import open_local

        return open_local(address, options)
    from rollrep.transport.ssh import open_ssh

    return open_ssh(address, options)
