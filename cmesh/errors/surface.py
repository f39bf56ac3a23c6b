"""What a command that looks at cmesh itself ends with."""

from cmesh.errors.base import CmeshError

__all__ = ["DemoFailed", "DoctorProblem", "DoctorWarning"]


class DoctorWarning(CmeshError):
    """Raised when `cmesh doctor` found something to mend, and nothing that does not work."""

    code = "doctor_warning"
    exit_status = 90
    default_hint = "`cmesh doctor` has the next step beside each finding"


class DoctorProblem(CmeshError):
    """Raised when `cmesh doctor` found something that does not work, or lets others in."""

    code = "doctor_problem"
    exit_status = 91
    default_hint = "`cmesh doctor` has the next step beside each finding"


class DemoFailed(CmeshError):
    """Raised when something that the demo shows did not happen."""

    code = "demo_failed"
    default_hint = "this is a bug of cmesh or of this machine's set-up; the logs say more"
