"""Errors of the configuration, of the wizard that writes it, and of the settings of agents."""

from cmesh.errors.base import CmeshError

__all__ = [
    "ConfigError",
    "EntryTaken",
    "PlanGone",
    "SettingsChanged",
    "SetupBusy",
    "UnsafePermissions",
]


class ConfigError(CmeshError):
    """Raised when the configuration cannot be used; names file, line and key."""

    code = "bad_config"
    exit_status = 10
    default_hint = "edit the file, then `cmesh policy show`"


class UnsafePermissions(ConfigError):
    """Raised when a file that grants authority is writable or owned by others."""

    code = "unsafe_permissions"
    exit_status = 11
    default_hint = "make the file yours and writable by you alone (chmod go-w)"


class SetupBusy(ConfigError):
    """Raised when another wizard has a change that waits for its person."""

    code = "setup_busy"
    exit_status = 12
    default_hint = "run `cmesh confirm` in a terminal of your own: answer it there, yes or no"


class PlanGone(ConfigError):
    """Raised when the change of a confirmation waits no more, or is not the one that was shown."""

    code = "plan_gone"
    exit_status = 13
    default_hint = "make the step again: `setup_step`, or `cmesh setup`"


class SettingsChanged(ConfigError):
    """Raised when another program wrote a settings file while cmesh was about to change it."""

    code = "settings_changed"
    exit_status = 14
    default_hint = "repeat it; if that does not help, close the agent first"


class EntryTaken(ConfigError):
    """Raised when another MCP server has cmesh's name in an agent's settings; it stays."""

    code = "entry_taken"
    exit_status = 15
    default_hint = "rename or remove that entry, then repeat"
