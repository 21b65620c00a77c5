"""Errors that reach a user: one clear line that says what to do, and the exit code it ends with."""

from __future__ import annotations


class CompressError(Exception):
    """Base of every error this package raises on purpose. The message is one line for the user."""

    exit_code = 3


class UsageError(CompressError):
    """The call itself is wrong: an unknown option value, missing or mismatching user data."""

    exit_code = 2


class ModelError(CompressError):
    """The model cannot be read or is not supported; the message says what to do about it."""

    exit_code = 3


class DeviceError(CompressError):
    """The device, its runtime or a measurement failed."""

    exit_code = 5
