"""This node's own stable id, kept in the state directory: tasks need it before the node is up."""

from pathlib import Path

from cmesh.model import NodeId

__all__ = ["read_node_id", "write_node_id"]


def read_node_id(state_dir: Path) -> NodeId:
    """Return the id; empty when the node was never up."""
    try:
        return NodeId((state_dir / "node_id").read_text("utf-8").strip())
    except FileNotFoundError:
        return NodeId("")


def write_node_id(state_dir: Path, node_id: NodeId) -> None:
    """Keep the id."""
    incoming = state_dir / "node_id.new"
    incoming.write_text(node_id, "utf-8")
    incoming.replace(state_dir / "node_id")
