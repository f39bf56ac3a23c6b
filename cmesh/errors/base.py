"""What every error of cmesh has: its code, its exit status, a hint; and the one for mistaken calls."""

from typing import ClassVar

__all__ = ["CmeshError", "UsageError"]


class CmeshError(Exception):
    """Raised for any failure cmesh explains to its user.

    Attributes:
        code: stable snake_case name; on the wire, in `--json`, in audit rows.
        exit_status: what the CLI exits with.
        hint: the default next step, one literal command or sentence.
        retry_after_s: seconds after which the same may be asked again; None = not known,
            or time alone does not help.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = "run `cmesh status`; the daemon's log has the details"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.retry_after_s = retry_after_s


class UsageError(CmeshError):
    """Raised when a call's arguments are not of the command's form."""

    code = "bad_arguments"
    exit_status = 2
    default_hint = "see `cmesh --help`"
