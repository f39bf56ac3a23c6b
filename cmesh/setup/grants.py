"""What to paste into a tailnet's policy file so that two machines reach each other. Pure."""

from cmesh.link.tailnet import PORT

__all__ = ["snippet"]

_SNIPPET = """\
// Into `grants` of your tailnet's policy file (Tailscale: Access controls; Headscale: its policy
// file). Where the file lets all your devices reach each other, as a new tailnet's does, nothing is
// needed. cmesh needs one TCP port of the machine that works, and no port of the one that asks.

// Your own devices among each other:
{ "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:@PORT@"] },

// Or a group and tagged machines; the second part is what a worker's rule with
// `peers = ["grant:ask"]` looks for, and may narrow it:
{
  "src": ["group:dev"],
  "dst": ["tag:build"],
  "ip":  ["tcp:@PORT@"],
  "app": { "cmesh.dev/cap/ask": [ { "profiles": ["query"], "paths": ["/srv/myapp"] } ] }
},
"""


def snippet() -> str:
    """Return the lines, with the port that cmesh listens on."""
    return _SNIPPET.replace("@PORT@", str(PORT))
