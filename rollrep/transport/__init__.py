"""Streams to a source: a child process here, or a command over SSH there.

One small interface, `open_stream(address, options) -> Stream`; what flows through is not known here.
"""
