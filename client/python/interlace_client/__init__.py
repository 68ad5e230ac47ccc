"""Client of an Interlace cluster over gRPC (interlace.v1)."""
from .client import Client, Stream

__all__ = ["Client", "Stream"]
