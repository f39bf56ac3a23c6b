"""A line on the desktop: a balloon of the notification area, shown by Windows PowerShell."""

import base64

__all__ = ["desktop_argv", "script"]

# A balloon goes with its icon, so the script waits for the one to be seen.
_SCRIPT = """
$words = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('@WORDS@'))
Add-Type -AssemblyName System.Windows.Forms
Add-Type -AssemblyName System.Drawing
$icon = New-Object System.Windows.Forms.NotifyIcon
$icon.Icon = [System.Drawing.SystemIcons]::Information
$icon.Visible = $true
$icon.ShowBalloonTip(5000, 'cmesh', $words, 'Info')
Start-Sleep -Seconds 6
$icon.Dispose()
"""


def desktop_argv(words: str) -> tuple[str, ...]:
    """Return the command that shows the words."""
    encoded = base64.b64encode(script(words).encode("utf-16-le")).decode("ascii")
    return ("powershell.exe", "-NoProfile", "-NonInteractive", "-EncodedCommand", encoded)


def script(words: str) -> str:
    """Return the script; the words stand in it in a form that has no quotes."""
    data = base64.b64encode(words.encode("utf-8")).decode("ascii")
    return _SCRIPT.replace("@WORDS@", data)
