"""What the machines' tests have, here too."""

from tests.system.daemon.conftest import anyio_backend, ground, testnet

__all__ = ["anyio_backend", "ground", "testnet"]
