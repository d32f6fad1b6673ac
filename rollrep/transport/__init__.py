"""Streams to a source: a child process here, or a command over SSH there.

One small interface, `open_stream(address, options) -> Stream`; what flows through is not known here.
"""

from __future__ import annotations

import dataclasses

from rollrep.transport.base import Address, Options, Stream

__all__ = ["Address", "Options", "Stream", "open_stream"]


def open_stream(address: Address, options: Options) -> Stream:
    """A stream to one `rollrep source serve`: a child process if the address names no host, else over SSH.

    Raises UsageError, LoginRefused, HostKeyRefused, or Temporary when trying again may help.
    """
    if options.bandwidth is not None:
        from rollrep.transport.paced import WINDOW_S, PacedStream

        window = min(options.window_bytes, int(options.bandwidth * WINDOW_S))
        slow = dataclasses.replace(options, bandwidth=None, window_bytes=window)
        return PacedStream(open_stream(address, slow), options.bandwidth)
    # Imported late: paramiko takes 0.1 s and more to load, and the source's side never needs it.
    if address.host is None:
        from rollrep.transport.local import open_local

        return open_local(address, options)
    from rollrep.transport.ssh import open_ssh

    return open_ssh(address, options)
